package registry

import (
	"errors"
	"time"

	"cocoon/contracts/exitcode"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Question is a verdict held against the registry's state.
type Question struct {
	Verdict     *verdictcell.Verdict
	Registry    toncell.Address // the address of this state
	GlobalID    int32           // of the network it was proven on
	VerifierFee uint64          // nanoton that the asker offers to the verifiers
	Now         time.Time       // the chain's time
}

// Answer returns what the contract would answer: its first reason against the
// verdict, or OK. It follows checkVerdict in
// contracts/tolk/registry_verdict.tolk line by line; a test holds the two
// against each other. What the job asks beside is job.State.Refuses.
func (s *State) Answer(q Question) exitcode.Code {
	if codes := s.reasons(q); len(codes) > 0 {
		return codes[0]
	}
	return exitcode.OK
}

// Check returns every reason against the verdict, joined; nil means that the
// registry would answer OK.
func (s *State) Check(q Question) error {
	var errs []error
	for _, c := range s.reasons(q) {
		errs = append(errs, c.Fault("holding the verdict against the registry"))
	}
	return errors.Join(errs...)
}

// reasons are in the contract's order.
func (s *State) reasons(q Question) []exitcode.Code {
	var out []exitcode.Code
	refuse := func(bad bool, c exitcode.Code) {
		if bad {
			out = append(out, c)
		}
	}
	c := &q.Verdict.Common
	refuse(s.Paused, exitcode.RegistryPaused)
	refuse(c.GlobalID != q.GlobalID, exitcode.VerdictGlobalID)
	refuse(c.Registry != q.Registry, exitcode.VerdictRegistry)
	refuse(s.TrustClasses&c.TrustClass.Bit() == 0, exitcode.TrustClassRefused)
	m, ok := s.Manifests[c.Manifest]
	w, waits := s.Waiting[ID{KindManifest, c.Manifest}]
	switch {
	case waits:
		refuse(q.Now.Before(w.From), exitcode.ManifestScheduled)
	case !ok:
		refuse(true, exitcode.ManifestUnknown)
	case m.State == Grace && !q.Now.Before(m.GraceUntil):
		refuse(true, exitcode.ManifestGraceOver)
	default:
		refuse(m.State != Active && m.State != Grace, exitcode.ManifestRevoked)
	}
	model, ok := s.Models[c.ModelRoot]
	w, waits = s.Waiting[ID{KindModel, c.ModelRoot}]
	refuse(!ok && !waits, exitcode.ModelUnknown)
	refuse(ok && !model.Active, exitcode.ModelRetired)
	refuse(waits && q.Now.Before(w.From), exitcode.ModelScheduled)
	_, ok = s.Policies[c.PolicyHash]
	w, waits = s.Waiting[ID{KindPolicy, c.PolicyHash}]
	refuse(!ok && !waits, exitcode.PolicyNotAccepted)
	refuse(waits && q.Now.Before(w.From), exitcode.PolicyScheduled)
	refuse(s.VerifierFee > q.VerifierFee, exitcode.VerifierFeeLow)
	return append(out, s.signatureReasons(q)...)
}

func (s *State) signatureReasons(q Question) []exitcode.Code {
	hash, err := q.Verdict.Hash()
	if err != nil {
		return []exitcode.Code{exitcode.SignatureList}
	}
	var out []exitcode.Code
	var from, until uint64 = 0, 1<<32 - 1
	verifiers := s.allVerifiers() // one that waits has a time that has not come
	for _, sig := range q.Verdict.Signatures {
		v, ok := verifiers[sig.KeyID]
		switch {
		case !ok:
			out = append(out, exitcode.VerifierUnknown)
			continue
		case !sig.Verify(v.Public, hash):
			out = append(out, exitcode.SignatureInvalid)
		case sig.ExpiresAt > sig.IssuedAt && sig.ExpiresAt-sig.IssuedAt > seconds(s.Freshness):
			out = append(out, exitcode.VerdictInterval)
		}
		from, until = max(from, unix(v.From), sig.IssuedAt), min(until, unix(v.Until), sig.ExpiresAt)
	}
	if len(q.Verdict.Signatures) < int(s.Threshold) {
		out = append(out, exitcode.SignaturesTooFew)
	}
	now := uint64(max(q.Now.Unix(), 0))
	if now < from {
		out = append(out, exitcode.VerdictNotYetValid)
	}
	if now >= until {
		out = append(out, exitcode.VerdictExpired)
	}
	return out
}

package registry

import (
	"errors"
	"fmt"
	"time"

	"cocoon/contracts/exitcode"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Question is a verdict held against the registry's state.
type Question struct {
	Verdict  *verdictcell.Verdict
	Registry toncell.Address // the address of this state
	GlobalID int32           // of the network it was proven on
	FeeBps   uint16          // gateway's share in the job's terms
	Now      time.Time       // the chain's time
}

// Answer returns what the contract would answer: its first reason against the
// verdict, or OK. It follows appraise in contracts/tolk/registry.tolk line by
// line; a test holds the two against each other.
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
	bit := c.TrustClass.Bit()
	refuse(bit == 0 || s.TrustClasses&bit == 0 || (c.TrustClass == verdictcell.VTPM && !s.Devnet), exitcode.TrustClassRefused)
	refuse(q.FeeBps > s.FeeCapBps, exitcode.FeeOverCap)

	m, ok := s.Manifests[c.Manifest]
	switch {
	case !ok:
		refuse(true, exitcode.ManifestUnknown)
	case m.State == Grace:
		refuse(!q.Now.Before(m.GraceUntil), exitcode.ManifestGraceOver)
	default:
		refuse(m.State != Active, exitcode.ManifestRevoked)
	}
	model, ok := s.Models[c.ModelRoot]
	refuse(!ok, exitcode.ModelUnknown)
	refuse(ok && !model.Active, exitcode.ModelRetired)
	return append(out, s.signatureReasons(q)...)
}

func (s *State) signatureReasons(q Question) []exitcode.Code {
	hash, err := q.Verdict.Hash()
	if err != nil {
		return []exitcode.Code{exitcode.SignatureList}
	}
	now := uint64(max(q.Now.Unix(), 0))
	var out []exitcode.Code
	for _, sig := range q.Verdict.Signatures {
		v, ok := s.Verifiers[sig.KeyID]
		switch {
		case !ok:
			out = append(out, exitcode.VerifierUnknown)
		case !sig.Verify(v.Public, hash):
			out = append(out, exitcode.SignatureInvalid)
		case now < sig.IssuedAt:
			out = append(out, exitcode.VerdictNotYetValid)
		case now >= sig.ExpiresAt:
			out = append(out, exitcode.VerdictExpired)
		case sig.ExpiresAt-sig.IssuedAt > seconds(s.Freshness):
			out = append(out, exitcode.VerdictInterval)
		}
	}
	if len(q.Verdict.Signatures) < int(s.Threshold) {
		out = append(out, exitcode.SignaturesTooFew)
	}
	return out
}

// String names the state's size for logs.
func (s *State) String() string {
	return fmt.Sprintf("registry version %d: %d of %d verifiers, %d manifests, %d models",
		s.Version, s.Threshold, len(s.Verifiers), len(s.Manifests), len(s.Models))
}

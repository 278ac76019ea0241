package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/verifier/policy"
)

// Verifiers holds the verdict that a worker shows against the verifiers of a
// registry: the keys, how many of them must have signed, and for how long, are
// what the registry's proven state says (DESIGN section 2: no single point
// decides). It comes beside the client's own appraisal, not instead of it.
type Verifiers struct {
	Registry  toncell.Address
	NetworkID int32
	// State returns the registry's proven state.
	State func(context.Context) (*registry.State, error)
	Clock func() time.Time // nil means time.Now
}

// Codes of faults.
const (
	codeNoVerdict      = "verdict.absent"
	codeVerdictForm    = "verdict.malformed"
	codeVerdictForeign = "verdict.foreign"
)

const remedyVerdict = "use another worker, or wait until this one has a verdict of the registry's verifiers"

// Check returns every reason against the verdict that the peer showed: that it
// speaks of other evidence, keys or measurements than the client has seen, and
// all that the registry would have against it now.
func (v *Verifiers) Check(ctx context.Context, peer *Peer) error {
	if peer.VerdictCell == "" {
		return fault.New(fault.ExitRefused, codeNoVerdict, remedyVerdict, "checking the worker's verdict: it shows none")
	}
	var cell verdictcell.Verdict
	if err := cell.UnmarshalText([]byte(peer.VerdictCell)); err != nil {
		return fault.New(fault.ExitParse, codeVerdictForm, remedyVerdict, "checking the worker's verdict: %w", err)
	}
	errs := []error{v.foreign(&cell.Common, peer)}
	s, err := v.State(ctx)
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("asking the registry about verifiers: %w", err))...)
	}
	now := time.Now
	if v.Clock != nil {
		now = v.Clock
	}
	errs = append(errs, s.Check(registry.Question{
		Verdict: &cell, Registry: v.Registry, GlobalID: v.NetworkID, Now: now(),
		VerifierFee: registry.MaxVerifierFee,
	}))
	return errors.Join(errs...)
}

// foreign compares what the verifiers signed with what the client has seen.
func (v *Verifiers) foreign(c *verdictcell.Common, peer *Peer) error {
	claims := &peer.Evidence.Claims
	var errs []error
	equal := func(what, want, got string) {
		if want != got {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, codeVerdictForeign, "the verdict's "+what, want, got, remedyVerdict))
		}
	}
	equal("evidence", digest.Sum256(peer.Document).String(), digest.SHA256(c.EvidenceSHA256).String())
	equal("receipt key", claims.ReceiptKey.String(), digest.SHA256(c.ReceiptKey).String())
	equal("model", claims.Model.VerityRoot.String(), digest.SHA256(c.ModelRoot).String())
	equal("trust class", policy.ClassOf(peer.Evidence.CPU.Type), c.TrustClass.String())
	payout, err := toncell.ParseAddress(claims.Payout)
	if err != nil {
		errs = append(errs, fault.New(fault.ExitRefused, codeVerdictForeign, remedyVerdict, "reading the worker's payout address: %w", err))
	} else {
		equal("payout", payout.String(), c.Payout.String())
	}
	return errors.Join(errs...)
}

// manifest returns the manifest that the peer's verdict names.
func (p *Peer) manifest() (digest.SHA256, error) {
	var cell verdictcell.Verdict
	if err := cell.UnmarshalText([]byte(p.VerdictCell)); err != nil {
		return digest.SHA256{}, fault.New(fault.ExitParse, codeVerdictForm, remedyVerdict, "reading the worker's verdict: %w", err)
	}
	return digest.SHA256(cell.Common.Manifest), nil
}

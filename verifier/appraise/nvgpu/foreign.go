package nvgpu

import (
	"context"
	"slices"
	"time"

	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

var _ appraise.ForeignGPU = (*Appraiser)(nil)

// recorded is the task of devices that somebody recorded. A single one is
// looked at for itself; several are one machine, whose wiring is checked. How
// many it has nobody claims.
func recorded(ev *evidence.Foreign) *task {
	t := &task{gpus: ev.GPUs, anyNonce: ev.GPUNonce == nil, partial: len(ev.GPUs) == 1, collateral: ev.Collateral}
	if ev.GPUNonce != nil {
		t.nonce = *ev.GPUNonce
	}
	return t
}

// AppraiseForeignGPUs verifies recorded devices and holds them against the
// policy. Their nonce is checked only where the record names one: it is none of
// this appraiser's in any case.
func (a *Appraiser) AppraiseForeignGPUs(ev *evidence.Foreign, p *policy.Policy, now time.Time) appraise.GPUResult {
	found, out := a.appraise(recorded(ev), nil, p, now)
	if found == nil {
		return out
	}
	out.Machine = append(out.Machine, slices.DeleteFunc(slices.Clone(found.Topology.Checks), func(c result.Check) bool { return c.ID == "gpu.ocsp.unused" })...)
	out.Measurements = map[string]string{}
	for i, d := range found.Devices {
		for name, v := range map[string]string{"driver": d.Driver, "vbios": d.VBIOS} {
			if v != "" {
				out.Measurements[result.SubGPU(i)+"."+name] = v
			}
		}
	}
	return out
}

// PrepareForeign asks the source for what the record does not bring.
func (a *Appraiser) PrepareForeign(ctx context.Context, ev *evidence.Foreign, p *policy.Policy, now time.Time) appraise.GPU {
	return a.prepared(ctx, recorded(ev), p, now)
}

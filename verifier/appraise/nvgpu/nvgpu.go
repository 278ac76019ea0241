// Package nvgpu appraises the NVIDIA GPUs and NVSwitches of evidence: it
// verifies what they signed for the nonce that the claims give, and holds it
// against the policy's nvgpu section, the config and the manifest's floors. In
// come parsed evidence and trusted options, out come the checks of package
// appraise's GPU.
//
// The binding is DESIGN section 2's: the devices sign
// evidence.Claims.GPUNonce, and the claims that the CPU's quote signs carry
// the hash of their evidence, which package appraise checks.
package nvgpu

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"cocoon/internal/jcs"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/evidence"
	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/policy"
	policynvgpu "cocoon/verifier/policy/nvgpu"
	"cocoon/verifier/result"
)

// Options of an Appraiser. They are never written to.
type Options struct {
	Roots    *nvgpu.Roots // pinned device roots; nil: NVIDIA's
	RIMRoots *rim.Roots   // pinned roots of RIM signers; nil: NVIDIA's
	Cache    *nvgpu.Cache // nil: nothing is kept
	// RIMs and OCSP are documents and responses that the appraiser has, beside
	// those that the evidence brings. Neither is trusted unverified.
	RIMs, OCSP [][]byte
	// Source gives further ones, such as Services; nil: none.
	Source Source
}

// Source gives reference documents and OCSP responses for devices that were
// verified as far as that goes without. It returns what it has, and says in a
// line where that came from and what is not to be had; "": it was not asked for
// anything. What is missing is reported by the checks. A nonce, where there is
// one, has to be in every OCSP response.
type Source interface {
	Collateral(ctx context.Context, devices []*nvgpu.Device, nonce []byte) (c Collateral, said string)
}

// checkSource says where RIMs and OCSP responses came from.
const checkSource = "gpu.collateral.source"

// Collateral is what evidence can bring along for its GPUs, as the member
// "nvgpu" of Evidence.Collateral.
type Collateral struct {
	RIMs [][]byte `json:"rims,omitempty"` // documents, base64
	OCSP [][]byte `json:"ocsp,omitempty"` // responses, DER in base64
}

// Appraiser implements appraise.GPU.
type Appraiser struct {
	o   Options
	got *got // what was fetched, of an appraiser for one piece of evidence
}

// got is what the source had, with the nonce that OCSP responses carry.
type got struct {
	Collateral
	said  string // of where it is from
	nonce []byte // nil: none is demanded
}

var _ appraise.GPUPreparer = (*Appraiser)(nil)

// Prepare asks the source for what the evidence does not bring. What is wrong
// with the evidence is left to the appraisal.
func (a *Appraiser) Prepare(ctx context.Context, ev *evidence.Evidence, p *policy.Policy, now time.Time) appraise.GPU {
	t, err := own(ev)
	if err != nil {
		return a
	}
	return a.prepared(ctx, t, p, now)
}

// prepared returns an appraiser that has what the source gives for a task.
func (a *Appraiser) prepared(ctx context.Context, t *task, p *policy.Policy, now time.Time) appraise.GPU {
	if a.o.Source == nil || p.NVGPU == nil {
		return a
	}
	return &Appraiser{o: a.o, got: a.ask(ctx, t.items(), a.options(t, &Collateral{}, p, now), p.NVGPU.OCSP.RequireNonce)}
}

// New returns an appraiser.
func New(o Options) *Appraiser { return &Appraiser{o: o} }

// TestRoots names the roots that are not NVIDIA's own.
func (a *Appraiser) TestRoots() []string {
	var out []string
	if !a.o.Roots.NVIDIA() {
		out = append(out, policy.RootNVIDIA)
	}
	if !a.o.RIMRoots.NVIDIA() {
		out = append(out, policy.RootNVIDIARIM)
	}
	return out
}

// task is what there is to appraise: the devices, and what they have to be.
type task struct {
	gpus       []evidence.GPU
	nonce      [32]byte
	anyNonce   bool
	count      int  // of GPUs; 0: not known
	partial    bool // they are not a whole machine
	mode       string
	collateral json.RawMessage
}

// own is the task of a machine that shows claims and config.
func own(ev *evidence.Evidence) (*task, error) {
	nonce, err := ev.Claims.GPUNonce()
	if err != nil {
		return nil, err
	}
	return &task{gpus: ev.GPUs, nonce: nonce, count: ev.Config.GPUs.Count, mode: ev.Config.GPUs.Mode, collateral: ev.Collateral}, nil
}

func (t *task) items() []nvgpu.Item {
	items := make([]nvgpu.Item, len(t.gpus))
	for i, g := range t.gpus {
		items[i] = nvgpu.Item{Report: g.Report, Chain: g.Chain}
	}
	return items
}

// AppraiseGPUs verifies and appraises all devices of the evidence. Without an
// nvgpu section in the policy every device is refused.
func (a *Appraiser) AppraiseGPUs(ev *evidence.Evidence, m *manifest.Verified, p *policy.Policy, now time.Time) appraise.GPUResult {
	t, err := own(ev)
	if err != nil {
		return refuse(len(ev.GPUs), "gpu.nonce", "claims that can be hashed", err.Error(), "the nonce cannot be computed", "report this")
	}
	var floors []manifest.GPUFloor
	if m != nil {
		floors = m.Manifest.GPUs
	}
	found, out := a.appraise(t, floors, p, now)
	if found != nil {
		out.Machine = append(out.Machine, machineChecks(found, t.mode)...)
	}
	return out
}

// refuse fails every device for one reason.
func refuse(devices int, id, expected, actual, reason, remedy string) appraise.GPUResult {
	r := appraise.GPUResult{GPUs: make([][]result.Check, devices)}
	for i := range r.GPUs {
		r.GPUs[i] = []result.Check{{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy}}
	}
	return r
}

// appraise verifies the devices and holds each against the policy; nil where
// they were not looked at.
func (a *Appraiser) appraise(t *task, floors []manifest.GPUFloor, p *policy.Policy, now time.Time) (*nvgpu.Machine, appraise.GPUResult) {
	if p.NVGPU == nil {
		return nil, refuse(len(t.gpus), "gpu.policy.section", "a section for NVIDIA GPUs", "none", "the policy accepts no GPU evidence", `add an "nvgpu" section to the policy`)
	}
	brought, err := collateralOf(t.collateral)
	if err != nil {
		return nil, refuse(len(t.gpus), "gpu.collateral.parse", `rims and ocsp in the member "nvgpu"`, err.Error(), "collateral for GPUs does not parse", "leave the evidence's collateral out, or correct it")
	}
	o, items := a.options(t, brought, p, now), t.items()
	fetched := a.got
	if fetched == nil && a.o.Source != nil {
		// An appraisal has no context: the source bounds its own time.
		fetched = a.ask(context.Background(), items, o, p.NVGPU.OCSP.RequireNonce)
	}
	if fetched != nil {
		if o.OCSPNonce = fetched.nonce; o.OCSPNonce != nil {
			o.OCSP = nil
		}
		// First what the source says: evidence must not crowd a revocation out.
		o.RIMs, o.OCSP = slices.Concat(fetched.RIMs, o.RIMs), slices.Concat(fetched.OCSP, o.OCSP)
	}
	found := nvgpu.Verify(items, o)
	out := appraise.GPUResult{NotAfter: found.NotAfter}
	if fetched != nil && fetched.said != "" {
		out.Machine = append(out.Machine, result.Check{ID: checkSource, Status: result.Pass, Actual: fetched.said})
	}
	for _, d := range found.Devices {
		out.Facts = append(out.Facts, d)
		checks := append(slices.Clone(d.Checks), p.NVGPU.Appraise(d, floors, o.OCSPNonce != nil)...)
		// What the policy allows to be missing is not a check that was made.
		out.GPUs = append(out.GPUs, slices.DeleteFunc(slices.Clone(checks), func(c result.Check) bool {
			return c.Status == result.Skip && policynvgpu.Waived(c.ID, checks)
		}))
	}
	return found, out
}

// options returns the options of the devices' verification.
func (a *Appraiser) options(t *task, brought *Collateral, p *policy.Policy, now time.Time) *nvgpu.Options {
	o := &nvgpu.Options{Roots: a.o.Roots, RIMRoots: a.o.RIMRoots, Now: now, Nonce: t.nonce, AnyNonce: t.anyNonce, GPUs: t.count, Cache: a.o.Cache,
		RIMs: slices.Concat(a.o.RIMs, brought.RIMs), OCSP: slices.Concat(a.o.OCSP, brought.OCSP)}
	p.NVGPU.Apply(o)
	o.Partial = t.partial // whatever the policy says of looking at single devices
	return o
}

// ask returns what the source has. Where the policy demands a nonce in OCSP
// responses, only those of the source, to a nonce of this appraisal, count.
func (a *Appraiser) ask(ctx context.Context, items []nvgpu.Item, o *nvgpu.Options, demandNonce bool) *got {
	bare := *o
	bare.RIMs, bare.OCSP = nil, nil
	out := &got{}
	if demandNonce {
		out.nonce = make([]byte, ocsp.MaxNonce)
		_, _ = rand.Read(out.nonce) // never fails: crypto/rand
	}
	devices := nvgpu.Verify(items, &bare).Devices
	appraise.Blocking(ctx, func() { out.Collateral, out.said = a.o.Source.Collateral(ctx, devices, out.nonce) })
	return out
}

// machineChecks returns the checks of the machine as a whole, with that of the
// config's mode: "on" is a mode of single devices, "ppcie" that of a board.
func machineChecks(m *nvgpu.Machine, mode string) []result.Check {
	checks := slices.DeleteFunc(slices.Clone(m.Topology.Checks), func(c result.Check) bool { return c.ID == "gpu.ocsp.unused" })
	c := result.Check{ID: "gpu.config.mode", Status: result.Pass, Expected: mode, Actual: string(m.Topology.Mode)}
	good := mode == "on" && (m.Topology.Mode == nvgpu.SPT || m.Topology.Mode == nvgpu.MPT) || mode == "ppcie" && m.Topology.Mode == nvgpu.PPCIE
	if !good {
		if c.Actual == "" {
			c.Actual = "no mode that is known"
		}
		c.Status, c.Reason, c.Remedy = result.Fail, "the GPUs are in another mode than the config says", "set the mode of the config on all GPUs, or correct the config"
	}
	return append(checks, c)
}

// collateralOf reads what the evidence brings for its GPUs. Members of other
// rooms are not looked at.
func collateralOf(doc json.RawMessage) (*Collateral, error) {
	if len(doc) == 0 {
		return &Collateral{}, nil
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(doc, &members); err != nil {
		return nil, fmt.Errorf("reading collateral: %w", err)
	}
	var c Collateral
	if own, ok := members["nvgpu"]; ok {
		if err := jcs.Decode(own, evidence.MaxEvidence, &c); err != nil {
			return nil, fmt.Errorf("reading collateral: %w", err)
		}
	}
	return &c, nil
}

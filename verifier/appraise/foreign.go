package appraise

import (
	"cmp"
	"fmt"
	"maps"
	"strings"
	"time"

	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// ForeignCPU is a CPU appraiser that also reads recorded evidence of machines
// that are none of ours.
type ForeignCPU interface {
	// AppraiseForeign returns the checks of cpu0: cryptography, TCB, policy, and
	// what log there is against the registers.
	AppraiseForeign(ev *evidence.Foreign, p *policy.Policy, now time.Time) CPUResult
}

// ForeignGPU is the same for GPUs: certificates, signature, revocation,
// measurements, policy. Nothing says that they are of one machine with the CPU.
type ForeignGPU interface {
	AppraiseForeignGPUs(ev *evidence.Foreign, p *policy.Policy, now time.Time) GPUResult
}

// AppraiseForeign holds recorded evidence against the policy's TCB rules at a
// time. The result is never accepted and never affirming: nothing binds such
// evidence to a key, a config or an image, and it answers no challenge, so that
// anyone can show it. Manifests, challenges and rules are not looked at.
func AppraiseForeign(ev *evidence.Foreign, o *Options) *result.Result {
	r, _, _ := appraiseForeign(ev, o)
	return r
}

// appraiseForeign also returns the CPU appraiser's facts and the end of what the
// appraisers rest on, zero where they state none.
func appraiseForeign(ev *evidence.Foreign, o *Options) (*result.Result, any, time.Time) {
	r := &result.Result{Foreign: true, Time: now(o).UTC().Truncate(time.Second), TestRoots: TestRoots(o.CPUs, o.GPUs),
		Measurements: map[string]string{}, Submods: map[string]*result.Submod{}, PolicySHA256: o.PolicySHA256}
	r.NotAfter = r.Time
	f := &foreign{appraisal: appraisal{o: o, now: r.Time, roots: r.TestRoots, subs: map[string]*[]result.Check{}}, ev: ev, first: result.SubGPU(0)}
	if ev.CPU != nil {
		r.TrustClass, f.first = policy.Class(ev.CPU.Type, r.TestRoots), result.SubCPU
	}
	h, err := ev.Hash()
	if err != nil {
		f.fail(f.first, "evidence.parse", "evidence that can be encoded", oneLine(err), "evidence cannot be encoded", RemedyEncoding)
	}
	r.EvidenceSHA256 = h
	f.skip(f.first, checkUnbound, "recorded evidence names no key and answers no challenge: it is no proof that such a machine runs")
	if o.Policy == nil {
		f.fail(f.first, "policy.missing", "a policy", "none", "nothing is appraised without a policy", "give a policy")
	} else {
		if r.PolicySHA256.IsZero() {
			if r.PolicySHA256, err = o.Policy.Hash(); err != nil {
				f.fail(f.first, "policy.missing", "a policy that can be hashed", oneLine(err), "the policy has no identity", "correct the policy")
			}
		}
		f.checkRoots(f.first)
		f.cpu(r)
		f.gpus(r)
	}
	if f.until.After(r.NotAfter) {
		r.NotAfter = f.until.UTC().Truncate(time.Second)
	}
	for name, checks := range f.subs {
		v := result.Vector{result.Hardware: result.ValueWarning}
		for _, c := range *checks {
			if c.Status == result.Fail {
				v[result.Hardware] = result.ValueContraindicated
			}
		}
		list := result.Ordered(*checks)
		result.Cite(list)
		r.Submods[name] = &result.Submod{Status: v.Status(), Vector: v, Checks: list}
	}
	r.Development = policy.DevelopmentClass(r.TrustClass)
	return r, f.cpuFacts, f.until
}

// foreign is one appraisal of recorded evidence.
type foreign struct {
	appraisal
	ev    *evidence.Foreign
	first string    // submodule of what is said of the evidence as a whole
	until time.Time // zero: nothing bounds it
}

func (f *foreign) end(t time.Time) {
	if !t.IsZero() && (f.until.IsZero() || t.Before(f.until)) {
		f.until = t
	}
}

func (f *foreign) cpu(r *result.Result) {
	if f.ev.CPU == nil {
		return
	}
	cpu, ok := f.o.CPUs[f.ev.CPU.Type].(ForeignCPU)
	if !ok {
		f.fail(result.SubCPU, "evidence.type.unsupported", cmp.Or(strings.Join(f.o.foreignTypes(), ", "), "none"), fmt.Sprintf("%.32q", f.ev.CPU.Type),
			"this appraiser does not read recorded evidence of this type", "use a verifier that reads it")
		return
	}
	c := cpu.AppraiseForeign(f.ev, f.o.Policy, r.Time)
	if len(c.CPU) == 0 {
		f.fail(result.SubCPU, "evidence.cpu.unchecked", "checks of the quote", "none", "the appraiser of this CPU type made no checks", "report this")
	}
	r.TrustClass = policy.Class(c.TrustClass, r.TestRoots)
	f.add(result.SubCPU, c.CPU...)
	maps.Copy(r.Measurements, c.Measurements)
	f.cpuFacts = c.Facts
	f.end(c.NotAfter)
}

// gpus appraises each device. What is said of all of them together stands with
// the first: there is no config that it could be about.
func (f *foreign) gpus(r *result.Result) {
	if len(f.ev.GPUs) == 0 {
		return
	}
	gpus, ok := f.o.GPUs.(ForeignGPU)
	if !ok {
		for i := range f.ev.GPUs {
			f.fail(result.SubGPU(i), "gpu.unsupported", "GPU evidence that this appraiser reads", "none", "this appraiser reads no GPU evidence", "use a verifier with GPU support")
		}
		return
	}
	g := gpus.AppraiseForeignGPUs(f.ev, f.o.Policy, r.Time)
	f.add(result.SubGPU(0), g.Machine...)
	for i := range f.ev.GPUs {
		if i >= len(g.GPUs) || len(g.GPUs[i]) == 0 {
			f.fail(result.SubGPU(i), "gpu.unchecked", "checks of the device", "none", "the appraiser made no checks of this device", "report this")
			continue
		}
		f.add(result.SubGPU(i), g.GPUs[i]...)
	}
	maps.Copy(r.Measurements, g.Measurements)
	f.end(g.NotAfter)
}

// checkUnbound says what recorded evidence is not.
const checkUnbound = "foreign.unbound"

func (o *Options) foreignTypes() []string {
	var out []string
	for _, t := range []string{evidence.TypeTDX, evidence.TypeSNP, evidence.TypeSGX, evidence.TypeAzTDX, evidence.TypeAzSNP} {
		if _, ok := o.CPUs[t].(ForeignCPU); ok {
			out = append(out, t)
		}
	}
	return out
}

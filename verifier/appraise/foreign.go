package appraise

import (
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

// AppraiseForeign holds recorded evidence against the policy's TCB rules at a
// time. The result is never accepted and never affirming: nothing binds such
// evidence to a key, a config or an image, and it answers no challenge, so that
// anyone can show it. Manifests, challenges and rules are not looked at.
func AppraiseForeign(ev *evidence.Foreign, o *Options) *result.Result {
	r, _, _ := appraiseForeign(ev, o)
	return r
}

// appraiseForeign also returns the appraiser's facts and its end, zero where it
// states none.
func appraiseForeign(ev *evidence.Foreign, o *Options) (*result.Result, any, time.Time) {
	r := &result.Result{Foreign: true, Time: now(o).UTC().Truncate(time.Second), TestRoots: TestRoots(o.CPUs, nil),
		Measurements: map[string]string{}, Submods: map[string]*result.Submod{}, PolicySHA256: o.PolicySHA256}
	r.NotAfter = r.Time
	r.TrustClass = policy.Class(ev.CPU.Type, r.TestRoots)
	a := &appraisal{o: o, now: r.Time, roots: r.TestRoots, subs: map[string]*[]result.Check{result.SubCPU: new([]result.Check)}}
	h, err := ev.Hash()
	if err != nil {
		a.fail(result.SubCPU, "evidence.parse", "evidence that can be encoded", oneLine(err), "evidence cannot be encoded", "")
	}
	r.EvidenceSHA256 = h
	a.skip(result.SubCPU, checkUnbound, "recorded evidence names no key and answers no challenge: it is no proof that such a machine runs")
	var c CPUResult
	cpu, ok := o.CPUs[ev.CPU.Type].(ForeignCPU)
	switch {
	case o.Policy == nil:
		a.fail(result.SubCPU, "policy.missing", "a policy", "none", "nothing is appraised without a policy", "give a policy")
	case !ok:
		a.fail(result.SubCPU, "evidence.type.unsupported", strings.Join(o.foreignTypes(), ", "), fmt.Sprintf("%.32q", ev.CPU.Type),
			"this appraiser does not read recorded evidence of this type", "use a verifier that reads it")
	default:
		if r.PolicySHA256.IsZero() {
			if r.PolicySHA256, err = o.Policy.Hash(); err != nil {
				a.fail(result.SubCPU, "policy.missing", "a policy that can be hashed", oneLine(err), "the policy has no identity", "correct the policy")
			}
		}
		c = cpu.AppraiseForeign(ev, o.Policy, r.Time)
		if len(c.CPU) == 0 {
			a.fail(result.SubCPU, "evidence.cpu.unchecked", "checks of the quote", "none", "the appraiser of this CPU type made no checks", "report this")
		}
		r.TrustClass = policy.Class(c.TrustClass, r.TestRoots)
		a.checkRoots()
		a.add(result.SubCPU, c.CPU...)
		maps.Copy(r.Measurements, c.Measurements)
		if c.NotAfter.After(r.NotAfter) {
			r.NotAfter = c.NotAfter.UTC().Truncate(time.Second)
		}
	}
	v := result.Vector{result.Hardware: result.ValueWarning}
	for _, c := range *a.subs[result.SubCPU] {
		if c.Status == result.Fail {
			v[result.Hardware] = result.ValueContraindicated
		}
	}
	result.Cite(*a.subs[result.SubCPU])
	r.Development = policy.DevelopmentClass(r.TrustClass)
	r.Submods[result.SubCPU] = &result.Submod{Status: v.Status(), Vector: v, Checks: *a.subs[result.SubCPU]}
	return r, c.Facts, c.NotAfter
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

package appraise

import (
	"time"

	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// Platform is what an appraisal of a platform alone found.
type Platform struct {
	Result *result.Result
	// Good says that nothing failed and nothing was left out. The result itself
	// is never accepted: no manifest was looked at.
	Good  bool
	Facts any // of the CPU appraiser
}

// AppraisePlatform holds a quote against the policy without claims, config and
// manifests: what it says is which hardware made the quote and what the
// registers are, never what runs there. bind returns the checks of what the
// quote was made over; it sees the registers, none where the quote does not
// parse. A challenge is always wanted.
//
// The best status is a warning: what is not held against published
// measurements is not affirmed (draft-ietf-rats-ar4si, section 2.3.2).
func AppraisePlatform(ev *evidence.Foreign, o *Options, bind func(map[string]string) []result.Check) *Platform {
	r, facts, bound := appraiseForeign(ev, o)
	r.Foreign = false
	out := &Platform{Result: r, Facts: facts}
	cpu := r.Submods[result.SubCPU]
	checks := cpu.Checks[:0]
	for _, c := range cpu.Checks {
		if c.ID != checkUnbound { // this one answers a challenge, below
			checks = append(checks, c)
		}
	}
	a := &appraisal{o: o, now: r.Time, roots: r.TestRoots, subs: map[string]*[]result.Check{result.SubCPU: &checks}}
	if len(o.Challenges) == 0 {
		actual := o.NoChallenge
		if actual == "" {
			actual = "none given"
		}
		a.fail(result.SubCPU, "nonce.challenge", "a challenge of this appraiser", actual, "the quote answers no challenge", "ask the appraiser for a challenge and quote with it")
	} else {
		a.pass(result.SubCPU, "nonce.challenge", o.Challenges[0].String())
	}
	a.add(result.SubCPU, bind(r.Measurements)...)
	if o.Policy != nil {
		a.checkClass(r.TrustClass)
		a.cpuFacts = facts
		a.checkRules(r)
		// From the policy's time to the collateral's end, whichever is first.
		end := a.now.Add(verdictLife(o.Policy))
		if !bound.IsZero() && bound.Before(end) {
			end = bound
		}
		r.NotAfter = end.UTC().Truncate(time.Second)
	}
	out.Good = r.NotAfter.After(a.now)
	for _, c := range checks {
		out.Good = out.Good && c.Status == result.Pass
	}
	v := result.Vector{result.Hardware: result.ValueWarning}
	if !out.Good {
		v[result.Hardware] = result.ValueContraindicated
	}
	checks = result.Ordered(checks)
	result.Cite(checks)
	cpu.Checks, cpu.Vector, cpu.Status = checks, v, v.Status()
	r.Development = policy.DevelopmentClass(r.TrustClass)
	return out
}

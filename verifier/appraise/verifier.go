package appraise

import (
	"encoding/hex"
	"encoding/json"

	"cocoon/verifier/result"
	"cocoon/verifier/self"
)

// AppraiseVerifier holds the evidence of the machine that a verifier runs in
// against the policy: its TEE and TCB, as AppraiseForeign does, its trust class and
// the policy's rules, and that the TEE signed the document's claims. The result is
// never accepted, for no manifest says what runs there: its registers are for
// whoever knows what they should be.
// That the claims are of the verifier's keys is Document.Bound's to say, and how
// old they are Document.Fresh's.
//
// The document brings no collateral: it is the caller's, or nil where o's
// appraisers have it (PrepareForeign).
func AppraiseVerifier(d *self.Document, collateral json.RawMessage, o *Options) *result.Result {
	ev := d.Foreign()
	ev.Collateral = collateral
	r, facts, _ := appraiseForeign(ev, o)
	cpu := r.Submods[result.SubCPU]
	checks := cpu.Checks[:0]
	for _, c := range cpu.Checks {
		if c.ID != checkUnbound { // this one names keys
			checks = append(checks, c)
		}
	}
	a := &appraisal{o: o, now: r.Time, roots: r.TestRoots, subs: map[string]*[]result.Check{result.SubCPU: &checks}}
	id := d.CPU.Type + ".report_data" // "tdx.report_data", "snp.report_data"
	want, err := d.Claims.ReportData()
	switch got := r.Measurements["report_data"]; {
	case err != nil:
		a.fail(result.SubCPU, id, "claims that can be encoded", oneLine(err), "the claims have no hash", "")
	case got != hex.EncodeToString(want[:]):
		a.fail(result.SubCPU, id, hex.EncodeToString(want[:]), got, "the TEE signed something else than these claims", "do not believe this verifier's evidence")
	default:
		a.pass(result.SubCPU, id, got)
	}
	if o.Policy != nil {
		a.checkClass(r.TrustClass)
		a.cpuFacts = facts
		a.checkRules(r)
	}
	v := result.Vector{result.Hardware: result.ValueWarning}
	for _, c := range checks {
		if c.Status == result.Fail {
			v[result.Hardware] = result.ValueContraindicated
		}
	}
	checks = result.Ordered(checks)
	result.Cite(checks)
	cpu.Checks, cpu.Vector, cpu.Status = checks, v, v.Status()
	return r
}

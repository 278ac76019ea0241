package result_test

import (
	"slices"
	"testing"

	"cocoon/verifier/result"
)

func TestChecksAreShownInTheOrderOfTheAppraisal(t *testing.T) {
	want := []string{
		"evidence.profile", "tdx.quote.parse", "dcap.pck.chain", "tdx.quote.signature", "tdx.tcb.out_of_date", "tdx.report_data", "claims.keys",
		"claims.nonce", "nonce.challenge", "claims.gpu_evidence_sha256", "gpu.nonce", "tdx.event_log.replay", "tdx.runtime_events",
		"manifest.revoked", "rtmr.1", "registry.state", "config.engine.kind", "model.name", "policy.trust_class", "gpu.policy.fwid", "policy.rule.x", "something.else",
	}
	var checks []result.Check
	for _, id := range want {
		checks = append(checks, result.Check{ID: id})
	}
	mixed := slices.Clone(checks)
	slices.Reverse(mixed)
	slices.SortStableFunc(mixed, func(a, b result.Check) int { return len(a.ID) - len(b.ID) })
	ids := func(cs []result.Check) (out []result.Stage) {
		for _, c := range cs {
			out = append(out, result.StageOf(c.ID))
		}
		return out
	}
	if got := ids(result.Ordered(mixed)); !slices.IsSorted(got) || len(got) != len(want) {
		t.Errorf("stages %v", got)
	}
	if got := result.Ordered(checks); !slices.Equal(ids(got), ids(checks)) || got[0].ID != want[0] || got[len(got)-1].ID != "something.else" {
		t.Errorf("what is in order is changed: %v", got)
	}
	r := &result.Result{Submods: map[string]*result.Submod{
		result.SubCPU:    {Checks: []result.Check{{ID: "policy.trust_class", Status: result.Fail}, {ID: "evidence.profile", Status: result.Fail}}},
		result.SubGPU(0): {Checks: []result.Check{{ID: "gpu.nonce", Status: result.Fail}}},
		result.SubModel:  {Checks: []result.Check{{ID: "model.name", Status: result.Fail}}},
	}}
	for name, list := range map[string][]result.Check{"all": r.Checks(), "failed": r.Failed()} {
		if len(list) != 4 || !slices.IsSorted(ids(list)) {
			t.Errorf("%s: %v", name, list)
		}
	}
}

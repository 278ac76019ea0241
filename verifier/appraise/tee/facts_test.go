package tee_test

import (
	"slices"
	"testing"

	"cocoon/verifier/policy/rules"
)

// TestRulesSeeWhatTheQuoteSays holds a TD against rules over its facts.
func TestRulesSeeWhatTheQuoteSays(t *testing.T) {
	for expression, want := range map[string]bool{
		`cpu.tee == "tdx" && cpu.version == 4 && !cpu.debug`: true,
		`cpu.tcb.status == "UpToDate"`:                       true,
		`cpu.tcb.evaluation >= 1`:                            true,
		`!has(cpu.tcb.advisories)`:                           true,
		`cpu.platform.fmspc == "90c06f000000"`:               true,
		`cpu.platform.fmspc == "000000000000"`:               false,
		`cpu.platform.pcesvn >= 1`:                           true,
		`measurements["mrtd"].size() == 96`:                  true,
		`cpu.tcb.status != "UpToDate"`:                       false,
		`!has(cpu.checks)`:                                   true,
		`cpu.vmpl == 0`:                                      false, // an SNP guest's
		`size(gpus) == 0`:                                    true,
	} {
		w := newWorld(t)
		w.published(t)
		w.Policy.Rules = []rules.Rule{{ID: "it", Expression: expression, Reason: "r"}}
		r := w.appraise(t, w.evidence(t))
		if bad := slices.Contains(failed(r), "policy.rule.it"); bad == want || r.Accepted != want {
			t.Errorf("%s: accepted %v, failed %v", expression, r.Accepted, failed(r))
		}
	}
}

// TestFailuresInFivePlacesAreAllReturned spoils signature, claims, config, model
// and register of one TD.
func TestFailuresInFivePlacesAreAllReturned(t *testing.T) {
	w := newWorld(t)
	w.published(t)
	w.log[3].Of = "another kernel"
	ev := w.evidence(t)
	ev.CPU.Quote[200] ^= 1
	ev.Claims.ReceiptKey[0] ^= 1
	ev.Config.NetworkID = 77
	ev.Config.Model.Name = "another"
	r := w.appraise(t, ev)
	got := failed(r)
	for _, id := range []string{"tdx.quote.signature", "tdx.report_data", "claims.config_sha256", "claims.model", "config.network_id", "model.name", "rtmr.1"} {
		if !slices.Contains(got, id) {
			t.Errorf("%s is not among the failures %v", id, got)
		}
	}
}

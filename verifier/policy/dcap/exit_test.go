package dcap

import (
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
)

func TestExitCodesOfChecks(t *testing.T) {
	for id, want := range map[string]int{
		"policy.tdx.mrtd":             fault.ExitPolicy,
		"policy.sgx.section":          fault.ExitPolicy,
		"tdx.tcb.out_of_date":         fault.ExitPolicy,
		"sgx.tcb.sw_hardening_needed": fault.ExitPolicy,
		"tdx.tcb.revoked":             fault.ExitRefused,
		"tdx.tcb.not_supported":       fault.ExitRefused,
		"tdx.tcb.something_else":      fault.ExitRefused,
		"tdx.report_data":             fault.ExitRefused,
		"tdx.quote.signature":         fault.ExitRefused,
		"dcap.collateral.expired":     fault.ExitRefused,
		"dcap.collateral.parse":       fault.ExitParse,
		"claims.nonce":                fault.ExitRefused,
	} {
		if got := result.ExitOf(id); got != want {
			t.Errorf("result.ExitOf(%s) = %d, want %d", id, got, want)
		}
	}
}

func TestFaultsKeepEveryFailure(t *testing.T) {
	fs := Faults([]result.Check{
		{ID: "tdx.quote.signature", Status: result.Pass},
		{ID: "policy.tdx.mrtd", Status: result.Fail, Reason: "r", Expected: "a", Actual: "b", Remedy: "m"},
		{ID: "tdx.report_data", Status: result.Fail},
		{ID: "policy.tdx.smt", Status: result.Skip},
	})
	if len(fs) != 2 || fs[0].Code != "policy.tdx.mrtd" || fs[0].Remedy != "m" || fs[1].Exit != fault.ExitRefused {
		t.Errorf("faults are %v", fs)
	}
}

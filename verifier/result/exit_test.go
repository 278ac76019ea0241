package result_test

import (
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
)

func TestChecksOfSNPHaveExitCodes(t *testing.T) {
	for id, want := range map[string]int{
		"snp.signature": fault.ExitRefused, "snp.tcb.reported": fault.ExitRefused, "snp.report_data": fault.ExitRefused,
		"snp.cert.missing": fault.ExitRefused, "snp.report.parse": fault.ExitParse, "snp.crl.parse": fault.ExitParse,
		"snp.kds.rate_limited": fault.ExitNetwork, "policy.snp.debug": fault.ExitPolicy, "policy.snp.tcb.reported": fault.ExitPolicy,
	} {
		if got := result.ExitOf(id); got != want {
			t.Errorf("%s exits %d, want %d", id, got, want)
		}
	}
}

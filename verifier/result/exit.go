package result

import (
	"strings"

	"cocoon/internal/fault"
	"cocoon/verifier/tcb"
)

// policyPrefixes are the checks that compare good evidence with what a policy
// or a manifest wants; every other check is one of cryptography or binding
// (DESIGN section 8).
var policyPrefixes = []string{
	"policy.", "registry.", "manifest.", "image.", "firmware.", "pcr.", "rtmr.", "config.", "model.", "gpu.policy.", "tpm.ak.lifetime",
}

// ExitOf returns the exit code that goes with a failed check.
func ExitOf(id string) int {
	if strings.HasSuffix(id, ".parse") {
		return fault.ExitParse
	}
	// The KDS not answering is no word on the evidence.
	if strings.HasPrefix(id, "snp.kds.") {
		return fault.ExitNetwork
	}
	for _, tee := range []string{"tdx", "sgx"} {
		// A failed check of a TCB status has the status as its ID's end:
		// Revoked and NotSupported are refused, every other is for policy.
		code, ok := strings.CutPrefix(id, tee+".tcb.")
		if !ok {
			continue
		}
		for _, s := range tcb.Statuses() {
			if s.Code() == code {
				return s.Fault(tee).Exit
			}
		}
	}
	for _, p := range policyPrefixes {
		if strings.HasPrefix(id, p) {
			return fault.ExitPolicy
		}
	}
	return fault.ExitRefused
}

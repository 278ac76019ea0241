package dcap

import (
	"strings"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
	"cocoon/verifier/tcb"
)

// ExitOf returns the exit code of a failed check of an appraisal or of the
// verification before it: 2 for cryptography, binding, Revoked and
// NotSupported, 4 for every other status and for policy (DESIGN section 8).
func ExitOf(id string) int {
	for _, tee := range []string{"tdx", "sgx"} {
		if strings.HasPrefix(id, "policy."+tee+".") {
			return fault.ExitPolicy
		}
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
	return fault.ExitRefused
}

// Faults returns a fault for each failed check, nil if there is none.
func Faults(checks []result.Check) []*fault.Fault {
	var fs []*fault.Fault
	for _, c := range checks {
		if c.Status == result.Fail {
			fs = append(fs, &fault.Fault{Code: c.ID, Exit: ExitOf(c.ID), Msg: c.Reason,
				Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy})
		}
	}
	return fs
}

package dcap

import (
	"cocoon/internal/fault"
	"cocoon/verifier/result"
)

// Faults returns a fault for each failed check of an appraisal, or of the
// verification before it; nil if there is none.
func Faults(checks []result.Check) []*fault.Fault {
	var fs []*fault.Fault
	for _, c := range checks {
		if c.Status == result.Fail {
			fs = append(fs, &fault.Fault{Code: c.ID, Exit: result.ExitOf(c.ID), Msg: c.Reason,
				Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy})
		}
	}
	return fs
}

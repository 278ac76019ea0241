package result

import (
	"strings"

	"cocoon/internal/fault"
)

// policyPrefixes are the checks that compare good evidence with what a policy
// or a manifest wants; every other check is one of cryptography or binding
// (DESIGN section 8).
var policyPrefixes = []string{
	"policy.", "manifest.", "image.", "firmware.", "pcr.", "config.", "model.", "gpu.policy.", "tpm.ak.lifetime",
}

// ExitOf returns the exit code that goes with a failed check.
func ExitOf(id string) int {
	if id == "evidence.parse" {
		return fault.ExitParse
	}
	for _, p := range policyPrefixes {
		if strings.HasPrefix(id, p) {
			return fault.ExitPolicy
		}
	}
	return fault.ExitRefused
}

package policy

import (
	"strings"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Codes of the faults that Check returns.
const (
	CodeParse   = "policy.parse"   // not the strict JSON of a policy
	CodeInvalid = "policy.invalid" // a value is missing, out of range or contradicts another
)

// Check reads a policy as Parse does and returns everything that is wrong with
// it, a fault for each; none if it is valid. The policy is nil where the
// document does not parse.
func Check(doc []byte) (*Policy, []*fault.Fault) {
	var p Policy
	if err := jcs.Decode(doc, MaxSize, &p); err != nil {
		return nil, []*fault.Fault{fault.New(fault.ExitParse, CodeParse, "the keys are described in docs/policy.md", "parsing policy: %w", err)}
	}
	var out []*fault.Fault
	for _, err := range leaves(p.Validate(), "") {
		out = append(out, fault.New(fault.ExitParse, CodeInvalid, "correct the policy: docs/policy.md", "%s", err))
	}
	return &p, out
}

// leaves returns the messages of the errors that are joined in err, also under
// errors that only say where they are: "dcap: " before a joined list becomes
// "dcap: " before each.
func leaves(err error, prefix string) []string {
	switch e := err.(type) {
	case nil:
		return nil
	case interface{ Unwrap() []error }:
		var out []string
		for _, sub := range e.Unwrap() {
			out = append(out, leaves(sub, prefix)...)
		}
		return out
	case interface{ Unwrap() error }:
		sub := e.Unwrap()
		if sub != nil && strings.Contains(sub.Error(), "\n") {
			if head, ok := strings.CutSuffix(err.Error(), sub.Error()); ok {
				return leaves(sub, prefix+head)
			}
		}
	}
	return []string{prefix + strings.ReplaceAll(err.Error(), "\n", " ")}
}

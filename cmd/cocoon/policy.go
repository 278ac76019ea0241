package main

import (
	"errors"

	"github.com/spf13/cobra"

	"cocoon/verifier/policy"
)

// newPolicyCmd is the parent of what concerns policies: the documents that say
// what a verifier or a client accepts.
func newPolicyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "show, check, explain and test policies", Args: cobra.NoArgs}
	cmd.AddCommand(newPolicyShowCmd(), newPolicyCheckCmd(), newPolicyExplainCmd(), newPolicyTestCmd())
	return cmd
}

// readPolicy reads a valid policy; the error joins everything that is wrong
// with it.
func readPolicy(path string) (*policy.Policy, error) {
	doc, err := readInput("policy", path, policy.MaxSize)
	if err != nil {
		return nil, err
	}
	p, faults := policy.Check(doc)
	var errs []error
	for _, f := range faults {
		errs = append(errs, f)
	}
	return p, errors.Join(errs...)
}

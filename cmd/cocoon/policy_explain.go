package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cocoon/verifier/policy/explain"
)

func newPolicyExplainCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "explain FILE",
		Short: "say in sentences what a policy accepts and refuses",
		Long: `Says section by section what a policy accepts and refuses, and what follows from
what it leaves out.

Exit codes: 0 done; 1 usage; 5 the policy is not valid.`,
		Example: `  cocoon policy explain policy.json
  cocoon policy explain policy.json --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := readPolicy(args[0])
			if err != nil {
				return err
			}
			sections := explain.Policy(p)
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]any{"name": p.Name, "sections": sections})
			}
			out := cmd.OutOrStdout()
			for i, s := range sections {
				if i > 0 {
					fmt.Fprintln(out)
				}
				fmt.Fprintln(out, s.Title)
				for _, l := range s.Lines {
					fmt.Fprintln(out, "  "+plain(l))
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the explanation as JSON")
	return cmd
}

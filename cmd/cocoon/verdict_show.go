package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"cocoon/verifier/result"
)

func newVerdictShowCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show TOKEN|FILE|-",
		Short: "show what a verdict says, without believing it",
		Long: `Shows a verdict's claims, and every check where they came with it: the token has
the hash of the checks alone, a verifier's answer (JSON with "ear" and "checks")
has both. Neither signature nor dates are verified: use "cocoon verdict verify"
for that.

Exit codes: 0 done; 1 usage; 5 not a verdict.`,
		Example: `  cocoon verdict show verdict.jwt
  cocoon verdict show verdict.json
  cocoon verdict show verdict.jwt --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			v, err := readVerdict(cmd.InOrStdin(), args[0])
			if err != nil {
				return err
			}
			e, err := result.ParseEAR(v.EAR)
			if err == nil {
				err = v.open(e)
			}
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), e)
			}
			fmt.Fprintln(cmd.OutOrStdout(), "NOT VERIFIED: this is what the token says")
			return verdictLines(cmd.OutOrStdout(), e)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the claims as JSON")
	return cmd
}

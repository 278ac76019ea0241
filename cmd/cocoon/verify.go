package main

import (
	"github.com/spf13/cobra"
)

// newVerifyCmd is the parent of what verifies: a subcommand for each kind of
// evidence. With a bundle and verifiers it asks them, as "cocoon appraise" does.
func newVerifyCmd() *cobra.Command {
	ask := newAppraiseCmd()
	cmd := &cobra.Command{
		Use:   "verify [BUNDLE.json --verifier URL --quorum K (--jwks FILE|URL | --key HEX)]",
		Short: "verify quotes, reports and evidence, here or by verifiers that agree",
		Long: `The subcommands verify here, by themselves. With a bundle of evidence and
--verifier it asks several verifiers and compares what they say:

` + ask.Long,
		Example: `  cocoon verify evidence --help
  cocoon verify evidence.json --verifier https://a.example --verifier https://b.example --key 3b6a… --key 77ab… --quorum 2`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) == 0:
				return cmd.Help()
			case !cmd.Flags().Changed("verifier"):
				return usage("%q is no kind of evidence: see --help; to have verifiers appraise a bundle give --verifier", args[0])
			}
			return ask.RunE(cmd, args)
		},
	}
	cmd.Flags().AddFlagSet(ask.Flags())
	delete(cmd.Flags().Lookup("verifier").Annotations, cobra.BashCompOneRequiredFlag)
	cmd.AddCommand(
		newVerifyQuoteCmd("tdx"),
		newVerifyQuoteCmd("sgx"),
		newVerifySNPCmd(),
		newVerifyTPMCmd(),
		newVerifyEvidenceCmd(),
		newVerifyServiceCmd(),
		newVerifyGPUCmd(),
		newVerifyRIMCmd(),
	)
	return cmd
}

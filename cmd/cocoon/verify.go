package main

import "github.com/spf13/cobra"

// newVerifyCmd is the parent of what verifies: a subcommand for each kind of
// evidence.
func newVerifyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "verify quotes, reports and evidence",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(
		newVerifyQuoteCmd("tdx"),
		newVerifyQuoteCmd("sgx"),
		newVerifySNPCmd(),
		newVerifyTPMCmd(),
		newVerifyEvidenceCmd(),
	)
	return cmd
}

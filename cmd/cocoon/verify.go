package main

import "github.com/spf13/cobra"

// newVerifyCmd is the parent of what verifies: a subcommand for each kind of
// evidence.
func newVerifyCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "verify",
		Short: "verify quotes and evidence",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(
		newVerifyQuoteCmd("tdx"),
		newVerifyQuoteCmd("sgx"),
		newVerifyTPMCmd(),
		newVerifyEvidenceCmd(),
	)
	return cmd
}

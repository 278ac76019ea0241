package main

import (
	"crypto/ed25519"
	"encoding/hex"

	"github.com/spf13/cobra"
)

// newRegistryKeyCmd makes an owner's key.
func newRegistryKeyCmd() *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "key --out FILE",
		Short: "make an owner's key, or show the public half of one",
		Long: `Makes an Ed25519 seed in a file that only its owner can read, unless there is
one, and prints the public key: what registry deploy --owner takes.`,
		Example: `  cocoon registry key --out owner1.key`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			key, err := seedFile(out)
			if err != nil {
				return err
			}
			p := &printer{w: cmd.OutOrStdout()}
			p.f("%s", hex.EncodeToString(key.Public().(ed25519.PublicKey)))
			return p.err
		},
	}
	cmd.Flags().StringVarP(&out, "out", "o", "", "the key's `file`")
	need(cmd, "out")
	return cmd
}

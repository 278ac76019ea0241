package main

import (
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"

	"cocoon/contracts/receipt"
	"cocoon/hostd/client"
	"cocoon/hostd/vouchers"
)

func newEarningsFetchCmd() *cobra.Command {
	f := &hostFlags{}
	var dir string
	cmd := &cobra.Command{
		Use:   "fetch --vouchers DIR",
		Short: "bring the vouchers that a host daemon has kept",
		Long: `Brings the vouchers that the workers of a host have handed over, into a directory for
each VM, for "cocoon earnings show" and "redeem" from elsewhere than the host. An
older one than is there changes nothing.

Exit codes: 0 brought; 3 the daemon does not answer; 5 it sent no voucher.`,
		Example: "  cocoon earnings fetch --hostd https://10.0.0.5:7443 --hostd-ca ca.pem --hostd-cert me.pem --hostd-key me.key --vouchers vouchers",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n := 0
			err := f.with(func(c *client.Client) error {
				return c.Vouchers(cmd.Context(), func(vm string, v *receipt.SignedVoucher) error {
					// A directory for each: what one guest says hides nothing of another's.
					kept, err := vouchers.Book{Dir: filepath.Join(dir, vm)}.Keep(v)
					if kept {
						n++
					}
					return err
				}, func(why string) { fmt.Fprintf(cmd.ErrOrStderr(), "on the host: %s\n", plain(why)) })
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "kept %d vouchers that are new\n", n)
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().StringVar(&dir, "vouchers", "", "the `directory` to keep them in")
	need(cmd, "vouchers")
	return cmd
}

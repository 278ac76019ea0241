package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/api"
	"cocoon/hostd/client"
	"cocoon/hostd/spec"
)

func newVMUpgradeCmd(dial func() *client.Client) *cobra.Command {
	var file, until string
	var timeout time.Duration
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "upgrade --spec FILE",
		Short: "replace a VM by a new version, or take that back",
		Long: `Drains and stops the VM, starts it from the new spec with its TPM and its data
disk, and waits until it serves, for which a verifier must have accepted it. If
it does not come to that, the old version is started again and the reason is
given. hostd ends an upgrade in whose middle it was killed.

Exit codes: 0 upgraded; 6 rolled back.`,
		Example: "  cocoon vm upgrade --spec vm.json",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := spec.Load(file)
			if err != nil {
				return err
			}
			c := dial()
			defer c.Close()
			fmt.Fprintf(cmd.ErrOrStderr(), "upgrading %s: drain, start, verify\n", s.Name)
			st, err := c.Upgrade(cmd.Context(), api.Upgrade{Spec: *s, Until: until, TimeoutS: int(timeout.Seconds())})
			if err != nil {
				return err
			}
			return showVM(cmd.OutOrStdout(), st, asJSON)
		},
	}
	f := cmd.Flags()
	f.StringVar(&file, "spec", "", "spec `file` of the new version, with the VM's name")
	f.StringVar(&until, "until", "serving", "the `stage` or guest state that the new version has to reach")
	f.DurationVar(&timeout, "timeout", 10*time.Minute, "how long it has for that")
	f.BoolVar(&asJSON, "json", false, "write the state as JSON")
	cobra.CheckErr(cmd.MarkFlagRequired("spec"))
	return cmd
}

func newVMCrashesCmd(dial func() *client.Client) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "crashes NAME",
		Short: "show how a VM failed, the newest first",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c := dial()
			defer c.Close()
			cs, err := c.Crashes(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			if asJSON {
				return writeIndented(cmd.OutOrStdout(), cs)
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(tw, "ENDED\tRAN\tGUEST\tREASON")
			for _, x := range cs.Crashes {
				guest := x.Guest.State
				if guest == "" && len(x.Guest.Stages) > 0 {
					guest = x.Guest.Stages[len(x.Guest.Stages)-1].Name
				}
				reason := x.Reason
				for _, f := range x.Faults {
					reason += " [" + f.Code + "]"
				}
				fmt.Fprintf(tw, "%s\t%.0fs\t%s\t%s\n", x.Ended.Format(time.RFC3339), x.Ran, quoteOdd(guest), plain(reason))
			}
			return tw.Flush()
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the reports as JSON, with the ends of console and log")
	return cmd
}

package main

import (
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/client"
	"cocoon/hostd/daemon"
)

func newVMCrashesCmd(f *hostFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "crashes NAME",
		Short: "show how a VM failed, the newest first",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var cs []daemon.Crash
			err := f.with(func(c *client.Client) (err error) {
				cs, err = c.Crashes(cmd.Context(), args[0])
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return writeIndented(cmd.OutOrStdout(), map[string]any{"crashes": cs})
			}
			tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
			fmt.Fprintln(tw, "ENDED\tRAN\tGUEST\tREASON")
			for _, x := range cs {
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

package main

import (
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/client"
	"cocoon/hostd/idle"
	"cocoon/internal/fault"
)

// newIdleCmd is the parent of what concerns a machine that also is its owner's.
func newIdleCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "idle", Short: "serve while the machine's owner does not need it", Args: cobra.NoArgs}
	cmd.AddCommand(newIdleStatusCmd(), newIdleSimulateCmd())
	return cmd
}

func newIdleStatusCmd() *cobra.Command {
	f := &hostFlags{}
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "status",
		Short: "say what the host daemon decided last, and why",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			var st *idle.Status
			err := f.with(func(c *client.Client) (err error) {
				st, err = c.Idle(cmd.Context())
				return err
			})
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), st)
			}
			var b strings.Builder
			fmt.Fprintf(&b, "%s: %s\n", st.VM, plain(st.Policy))
			b.WriteString(decisionLine(st.Last))
			if st.Error != "" {
				fmt.Fprintf(&b, "the last order failed: %s\n", plain(st.Error))
			}
			if len(st.Changes) > 0 {
				b.WriteString("before:\n")
			}
			for _, d := range st.Changes {
				b.WriteString("  " + decisionLine(d))
			}
			_, err = io.WriteString(cmd.OutOrStdout(), b.String())
			return err
		},
	}
	f.register(cmd)
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the status as JSON")
	return cmd
}

func newIdleSimulateCmd() *cobra.Command {
	var policy string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "simulate TRACE",
		Short: "replay a day and print what the policy decides",
		Long: `Reads observations of a machine, one as JSON a line (- is standard input), and
prints each decision that changes something. Nothing is started.

Exit codes: 0 replayed; 5 policy or trace cannot be read.`,
		Example: "  cocoon idle simulate day.jsonl --policy idle.json",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			p, err := idle.Load(policy)
			if err != nil {
				return err
			}
			in := cmd.InOrStdin()
			if args[0] != "-" {
				f, err := os.Open(args[0])
				if err != nil {
					return fault.New(fault.ExitParse, "idle.trace.unreadable", "give the path of a trace", "opening trace: %w", err)
				}
				defer f.Close()
				in = f
			}
			changes := []idle.Decision{}
			sum, err := idle.Simulate(p, in, func(d idle.Decision) { changes = append(changes, d) })
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), map[string]any{"decisions": changes, "summary": sum})
			}
			var b strings.Builder
			for _, d := range changes {
				b.WriteString(decisionLine(d))
			}
			fmt.Fprintf(&b, "%d observations: started %d times, served %s, %d cut short; the owner waited %s at most\n",
				sum.Observations, sum.Starts, sum.Served, sum.Cut, sum.LongestYield)
			_, err = io.WriteString(cmd.OutOrStdout(), b.String())
			return err
		},
	}
	cmd.Flags().StringVar(&policy, "policy", "", "the idle policy `file`")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write decisions and summary as JSON")
	need(cmd, "policy")
	return cmd
}

func decisionLine(d idle.Decision) string {
	what := d.Mode
	if d.Order != idle.None {
		what = d.Order + ", " + d.Mode
	}
	line := fmt.Sprintf("%s  %-22s %s", d.Time.UTC().Format(time.RFC3339), what, plain(strings.Join(d.Reasons, "; ")))
	if d.Until != nil {
		line += " (until " + d.Until.UTC().Format(time.RFC3339) + ")"
	}
	return line + "\n"
}

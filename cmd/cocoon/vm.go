package main

import (
	"encoding/json"
	"fmt"
	"io"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/client"
	"cocoon/hostd/machine"
)

// newVMCmd has the verbs of the host daemon.
func newVMCmd() *cobra.Command {
	f := &hostFlags{}
	cmd := &cobra.Command{
		Use:   "vm",
		Short: "start, stop and watch VMs of the host daemon",
		Long: `Start, stop and watch VMs of the host daemon on this machine (docs/hostd.md).
What a VM says about itself, its stages and its console, is the guest's own
word; what it proves is seen by "cocoon verify evidence".`,
	}
	f.register(cmd)
	cmd.AddCommand(newVMStartCmd(f), newVMUpgradeCmd(f), newVMStopCmd(f), newVMListCmd(f), newVMShowCmd(f), newVMLogsCmd(f), newVMRemoveCmd(f), newVMCrashesCmd(f), newVMHandoverCmd(), newVMCACmd(f))
	return cmd
}

func newVMStopCmd(f *hostFlags) *cobra.Command {
	var powerOff, asJSON bool
	cmd := &cobra.Command{
		Use:   "stop NAME",
		Short: "stop a VM: power button first, then power off",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(func(c *client.Client) error {
				st, err := c.Stop(cmd.Context(), args[0], powerOff)
				if err != nil {
					return err
				}
				return showVM(cmd.OutOrStdout(), st, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&powerOff, "power-off", false, "take the power away at once")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the state as JSON")
	return cmd
}

func newVMListCmd(f *hostFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list all VMs",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return f.with(func(c *client.Client) error {
				vms, err := c.List(cmd.Context())
				if err != nil {
					return err
				}
				if asJSON {
					return writeIndented(cmd.OutOrStdout(), map[string]any{"vms": vms})
				}
				tw := tabwriter.NewWriter(cmd.OutOrStdout(), 0, 4, 2, ' ', 0)
				fmt.Fprintln(tw, "NAME\tTEE\tPHASE\tACCELERATOR\tTRANSPORT\tGUEST\tSTARTED")
				for _, s := range vms {
					fmt.Fprintf(tw, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n", s.Name, s.TEE, s.Phase, s.Accel, s.Transport, guestWord(s), s.Started.Format(time.RFC3339))
				}
				return tw.Flush()
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the list as JSON")
	return cmd
}

func newVMShowCmd(f *hostFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "show a VM's state and boot stages",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(func(c *client.Client) error {
				st, err := c.Get(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				return showVM(cmd.OutOrStdout(), st, asJSON)
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the state as JSON")
	return cmd
}

func newVMLogsCmd(f *hostFlags) *cobra.Command {
	var follow, status, raw bool
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "show a VM's console, or its status lines",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(func(c *client.Client) error {
				if status {
					return c.StatusLog(cmd.Context(), args[0], cmd.OutOrStdout(), follow)
				}
				out := cmd.OutOrStdout()
				if !raw {
					out = plainWriter{out}
				}
				return c.Console(cmd.Context(), args[0], out, follow)
			})
		},
	}
	cmd.Flags().BoolVarP(&follow, "follow", "f", false, "go on until the VM ends")
	cmd.Flags().BoolVar(&raw, "raw", false, "show the console's bytes as they came, terminal controls included")
	cmd.Flags().BoolVar(&status, "json", false, "show the status lines, one JSON object a line, instead of the console")
	return cmd
}

func newVMRemoveCmd(f *hostFlags) *cobra.Command {
	return &cobra.Command{
		Use:   "remove NAME",
		Short: "forget a VM that has ended, with its logs and its TPM",
		Args:  cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(func(c *client.Client) error {
				return c.Remove(cmd.Context(), args[0])
			})
		},
	}
}

func newVMCACmd(f *hostFlags) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "tpm-ca [NAME]",
		Short: "print the root of the software-TPM CA, for development policies",
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return f.with(func(c *client.Client) error {
				name := "default"
				if len(args) == 1 {
					name = args[0]
				}
				ca, err := c.CA(cmd.Context(), name)
				if err != nil {
					return err
				}
				if asJSON {
					return writeIndented(cmd.OutOrStdout(), ca)
				}
				_, err = io.WriteString(cmd.OutOrStdout(), ca.RootPEM)
				return err
			})
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write name and root as JSON")
	return cmd
}

func writeIndented(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(v)
}

// guestWord is the shortest thing to say about a guest.
func guestWord(s *machine.State) string {
	switch {
	case s.Guest.Panic != "":
		return "panicked"
	case s.Guest.State != "":
		return s.Guest.State
	case len(s.Guest.Stages) > 0:
		return s.Guest.Stages[len(s.Guest.Stages)-1].Name
	}
	return "-"
}

func showVM(w io.Writer, s *machine.State, asJSON bool) error {
	if asJSON {
		return writeIndented(w, s)
	}
	fmt.Fprintf(w, "%s  %s  %s\naccelerator %s: %s\ntransport %s: %s\n", s.Name, s.TEE, s.Phase, s.Accel, s.AccelWhy, s.Transport, s.TransportWhy)
	if s.Reason != "" {
		fmt.Fprintf(w, "ended: %s\n", s.Reason)
	}
	for _, f := range s.Faults {
		fmt.Fprintf(w, "fault: %s [%s]\n", f.Message, f.Code)
	}
	if s.Upgrade != "" {
		fmt.Fprintf(w, "upgrade: %s\n", s.Upgrade)
	}
	if s.Restarts > 0 || s.NextStart != nil {
		fmt.Fprintf(w, "restarts: %d", s.Restarts)
		if s.NextStart != nil {
			fmt.Fprintf(w, ", next at %s", s.NextStart.Format(time.RFC3339))
		}
		if s.StartError != "" {
			fmt.Fprintf(w, "; the last one failed: %s", plain(s.StartError))
		}
		fmt.Fprintln(w)
	}
	if s.Guest.Panic != "" {
		fmt.Fprintf(w, "guest: %q\n", s.Guest.Panic)
	}
	if d := s.Guest.Drain; d != nil && d.Phase != machine.Serving {
		fmt.Fprintf(w, "guest: %s, %d requests run, %d wait, %d were cut off\n", quoteOdd(d.Phase), d.Running, d.Waiting, d.Cut)
	}
	for _, g := range s.Guest.Stages {
		// The guest's text: quoted, so that it cannot steer a terminal.
		fmt.Fprintf(w, "  %-12s %-8s %6d ms\n", quoteOdd(g.Name), quoteOdd(g.Status), g.MS)
		for _, f := range g.Faults {
			fmt.Fprintf(w, "    %q %s\n", f.Message, quoteOdd(f.Code))
		}
	}
	return nil
}

// plainWriter drops control bytes: a guest's console must not steer the
// reader's terminal.
type plainWriter struct{ w io.Writer }

// Write leaves out what a terminal would act on.
func (p plainWriter) Write(b []byte) (int, error) {
	out := make([]byte, 0, len(b))
	for _, c := range b {
		if c == '\n' || c == '\t' || c >= 0x20 && c < 0x7f {
			out = append(out, c)
		}
	}
	if _, err := p.w.Write(out); err != nil {
		return 0, err
	}
	return len(b), nil
}

// quoteOdd returns s as it is where it is a plain word, else quoted.
func quoteOdd(s string) string {
	for _, r := range s {
		if r < 0x21 || r > 0x7e {
			return fmt.Sprintf("%.64q", s)
		}
	}
	return s[:min(len(s), 64)]
}

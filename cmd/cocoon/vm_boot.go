package main

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/client"
	"cocoon/hostd/daemon"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
)

// vmBootFlags are those of the verbs that boot a VM from a spec.
type vmBootFlags struct {
	spec    string
	until   string
	timeout time.Duration
	json    bool
}

// vmBootVerb returns a command that reads a spec, lets do boot it, and shows the
// VM. do gets where to write progress.
func vmBootVerb(f *hostFlags, cmd *cobra.Command, b *vmBootFlags, do func(ctx context.Context, c *client.Client, s *spec.Spec, progress io.Writer) (*machine.State, error)) *cobra.Command {
	cmd.Args = cobra.NoArgs
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		s, err := spec.Load(b.spec)
		if err != nil {
			return err
		}
		return f.with(func(c *client.Client) error {
			st, err := do(cmd.Context(), c, s, cmd.ErrOrStderr())
			if err != nil {
				return err
			}
			return showVM(cmd.OutOrStdout(), st, b.json)
		})
	}
	cmd.Flags().StringVar(&b.spec, "spec", "", "VM spec `file`, JSON or YAML")
	cmd.Flags().BoolVar(&b.json, "json", false, "write the state as JSON")
	need(cmd, "spec")
	return cmd
}

// printStage shows the progress of a boot, a line a change.
func printStage(w io.Writer) func(machine.Stage) {
	return func(g machine.Stage) {
		fmt.Fprintf(w, "%7.2fs  %-12s %s\n", float64(g.HostMS)/1000, quoteOdd(g.Name), quoteOdd(g.Status))
	}
}

func newVMStartCmd(f *hostFlags) *cobra.Command {
	b := &vmBootFlags{}
	cmd := vmBootVerb(f, &cobra.Command{
		Use:     "start --spec FILE",
		Short:   "start a VM",
		Example: "  cocoon vm start --spec vm.json --wait serving",
	}, b, func(ctx context.Context, c *client.Client, s *spec.Spec, progress io.Writer) (*machine.State, error) {
		st, err := c.Start(ctx, s)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(progress, "started %s with %s: %s\n", st.Name, st.Accel, st.AccelWhy)
		if st.TEE == spec.TEEVTPM {
			fmt.Fprintln(progress, "trust class vtpm: measured boot, not confidentiality; for development only")
		}
		if b.until == "" {
			return st, nil
		}
		ctx, cancel := context.WithTimeout(ctx, b.timeout)
		defer cancel()
		return c.Wait(ctx, s.Name, b.until, printStage(progress))
	})
	cmd.Flags().StringVar(&b.until, "wait", "", "return once this `stage` is passed or this guest state is reached")
	cmd.Flags().DurationVar(&b.timeout, "timeout", 5*time.Minute, "how long to wait at most")
	return cmd
}

func newVMUpgradeCmd(f *hostFlags) *cobra.Command {
	b := &vmBootFlags{}
	cmd := vmBootVerb(f, &cobra.Command{
		Use:   "upgrade --spec FILE",
		Short: "replace a VM by a new version, or take that back",
		Long: `Drains and stops the VM, starts it from the new spec with its TPM and its data
disk, and waits until it serves, for which a verifier must have accepted it. If
it does not come to that, the old version is started again and the reason is
given. hostd ends an upgrade in whose middle it was killed.

Where both specs have "handover", with their images' manifests, and the images
differ, the key of the data disk goes to the new image first: a machine NAME-takeover
takes it from the old version, which serves meanwhile (docs/operators.md).

Exit codes: 0 upgraded; 6 rolled back.`,
		Example: "  cocoon vm upgrade --spec vm.json",
	}, b, func(ctx context.Context, c *client.Client, s *spec.Spec, progress io.Writer) (*machine.State, error) {
		steps := "drain, start, verify"
		if s.Handover != nil {
			steps = daemon.StepHandOver + " where the image is another, " + steps
		}
		fmt.Fprintf(progress, "upgrading %s: %s\n", s.Name, steps)
		defer watchUpgrade(ctx, c, s.Name, progress)()
		return c.Upgrade(ctx, s, b.until, b.timeout)
	})
	cmd.Flags().StringVar(&b.until, "until", "serving", "the `stage` or guest state that the new version has to reach")
	cmd.Flags().DurationVar(&b.timeout, "timeout", 10*time.Minute, "how long it has for that")
	return cmd
}

// watchUpgrade shows the steps of an upgrade and the boot stages of the new
// version until the function that it returns is called.
func watchUpgrade(ctx context.Context, c *client.Client, name string, progress io.Writer) func() {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		step, seen, stage := "", map[string]string{}, printStage(progress)
		// What cannot be watched is upgraded all the same.
		_ = c.Watch(ctx, name, func(st *machine.State) bool {
			if st.Upgrade != "" && st.Upgrade != step {
				step = st.Upgrade
				fmt.Fprintf(progress, "step %s\n", quoteOdd(step))
			}
			for _, g := range st.Guest.Stages {
				if st.Upgrade != daemon.StepHandOver && st.Upgrade != daemon.StepDrain && seen[g.Name] != g.Status {
					seen[g.Name] = g.Status
					stage(g)
				}
			}
			return true
		})
	}()
	return func() { cancel(); <-done }
}

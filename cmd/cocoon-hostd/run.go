package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/accel"
	"cocoon/hostd/console"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vsock"
	"cocoon/internal/toolstree"
)

// newRunCmd boots one VM in the foreground, without a daemon.
func newRunCmd() *cobra.Command {
	var file, dir, wait, force, transport string
	var verbose bool
	cmd := &cobra.Command{
		Use:   "run --spec FILE",
		Short: "boot one VM in the foreground and show its console",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runForeground(cmd, file, dir, wait, force, transport, verbose)
		},
	}
	cmd.Flags().StringVar(&file, "spec", "", "VM spec (docs/hostd.md)")
	cmd.Flags().StringVar(&dir, "dir", "", "directory for logs and TPM state; default: a temporary one, removed at the end")
	cmd.Flags().StringVar(&wait, "until", "", "stop once this stage or guest state is reached")
	cmd.Flags().StringVar(&force, "accelerator", "auto", "auto, kvm or tcg")
	cmd.Flags().StringVar(&transport, "transport", "auto", "auto, vhost-vsock, vhost-user-vsock or virtio-serial")
	cmd.Flags().BoolVarP(&verbose, "verbose", "v", false, "log every step")
	cobra.CheckErr(cmd.MarkFlagRequired("spec"))
	return cmd
}

func runForeground(cmd *cobra.Command, file, dir, until, force, transport string, verbose bool) error {
	ctx := cmd.Context()
	s, err := spec.Load(file)
	if err != nil {
		return err
	}
	tools, err := toolstree.Find()
	if err != nil {
		return err
	}
	if dir == "" {
		if dir, err = os.MkdirTemp("", "cocoon-run-"); err != nil {
			return fmt.Errorf("making directory: %w", err)
		}
		defer os.RemoveAll(dir)
	} else if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making directory: %w", err)
	}
	ca, err := swtpm.OpenCA(filepath.Join(dir, "tpmca"), "default", time.Now)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own program: %w", err)
	}
	level := slog.LevelInfo
	if verbose {
		level = slog.LevelDebug
	}
	firmware := s.Firmware
	if firmware == "" {
		firmware = machine.Firmware(tools, s.TEE)
	}
	dec, err := accel.Decide(ctx, accel.Options{Tools: tools, Firmware: firmware, Kernel: filepath.Join(s.Image, spec.KernelFile),
		Dir: dir, Force: force, Clock: time.Now})
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "accelerator %s: %s\n", dec.Accel, dec.Reason)
	transport, why, err := vsock.Probe(transport, vsock.DevicePath)
	if err != nil {
		return err
	}
	fmt.Fprintf(cmd.ErrOrStderr(), "transport %s: %s\n", transport, why)
	began := time.Now()
	m, err := machine.Start(ctx, machine.Options{
		Spec: s, Dir: dir, Tools: tools, Firmware: firmware, Accel: dec.Accel, AccelWhy: dec.Reason, CA: ca,
		Transport: transport, TransportWhy: why,
		Relay:   []string{self, "relay", "--slots", filepath.Join(dir, machine.RelayDir)},
		Console: cmd.OutOrStdout(),
		OnLine: func(l *console.Line) {
			fmt.Fprintf(cmd.ErrOrStderr(), "[%6.2fs] %s\n", time.Since(began).Seconds(), l.Raw[:min(len(l.Raw), 300)])
		},
		Clock: time.Now, Logger: slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: level})),
	})
	if err != nil {
		return err
	}
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			m.Stop(context.WithoutCancel(ctx), machine.DefaultGrace)
			return nil
		case <-m.Done():
			st := m.State()
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s (%s)\n", s.Name, st.Phase, st.Reason)
			return st.Err()
		case <-tick.C:
			if until == "" {
				continue
			}
			st := m.State()
			ok, err := st.Reached(until)
			if ok || err != nil {
				m.Stop(context.WithoutCancel(ctx), machine.DefaultGrace)
				return err
			}
		}
	}
}

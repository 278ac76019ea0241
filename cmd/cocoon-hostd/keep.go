package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
)

// newKeepCmd is the process that answers for one VM; the daemon starts it.
func newKeepCmd() *cobra.Command {
	return &cobra.Command{
		Use:    "keep DIR",
		Short:  "run the VM of a directory (started by the daemon)",
		Args:   cobra.ExactArgs(1),
		Hidden: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			self, err := os.Executable()
			if err != nil {
				return fmt.Errorf("finding own program: %w", err)
			}
			// A signal is an order here, not the end of the process.
			sig := make(chan os.Signal, 4)
			signal.Notify(sig, keeper.SignalStop, keeper.SignalPowerOff, keeper.SignalWrite)
			defer signal.Stop(sig)
			return keeper.Run(context.WithoutCancel(cmd.Context()), keeper.Options{
				Dir: args[0], Signals: sig, Clock: time.Now,
				Relay: []string{self, "relay", "--slots", filepath.Join(args[0], machine.RelayDir)},
				Lifeline: func() io.Reader {
					syscall.CloseOnExec(keeper.LifelineFD)
					return os.NewFile(keeper.LifelineFD, "lifeline")
				},
			})
		},
	}
}

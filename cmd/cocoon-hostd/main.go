// Command cocoon-hostd is the host daemon: it provisions confidential VMs.
// docs/hostd.md is its manual. Exit codes are those of the cocoon command.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{
		Use:           "cocoon-hostd",
		Short:         "provision confidential VMs on this host",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.AddCommand(newServeCmd(), newRunCmd(), newKeepCmd(), newRelayCmd())
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		fault.Print(os.Stderr, err)
		return fault.ExitCode(err)
	}
	return 0
}

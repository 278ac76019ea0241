// Command cocoon is the command line of the project: a file per verb.
//
// Exit codes are a contract (docs/exit-codes.md): 0 ok; 1 usage or internal;
// 2 evidence refused; 3 network; 4 refused by policy alone; 5 unparsable
// input; 6 machine not ready; 7 ready for development only.
package main

import (
	"context"
	"errors"
	"os"
	"os/signal"
	"syscall"

	"cocoon/internal/fault"
)

func main() {
	os.Exit(run(os.Args[1:]))
}

// run executes one command line and returns its exit code; tests call it as
// testscript's "cocoon" command.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRootCmd()
	root.SetArgs(args)
	if err := root.ExecuteContext(ctx); err != nil {
		var written *reportedError
		if !errors.As(err, &written) {
			fault.Print(os.Stderr, err)
		}
		return fault.ExitCode(err)
	}
	return 0
}

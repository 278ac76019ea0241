// Command cocoon-enclave is process 1 of the confidential VM.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"cocoon/enclave/logring"
	"cocoon/enclave/pid1"
	"cocoon/enclave/status"
	"cocoon/enclave/worker"
)

func main() {
	if os.Args[0] == pid1.ExecName {
		fmt.Fprintf(os.Stderr, "cocoon-enclave: %v\n", pid1.HardenExec(os.Args))
		os.Exit(1)
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "cocoon-enclave: this program only runs as process 1 of a confidential VM")
		os.Exit(1)
	}
	run()
	// The kernel panics, which on the measured command line means a reset.
	os.Exit(1)
}

// run ends by powering the machine off; it returns only if that fails.
func run() {
	// The path may be absent until the mounts stage; the reporter tries at
	// each line.
	ring := &logring.Ring{}
	rep := status.New(status.Options{
		Clock: time.Now, Uptime: pid1.Uptime, Console: os.Stderr, Path: worker.Dir + "/status.json", Log: ring.Lines,
	})
	log := slog.New(slog.NewTextHandler(io.MultiWriter(os.Stderr, ring), nil))
	state := status.Halted
	err := worker.New(rep, log).Run(context.Background())
	rep.State(state, err)
	if err != nil {
		rep.Log()
	}
	rep.Flush(3 * time.Second)
	if err := pid1.Off(pid1.Machine{}); err != nil {
		fmt.Fprintf(os.Stderr, "cocoon-enclave: powering off: %v\n", err)
	}
}

// Command hammer loads a verifier with evidence of test machines and says how
// fast it answers (docs/performance.md).
//
//	go run ./cmd/hammer -verifier URL -duration 30s [-json]
//
// The evidence is of package testfleet's machines, which examples/verifier.yaml
// accepts, and answers challenges that the verifier issued: they are fetched,
// and all evidence is signed, before the measured interval. Exit codes: 0 done;
// 1 usage, or answers that should not be; 3 the verifier cannot be reached.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/testfleet"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout, os.Stderr); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return
		}
		fault.Print(os.Stderr, err)
		os.Exit(fault.ExitCode(err))
	}
}

// options are the flags.
type options struct {
	verifier    string
	duration    time.Duration
	kind        string
	seed        string
	concurrency int
	rate        float64 // requests a second; 0: as fast as answers come
	load        float64 // of the capacity, which is measured first; 0: no
	asJSON      bool
	files       string
	fill        string // journal: directory, key file, origin
	entries     int
}

func parseFlags(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	fs := flag.NewFlagSet("hammer", flag.ContinueOnError)
	fs.SetOutput(stderr)
	fs.StringVar(&o.verifier, "verifier", "", "base `URL` of the verifier")
	fs.DurationVar(&o.duration, "duration", 30*time.Second, "measured interval")
	fs.StringVar(&o.kind, "type", testfleet.TDX, "kind of machine: "+strings.Join(testfleet.Kinds(), ", "))
	fs.StringVar(&o.seed, "seed", testfleet.ExampleSeed, "of the test authorities and machines")
	fs.IntVar(&o.concurrency, "concurrency", 16, "connections, each with one request at a time")
	fs.Float64Var(&o.rate, "rate", 0, "requests a second, sent whether or not answers come; 0: as fast as answers come")
	fs.Float64Var(&o.load, "load", 0, "like -rate, as a part of the capacity, which is measured first: 0.7, or 10 for overload")
	fs.BoolVar(&o.asJSON, "json", false, "write the report as JSON")
	fs.StringVar(&o.files, "write-files", "", "write roots, policy and manifest of the machines to this `directory` instead, for a verifier's configuration")
	fs.StringVar(&o.fill, "fill", "", "append -entries to a verifier's journal instead: its `directory,key,origin`; no verifier may have it open")
	fs.IntVar(&o.entries, "entries", 1_000_000, "that -fill appends")
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, fault.New(fault.ExitInternal, "usage", "see --help", "parsing flags: %w", err)
	}
	bad := func(format string, args ...any) error {
		return fault.New(fault.ExitInternal, "usage", "see --help", format, args...)
	}
	switch {
	case fs.NArg() != 0:
		return nil, bad("unexpected argument %q", fs.Arg(0))
	case o.files == "" && o.fill == "" && o.verifier == "":
		return nil, bad("-verifier is missing")
	case o.duration <= 0 || o.concurrency < 1 || o.concurrency > maxConnections || o.rate < 0 || o.load < 0 || o.rate > 0 && o.load > 0 || o.entries < 0:
		return nil, bad("a flag is out of range, or both -rate and -load are given")
	}
	return o, nil
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parseFlags(args, stderr)
	if err != nil {
		return err
	}
	if o.fill != "" {
		return fillJournal(ctx, o, stdout)
	}
	fleet, err := testfleet.New(o.seed)
	if err != nil {
		return err
	}
	if o.files != "" {
		return writeFiles(o.files, fleet)
	}
	rep, err := hammer(ctx, o, fleet, func(format string, args ...any) { fmt.Fprintf(stderr, format+"\n", args...) })
	if err != nil {
		return err
	}
	if o.asJSON {
		enc := json.NewEncoder(stdout)
		enc.SetIndent("", "  ")
		err = enc.Encode(rep)
	} else {
		err = rep.print(stdout)
	}
	if err == nil && rep.Errors > 0 {
		err = fault.New(fault.ExitInternal, "hammer.answers", "see that the verifier accepts the machines: its policy, roots and manifest", "%d answers were neither verdicts nor 429: %s", rep.Errors, rep.FirstError)
	}
	return err
}

package main

import (
	"encoding/hex"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/eventlog"
)

// newEventlogCmd is the parent of what reads measured-boot logs.
func newEventlogCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "eventlog",
		Short: "read and replay measured-boot logs",
		Args:  cobra.NoArgs,
	}
	cmd.AddCommand(newEventlogShowCmd(), newEventlogReplayCmd())
	return cmd
}

// readLog reads a log of whichever kind.
func readLog(what, path string) (*eventlog.Log, error) {
	b, err := readInput(what, path, eventlog.MaxSize)
	if err != nil {
		return nil, err
	}
	l, err := eventlog.Parse(b)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "eventlog.parse", "give a TPM's log, a CCEL, or a JSON log", "reading %s: %w", what, err)
	}
	return l, nil
}

// bankOf returns the bank that a flag names; without one the strongest that
// the log has.
func bankOf(l *eventlog.Log, name string) (eventlog.Algorithm, error) {
	for _, b := range []struct {
		name string
		alg  eventlog.Algorithm
	}{{"sha384", eventlog.SHA384}, {"sha256", eventlog.SHA256}, {"sha512", eventlog.SHA512}, {"sha1", eventlog.SHA1}} {
		if name == b.name || name == "" && l.Has(b.alg) {
			if !l.Has(b.alg) {
				return 0, fault.New(fault.ExitParse, "eventlog.bank", "name a bank that the log has", "reading event log: it has no bank %s", name)
			}
			return b.alg, nil
		}
	}
	return 0, usage("reading --bank %q: want sha1, sha256, sha384 or sha512", name)
}

// eventReport is one event; docs/verify-tpm.md describes it.
type eventReport struct {
	Event    int             `json:"event"`
	Register string          `json:"register"` // "pcr4", "rtmr1"; empty for what is never measured
	Type     string          `json:"type"`
	Digest   string          `json:"digest"` // of the bank, hex
	Proof    eventlog.Proof  `json:"proof"`  // what the digest covers: data, part or label
	Proven   string          `json:"proven,omitempty"`
	Kind     string          `json:"kind,omitempty"` // of Detail
	Text     string          `json:"text,omitempty"` // Detail on a line
	Detail   eventlog.Detail `json:"detail,omitempty"`
	Value    string          `json:"value,omitempty"` // of the register after the event
}

// logReport is what "cocoon eventlog show" writes.
type logReport struct {
	Kind       eventlog.Kind        `json:"kind"`
	Bank       string               `json:"bank"`
	Violations []eventlog.Violation `json:"violations"`
	Registers  map[string]string    `json:"registers"`
	Events     []eventReport        `json:"events"`

	log *eventlog.Log
}

// newLogReport reads a log by one bank.
func newLogReport(l *eventlog.Log, a eventlog.Algorithm) (*logReport, error) {
	rep := &logReport{Kind: l.Kind, Bank: bankName(a), Violations: l.Check(), Registers: map[string]string{}, log: l}
	if rep.Violations == nil {
		rep.Violations = []eventlog.Violation{}
	}
	traces, err := l.Traces(a)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "eventlog.bank", "name another bank", "%w", err)
	}
	after := map[int]string{}
	for _, t := range traces {
		rep.Registers[l.RegisterName(t.Register)] = hex.EncodeToString(t.Value)
		for _, s := range t.Steps {
			after[s.Event] = hex.EncodeToString(s.Value)
		}
	}
	for i := range l.Events {
		e := &l.Events[i]
		d := l.Describe(i)
		r := eventReport{Event: i, Type: e.Type.String(), Digest: hex.EncodeToString(e.Digest(a)), Proof: d.Proof, Proven: d.Proven, Detail: d.Detail, Value: after[i]}
		if e.Type != eventlog.NoAction {
			r.Register = l.RegisterName(int(e.Register))
		}
		if d.Detail != nil {
			r.Kind, r.Text = d.Detail.Kind(), d.Detail.String()
		}
		rep.Events = append(rep.Events, r)
	}
	return rep, nil
}

func bankName(a eventlog.Algorithm) string {
	switch a {
	case eventlog.SHA1:
		return "sha1"
	case eventlog.SHA256:
		return "sha256"
	case eventlog.SHA384:
		return "sha384"
	}
	return "sha512"
}

func newEventlogShowCmd() *cobra.Command {
	var bank, register string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "show FILE",
		Short: "show a log's events, register by register",
		Long: `Shows what made each register of a measured boot: a TPM's log, a CCEL of a
confidential VM, or the JSON log of a guest agent.

Each event says what of it its digest covers: "data" is all of it, "part" is a
part, and "label" is nothing: the text is then anyone's word. Nothing here is
proven until a quote's registers replay: see "cocoon eventlog replay".`,
		Example: `  cocoon eventlog show binary_bios_measurements
  cocoon eventlog show ccel.bin --register rtmr1 --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			l, err := readLog("event log", args[0])
			if err != nil {
				return err
			}
			a, err := bankOf(l, bank)
			if err != nil {
				return err
			}
			rep, err := newLogReport(l, a)
			if err != nil {
				return err
			}
			if register != "" {
				if err := rep.only(register); err != nil {
					return err
				}
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), rep)
			}
			return rep.write(cmd.OutOrStdout())
		},
	}
	cmd.Flags().StringVar(&bank, "bank", "", "show the digests of this `bank`: sha1, sha256, sha384 or sha512 (default the strongest of the first three)")
	cmd.Flags().StringVar(&register, "register", "", "show this `register` only, for example pcr4 or rtmr1")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the log as JSON")
	return cmd
}

// only leaves one register.
func (r *logReport) only(register string) error {
	v, ok := r.Registers[register]
	if !ok {
		return usage("reading --register %q: the log has no event in it", register)
	}
	r.Registers = map[string]string{register: v}
	kept := r.Events[:0]
	for _, e := range r.Events {
		if e.Register == register {
			kept = append(kept, e)
		}
	}
	r.Events = kept
	return nil
}

// write writes the log for a person: whether it is well-formed, then each
// register with its events.
func (r *logReport) write(w io.Writer) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	line("%s log, bank %s, %d events", r.Kind, r.Bank, len(r.Events))
	writeViolations(&b, r.Violations)
	for n := range 25 {
		name := r.log.RegisterName(n)
		value, ok := r.Registers[name]
		if !ok {
			continue
		}
		line("")
		line("%s %s", name, value)
		for _, e := range r.Events {
			if e.Register == name {
				line("  %4d %-5s %-34s %s", e.Event, e.Proof, e.Type, plain(e.Text))
			}
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the log: %w", err)
	}
	return nil
}

// writeViolations writes the rules that a log breaks.
func writeViolations(b *strings.Builder, vs []eventlog.Violation) {
	if len(vs) == 0 {
		return
	}
	fmt.Fprintf(b, "warning: not the log of a measured boot, %d rules are broken\n", len(vs))
	for _, v := range vs {
		fmt.Fprintf(b, "  %s\n", plain(v.Error()))
	}
}

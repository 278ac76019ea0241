package main

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sort"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/eventlog"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
	"cocoon/verifier/tpm"
)

// replayFlags are the flags of "cocoon eventlog replay".
type replayFlags struct {
	quote, pcrs, reference, bank string
	json                         bool
}

func newEventlogReplayCmd() *cobra.Command {
	f := &replayFlags{}
	cmd := &cobra.Command{
		Use:   "replay FILE [--quote FILE] [--pcrs FILE] [--reference LOG]",
		Short: "replay a log and compare it with a quote, with registers, or with another log",
		Long: `Computes the registers that a log gives, checks that the log has the form of a
measured boot, and compares: with the RTMRs of a TDX quote, with the digest of a
TPM quote, with register values, or with a reference log, of which it names the
first event that differs in each register.

A TPM's quote has one digest over all its registers: which of them differs can
be told only where their values are given as well (--pcrs).

The quote's signature is not verified here: see "cocoon verify".

Exit codes: 0 equal; 1 usage; 2 a register differs, or the log is malformed;
5 unparsable input.`,
		Example: `  cocoon eventlog replay ccel.bin --quote quote.bin
  cocoon eventlog replay binary_bios_measurements --quote quote.msg --pcrs pcrs.yaml
  cocoon eventlog replay ccel.bin --reference good.ccel.bin --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runReplay(cmd, args[0], f) },
	}
	cmd.Flags().StringVar(&f.quote, "quote", "", "compare with this quote, a `file`: a TDX quote or a TPMS_ATTEST; raw bytes, hex, base64, or JSON with a member \"quote\"")
	cmd.Flags().StringVar(&f.pcrs, "pcrs", "", "compare with these register values, a `file`: JSON, or what tpm2_pcrread prints")
	cmd.Flags().StringVar(&f.reference, "reference", "", "compare with this log, event by event")
	cmd.Flags().StringVar(&f.bank, "bank", "", "compute this `bank`: sha1, sha256, sha384 or sha512 (default the strongest of the first three)")
	cmd.Flags().BoolVar(&f.json, "json", false, "write the result as JSON")
	return cmd
}

// registerReport is one register of a replay.
type registerReport struct {
	Register string `json:"register"`
	Value    string `json:"value"`              // that the log gives
	Expected string `json:"expected,omitempty"` // that it should give
	Equal    *bool  `json:"equal,omitempty"`    // absent: not compared
	Events   []int  `json:"events"`             // that made it
	// DiffersAt is the first event that a reference log has otherwise: its
	// index in this log, -1 where this log ends early.
	DiffersAt *int   `json:"differs_at,omitempty"`
	Reference *int   `json:"reference_event,omitempty"` // likewise, in the reference
	Event     string `json:"event,omitempty"`           // the event, in words
}

// replayReport is what "cocoon eventlog replay" writes; docs/verify-tpm.md
// describes it.
type replayReport struct {
	Equal     bool             `json:"equal"` // well-formed, and nothing that was compared differs
	Kind      eventlog.Kind    `json:"kind"`
	Bank      string           `json:"bank"`
	Compared  []string         `json:"compared"` // with what: "tdx quote", "tpm quote", "registers", "reference"
	Registers []registerReport `json:"registers"`
	Checks    []result.Check   `json:"checks"`

	log    *eventlog.Log
	bank   eventlog.Algorithm
	faults []error
}

func runReplay(cmd *cobra.Command, path string, f *replayFlags) error {
	l, err := readLog("event log", path)
	if err != nil {
		return err
	}
	a, err := bankOf(l, f.bank)
	if err != nil {
		return err
	}
	traces, err := l.Traces(a)
	if err != nil {
		return fault.New(fault.ExitParse, "eventlog.bank", "name another bank", "%w", err)
	}
	rep := &replayReport{Kind: l.Kind, Bank: bankName(a), Compared: []string{}, Registers: []registerReport{}, Checks: []result.Check{}, log: l, bank: a}
	for _, t := range traces {
		r := registerReport{Register: l.RegisterName(t.Register), Value: hex.EncodeToString(t.Value), Events: []int{}}
		for _, s := range t.Steps {
			r.Events = append(r.Events, s.Event)
		}
		rep.Registers = append(rep.Registers, r)
	}
	rep.structure()
	if err := errors.Join(rep.withQuote(f.quote), rep.withValues(f.pcrs), rep.withReference(f.reference)); err != nil {
		return err
	}
	rep.Equal = len(rep.faults) == 0
	return rep.write(cmd.OutOrStdout(), f.json)
}

// check adds a check, and a fault if it failed.
func (r *replayReport) check(id string, good bool, expected, actual, reason, remedy string) {
	if good {
		r.Checks = append(r.Checks, result.Check{ID: id, Status: result.Pass, Actual: actual})
		return
	}
	r.Checks = append(r.Checks, result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
	r.faults = append(r.faults, &fault.Fault{Code: id, Exit: fault.ExitRefused, Msg: reason, Expected: expected, Actual: actual, Remedy: remedy})
}

func (r *replayReport) structure() {
	var text []string
	for _, v := range r.log.Check() {
		text = append(text, v.Error())
	}
	r.check("eventlog.structure", len(text) == 0, "the log of a measured boot", strings.Join(text, "; "),
		"log has events where no firmware puts them", "use the log as the firmware left it")
}

// register returns a register's line, which it adds where no event made it.
func (r *replayReport) register(name string, size int) *registerReport {
	for i := range r.Registers {
		if r.Registers[i].Register == name {
			return &r.Registers[i]
		}
	}
	r.Registers = append(r.Registers, registerReport{Register: name, Value: strings.Repeat("00", size), Events: []int{}})
	return &r.Registers[len(r.Registers)-1]
}

// compare holds a register against a value.
func (r *replayReport) compare(name string, want []byte) {
	reg := r.register(name, len(want))
	reg.Expected = hex.EncodeToString(want)
	equal := reg.Expected == reg.Value
	reg.Equal = &equal
	r.check("eventlog."+name, equal, reg.Expected, reg.Value, name+" differs from what the log gives", "use log and registers of one boot")
}

// withQuote compares with a TDX quote's RTMRs or a TPM quote's digest.
func (r *replayReport) withQuote(path string) error {
	if path == "" {
		return nil
	}
	b, err := readInput("--quote", path, eventlog.MaxSize)
	if err != nil {
		return err
	}
	raw := decodeQuoteFile(b)
	bad := func(err error) error {
		return fault.New(fault.ExitParse, "eventlog.quote.parse", "give a TDX quote or a TPMS_ATTEST", "reading --quote: %w", err)
	}
	if strings.HasPrefix(string(raw), "\xffTCG") {
		return r.withTPMQuote(raw, bad)
	}
	q, err := quote.Parse(raw, quote.Options{AllowZeroPadding: true})
	if err != nil {
		return bad(err)
	}
	if q.TEE != quote.TEETDX {
		return bad(errors.New("it is a quote of an SGX enclave, which has no registers"))
	}
	if r.Kind == eventlog.KindTPM || r.bank != eventlog.SHA384 {
		return usage("a TDX quote is compared with the SHA-384 bank of a confidential VM's log; this is a %s log, bank %s", r.Kind, r.Bank)
	}
	r.Compared = append(r.Compared, "tdx quote")
	var td quote.TDReport
	td.Decode(q)
	for i := range td.RTMR {
		r.compare(fmt.Sprintf("rtmr%d", i), td.RTMR[i][:])
	}
	return nil
}

// withTPMQuote compares with a TPM quote's digest over its registers.
func (r *replayReport) withTPMQuote(raw []byte, bad func(error) error) error {
	if _, err := tpm.ParseQuote(raw); err != nil {
		return bad(err)
	}
	if r.Kind != eventlog.KindTPM {
		return usage("a TPM's quote is compared with a TPM's log; this is a %s log", r.Kind)
	}
	r.Compared = append(r.Compared, "tpm quote")
	want, got, err := tpm.ReplayDigest(raw, r.log)
	if err != nil {
		return bad(err)
	}
	r.check("eventlog.pcr_digest", want == got, want, got, "registers that the log gives are not those of the quote", "give --pcrs to see which register differs")
	return nil
}

// withValues compares with register values.
func (r *replayReport) withValues(path string) error {
	if path == "" {
		return nil
	}
	b, err := readInput("--pcrs", path, maxTPMInput)
	if err != nil {
		return err
	}
	banks, err := parsePCRs(b)
	if err != nil {
		return fault.New(fault.ExitParse, "tpm.pcrs.parse", "give what tpm2_pcrread prints, or JSON such as {\"sha256\":{\"0\":\"00…\"}}", "reading --pcrs: %w", err)
	}
	if r.Kind != eventlog.KindTPM {
		return usage("register values are compared with a TPM's log; this is a %s log", r.Kind)
	}
	values, ok := banks[r.bank]
	if !ok {
		return usage("--pcrs has no values of the bank %s: name another --bank", r.Bank)
	}
	r.Compared = append(r.Compared, "registers")
	numbers := make([]int, 0, len(values))
	for n := range values {
		numbers = append(numbers, n)
	}
	sort.Ints(numbers)
	for _, n := range numbers {
		// What no event made, the log says nothing of.
		if len(r.log.Of(n)) > 0 {
			r.compare("pcr"+strconv.Itoa(n), values[n])
		}
	}
	return nil
}

// withReference compares with another log.
func (r *replayReport) withReference(path string) error {
	if path == "" {
		return nil
	}
	ref, err := readLog("--reference", path)
	if err != nil {
		return err
	}
	ds, err := r.log.Diff(ref, r.bank)
	if err != nil {
		return fault.New(fault.ExitParse, "eventlog.reference", "give a log of the same kind with the same bank", "%w", err)
	}
	r.Compared = append(r.Compared, "reference")
	for _, d := range ds {
		name := r.log.RegisterName(d.Register)
		reg := r.register(name, max(len(d.Want), len(d.Got)))
		at, other := d.Event, d.Reference
		reg.DiffersAt, reg.Reference = &at, &other
		no := false
		reg.Equal = &no
		var want, got string
		want, _ = eventText(ref, d.Reference)
		got, reg.Event = eventText(r.log, d.Event)
		r.check("eventlog."+name, false, want, got, fmt.Sprintf("%s leaves the reference", name), "find out what changed in this event")
	}
	if len(ds) == 0 {
		r.check("eventlog.reference", true, "", fmt.Sprintf("%d events", len(r.log.Events)), "", "")
	}
	return nil
}

// eventText writes an event with its digest, and without.
func eventText(l *eventlog.Log, i int) (full, words string) {
	if i < 0 {
		return "no more events", ""
	}
	e := &l.Events[i]
	words = e.Type.String()
	if d := l.Describe(i).Detail; d != nil {
		words += " " + d.String()
	}
	return fmt.Sprintf("event %d, %s, %x", i, words, e.Digests[len(e.Digests)-1].Value), words
}

// decodeQuoteFile returns the bytes of a quote, which may be text, or a
// member of a JSON document.
func decodeQuoteFile(b []byte) []byte {
	var doc struct {
		Quote string `json:"quote"`
	}
	if len(b) > 0 && b[0] == '{' && json.Unmarshal(b, &doc) == nil && doc.Quote != "" {
		b = []byte(doc.Quote)
	}
	if len(b) > 1 && (b[0] == 0xff || b[0] < ' ' && b[1] == 0) {
		return b
	}
	return decodeText(b, 0xff)
}

// write writes the report and returns what decides the exit code.
func (r *replayReport) write(w io.Writer, asJSON bool) error {
	return writeReport(w, asJSON, r, r.text, r.faults)
}

// text is the report for a person: the verdict, what failed and what to do,
// then what was found.
func (r *replayReport) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	with := strings.Join(r.Compared, ", ")
	switch {
	case !r.Equal && with != "":
		line("differs: %s log against %s", r.Kind, with)
	case !r.Equal:
		line("malformed: %s log", r.Kind)
	case with == "":
		line("replayed: %s log, compared with nothing", r.Kind)
	default:
		line("equal: %s log and %s", r.Kind, with)
	}
	writeFailures(&b, r.Checks)
	line("")
	for _, reg := range r.Registers {
		mark := ""
		if reg.Equal != nil {
			mark = map[bool]string{true: "  equal", false: "  differs"}[*reg.Equal]
		}
		line("%-6s %s %3d events%s", reg.Register, reg.Value, len(reg.Events), mark)
	}
	return b.String()
}

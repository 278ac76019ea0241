package main

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/linuxtsm"
	"github.com/google/go-configfs-tsm/report"
	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/bundle"
	"cocoon/verifier/collateral/forecast"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/pck"
	"cocoon/verifier/tcb"
)

// newTCBCmd is the parent of what concerns a platform's TCB.
func newTCBCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "tcb", Short: "the state of a platform's trusted computing base", Args: cobra.NoArgs}
	cmd.AddCommand(newTCBStatusCmd())
	return cmd
}

// tcbStatusFlags are the flags of "cocoon tcb status".
type tcbStatusFlags struct {
	collateralFlags
	quote string
	early string
	json  bool
}

func newTCBStatusCmd() *cobra.Command {
	f := &tcbStatusFlags{}
	cmd := &cobra.Command{
		Use:   "status [--quote FILE] [--collateral FILE|DIR [--early FILE|DIR] | --pcs URL]",
		Short: "say what the TCB status is, how long that holds, and what to update",
		Long: `Judges a platform, by a quote or by the machine it runs on (a TDX guest), under
the present TCB evaluation and under the next one, which Intel publishes about
a year before it becomes the standard. A service is asked for both; offline
the next one comes from --early.

Exit codes: 0 UpToDate; 4 any other status; 2 Revoked, NotSupported, a quote
that does not verify or collateral that expired; 3 network; 5 unparsable; 6 no
quote given and none can be made here.`,
		Example: `  cocoon tcb status
  cocoon tcb status --quote quote.bin --collateral now.json --early next.json --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runTCBStatus(cmd, f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.quote, "quote", "", "judge by the quote in this `file` (default: ask this machine for one)")
	fs.StringVar(&f.early, "early", "", "read the next evaluation's collateral from a JSON `file` or a directory")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	f.register(cmd)
	f.registerQuote(cmd)
	cmd.MarkFlagsMutuallyExclusive("early", "pcs")
	return cmd
}

// tcbStatusReport says why Next is missing, beside what the forecast knows.
type tcbStatusReport struct {
	*forecast.Report
	NextMissing string `json:"next_missing,omitempty"`
}

func runTCBStatus(cmd *cobra.Command, f *tcbStatusFlags) error {
	now, err := f.now()
	if err != nil {
		return err
	}
	roots, err := f.trusted()
	if err != nil {
		return err
	}
	in := &forecast.Input{AllowZeroPadding: f.padding, Roots: roots, Now: now}
	if f.quote != "" {
		in.Quote, err = readQuote(f.quote)
	} else {
		in.Quote, err = machineQuote(linuxtsm.MakeClient)
	}
	if err != nil {
		return err
	}
	if f.pckChain != "" {
		if in.PCKChain, err = readInput("--pck-chain", f.pckChain, pck.MaxChain); err != nil {
			return err
		}
	}
	missing, err := f.sets(cmd.Context(), cmd.ErrOrStderr(), in)
	if err != nil {
		return err
	}
	rep, err := forecast.Make(in)
	if err != nil {
		return err
	}
	out := &tcbStatusReport{Report: rep, NextMissing: missing}
	if f.json {
		err = writeJSON(cmd.OutOrStdout(), out)
	} else {
		_, err = io.WriteString(cmd.OutOrStdout(), out.text())
	}
	if err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	if err := in.Collateral.CheckTime(now, 0); err != nil {
		return err
	}
	if s := rep.Current.Status; s != tcb.UpToDate {
		return reported(s.Fault(rep.TEE))
	}
	return nil
}

// sets gets the collateral of the present evaluation and, where it can be
// had, of the next; missing says why it cannot.
func (f *tcbStatusFlags) sets(ctx context.Context, stderr io.Writer, in *forecast.Input) (missing string, err error) {
	if f.early != "" {
		if in.Early, err = openBundle(f.early, in.Roots); err != nil {
			return "", fmt.Errorf("reading --early: %w", err)
		}
	}
	if f.collateral != "" {
		in.Collateral, err = openBundle(f.collateral, in.Roots)
		if in.Early == nil {
			missing = "give the early evaluation's collateral with --early"
		}
		return missing, err
	}
	req, err := pcs.RequestOf(in.Quote, in.PCKChain, f.padding, in.Roots)
	if err != nil && len(fault.All(err)) == 0 {
		err = fault.New(fault.ExitRefused, "dcap.pck.chain", "give the platform's chain with --pck-chain, and its own root with --roots", "reading the quote's PCK chain: %w", err)
	}
	if err != nil {
		return "", err
	}
	if req, err = f.request(req); err != nil {
		return "", err
	}
	if in.Collateral, err = f.fetch(ctx, stderr, in.Now, in.Roots, 0, false, req); err != nil || in.Early != nil {
		return "", err
	}
	// The forecast is worth having without its second half: a PCCS may not
	// know the early channel.
	req.Channel, req.Evaluation = pcs.Early, 0
	early, eerr := f.fetch(ctx, stderr, in.Now, in.Roots, 0, false, req)
	if eerr != nil {
		return eerr.Error(), nil
	}
	in.Early = early
	return "", nil
}

func openBundle(path string, roots *pck.Roots) (*collateral.Set, error) {
	raw, err := bundle.Read(path)
	if err != nil {
		return nil, err
	}
	return collateral.Open(raw, roots)
}

// machineQuote asks the machine it runs on for a quote, by way of the
// kernel's trusted security module reports (Linux,
// Documentation/ABI/testing/configfs-tsm). Report data is zero: the quote
// stays here.
func machineQuote(client func() (configfsi.Client, error)) ([]byte, error) {
	const remedy = "run this in a TDX guest with Linux 6.7 or newer and configfs mounted, or give a quote with --quote"
	c, err := client()
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, "tcb.machine.no_tee", remedy, "asking this machine for a quote: %w", err)
	}
	resp, err := report.Get(c, &report.Request{InBlob: make([]byte, 64)})
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, "tcb.machine.no_quote", remedy, "asking this machine for a quote: %w", err)
	}
	if p := strings.TrimSpace(resp.Provider); p != "tdx_guest" {
		return nil, &fault.Fault{Code: "tcb.machine.provider", Exit: fault.ExitNotReady, Msg: "asking this machine for a quote",
			Expected: "provider tdx_guest", Actual: plain(p), Remedy: remedy}
	}
	return resp.OutBlob, nil
}

// text is the report for a person.
func (r *tcbStatusReport) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	status := func(s *forecast.Status) string {
		out := fmt.Sprintf("%s, evaluation %d", s.Status, s.Evaluation)
		if !s.Date.IsZero() {
			out += ", TCB date " + s.Date.UTC().Format(time.DateOnly)
		}
		if len(s.Advisories) > 0 {
			out += ", " + plain(strings.Join(s.Advisories, " "))
		}
		return out
	}
	line("%-12s %s", "now", status(&r.Current))
	switch {
	case r.Next == nil:
		line("%-12s not known: %s", "next", plain(r.NextMissing))
	case r.Later:
		line("%-12s %s", "next", status(r.Next))
	default:
		line("%-12s no later evaluation is published", "next")
	}
	for i, p := range r.Parts {
		name := ""
		if i == 0 {
			name = "collateral"
		}
		line("%-12s %-26s %s, until %s", name, p.Name, daysLeft(p.Days), p.NextUpdate.UTC().Format(time.RFC3339))
	}
	if len(r.Updates) == 0 {
		line("%-12s nothing", "update")
	}
	for _, u := range r.Updates {
		line("%-12s %s (%s): has %d, evaluation %d needs %d", "update", u.Component, plain(u.What), u.Have, u.Evaluation, u.Need)
		line("%-12s hint: %s", "", u.Remedy)
	}
	if s := r.Current.Status; s != tcb.UpToDate {
		line("%-12s %s", "remedy", s.Remedy())
	}
	return b.String()
}

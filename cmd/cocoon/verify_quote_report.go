package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	policy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/tcb"
)

// quoteReport is what "cocoon verify tdx|sgx" writes; docs/verify-quotes.md
// describes it. Its members are always there.
type quoteReport struct {
	Accepted     bool               `json:"accepted"`
	TEE          string             `json:"tee"`
	Version      int                `json:"quote_version"` // 0: the quote does not parse
	Time         time.Time          `json:"time"`          // that was judged at
	Roots        string             `json:"roots"`         // "intel" or "custom"
	TCB          tcbReport          `json:"tcb"`
	Measurements map[string]string  `json:"measurements"`
	Debug        bool               `json:"debug"`
	Platform     dcap.Platform      `json:"platform"`
	Collateral   collateral.Summary `json:"collateral"`
	Checks       []result.Check     `json:"checks"`

	verified *dcap.Result
	faults   []error
}

// tcbReport is the TCB status; every text is empty where the cryptography
// does not hold, and Platform, Module and QE where the part is absent or no
// level matches.
type tcbReport struct {
	Status       tcb.Status   `json:"status"`
	Platform     tcb.Status   `json:"platform"`
	Module       tcb.Status   `json:"module"`
	QE           tcb.Status   `json:"qe"`
	Date         string       `json:"date"` // RFC 3339
	Evaluation   int          `json:"evaluation"`
	QEEvaluation int          `json:"qe_evaluation"`
	Advisories   []string     `json:"advisories"`
	Launch       *tcb.Verdict `json:"launch,omitempty"`
	Current      *tcb.Verdict `json:"current,omitempty"`
}

func newQuoteReport(tee string) *quoteReport {
	return &quoteReport{TEE: tee, TCB: tcbReport{Advisories: []string{}}, Measurements: map[string]string{}, Checks: []result.Check{}}
}

// newTCBReport returns a verification's TCB as it is reported.
func newTCBReport(t *dcap.TCB) tcbReport {
	rep := tcbReport{
		Status: t.Status, Platform: t.Platform, Module: t.Module, QE: t.QE,
		Evaluation: t.Evaluation, QEEvaluation: t.QEEvaluation,
		Advisories: append([]string{}, t.Advisories...), Launch: t.Launch, Current: t.Current,
	}
	if !t.Date.IsZero() {
		rep.Date = t.Date.UTC().Format(time.RFC3339)
	}
	return rep
}

// fill takes over a verification's result.
func (r *quoteReport) fill(res *dcap.Result, measurements map[string]string) {
	r.verified = res
	r.Version, r.Debug, r.Platform, r.Collateral, r.Measurements = res.Version, res.Debug, res.Platform, res.Dates, measurements
	r.Checks = append(r.Checks, res.Checks...)
	r.TCB = newTCBReport(&res.TCB)
}

// noCollateral replaces the verification's word that it was given none by
// the reason.
func (r *quoteReport) noCollateral(fetch error) {
	kept := r.Checks[:0]
	for _, c := range r.Checks {
		if c.ID != "dcap.collateral.missing" {
			kept = append(kept, c)
		} else if fetch == nil {
			kept = append(kept, result.Check{ID: c.ID, Status: result.Skip, Reason: "nothing was fetched: the PCK chain does not hold"})
		}
	}
	r.Checks = kept
}

// finish adds the faults that no check stands for yet and draws the
// conclusion.
func (r *quoteReport) finish(err error) {
	for _, f := range fault.All(err) {
		r.Checks = append(r.Checks, result.Check{ID: f.Code, Status: result.Fail,
			Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
		r.faults = append(r.faults, f)
	}
	own := len(fault.All(err))
	for _, f := range policy.Faults(r.Checks[:len(r.Checks)-own]) {
		r.faults = append(r.faults, f)
	}
	// Fail closed: nothing but a verification with every check good accepts.
	if len(r.faults) == 0 && (r.verified == nil || !r.verified.Genuine) {
		r.faults = append(r.faults, fault.New(fault.ExitRefused, r.TEE+".refused", "report this: a refusal without a failed check", "quote is not genuine"))
	}
	r.Accepted = len(r.faults) == 0
}

// write writes the report and returns what decides the exit code.
func (r *quoteReport) write(w io.Writer, asJSON bool) error {
	return writeReport(w, asJSON, r, r.text, r.faults)
}

// text is the report for a person: the verdict, what failed and what to do,
// then what was found.
func (r *quoteReport) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	what := strings.ToUpper(r.TEE) + " quote"
	if r.Version > 0 {
		what = fmt.Sprintf("%s v%d", what, r.Version)
	}
	status := string(r.TCB.Status)
	if status == "" {
		status = "not known"
	}
	switch {
	case r.Accepted:
		line("accepted: %s, TCB %s", what, status)
	case r.verified == nil:
		line("refused: %s, not verified", what)
	default:
		line("refused: %s, TCB %s", what, status)
	}
	if r.Roots != "intel" {
		line("warning: trusting custom root certificates, not Intel's")
	}
	writeFailures(&b, r.Checks)
	if r.verified == nil {
		return b.String()
	}
	line("")
	if r.TCB.Status != "" {
		line("%-14s platform %s, module %s, QE %s; date %s, evaluation %d", "tcb", orNone(string(r.TCB.Platform)),
			orNone(string(r.TCB.Module)), orNone(string(r.TCB.QE)), orNone(r.TCB.Date), r.TCB.Evaluation)
		line("%-14s %s", "advisories", orNone(plain(strings.Join(r.TCB.Advisories, ", "))))
	}
	if !r.verified.Genuine && r.TCB.Status == "" {
		line("what follows is the quote's own word: nothing vouches for it")
	}
	if r.Platform.FMSPC != "" {
		line("%-14s FMSPC %s, %s CA", "platform", r.Platform.FMSPC, r.Platform.CA)
	}
	if !r.Collateral.EarliestExpiry.IsZero() {
		line("%-14s valid until %s", "collateral", r.Collateral.EarliestExpiry.UTC().Format(time.RFC3339))
	}
	for _, name := range shownMeasurements(r.Measurements) {
		line("%-14s %s", name, r.Measurements[name])
	}
	return b.String()
}

// writeFailures writes the failed checks, each with what was expected, what
// was found and the remedy.
func writeFailures(b *strings.Builder, checks []result.Check) {
	for _, c := range checks {
		if c.Status != result.Fail {
			continue
		}
		fmt.Fprintf(b, "  failed %s: %s\n", c.ID, plain(c.Reason))
		if c.Expected != "" || c.Actual != "" {
			fmt.Fprintf(b, "    expected %s\n    found    %s\n", orNone(plain(c.Expected)), orNone(plain(c.Actual)))
		}
		if c.Remedy != "" {
			fmt.Fprintf(b, "    hint: %s\n", plain(c.Remedy))
		}
	}
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

// shownMeasurements are the measurements that fit on a screen and that people
// compare: the others are in the JSON.
func shownMeasurements(m map[string]string) []string {
	var names []string
	for _, n := range []string{"mrtd", "rtmr0", "rtmr1", "rtmr2", "rtmr3", "mrconfigid", "mrenclave", "mrsigner", "isvprodid", "isvsvn", "report_data"} {
		if v, ok := m[n]; ok && strings.Trim(v, "0") != "" {
			names = append(names, n)
		}
	}
	return names
}

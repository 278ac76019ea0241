package demo

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"strings"

	"cocoon/internal/fault"
)

// expectation is one row of docs/refusals.md.
type expectation struct{ name, step, code string }

var rowRE = regexp.MustCompile("^\\| `([a-z_]+)` \\|[^|]*\\| ([a-z]+) \\| `([a-z0-9_.]+)` \\|$")

// readExpectations reads the table of docs/refusals.md, which is what users
// are promised.
func readExpectations(path string) (map[string]expectation, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading the promised refusals: %w", err)
	}
	defer f.Close()
	want := map[string]expectation{}
	sc := bufio.NewScanner(f)
	for sc.Scan() {
		if m := rowRE.FindStringSubmatch(sc.Text()); m != nil {
			want[m[1]] = expectation{m[1], m[2], m[3]}
		}
	}
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading the promised refusals: %w", err)
	}
	if len(want) == 0 {
		return nil, fmt.Errorf("reading the promised refusals: no table in %s", path)
	}
	return want, nil
}

// compareExpectations demands that what happened is what was promised: no
// case missing, none besides, each at its step and with its code.
func compareExpectations(want map[string]expectation, got []Refusal) error {
	var bad []string
	seen := map[string]bool{}
	for _, r := range got {
		seen[r.Case] = true
		if w, ok := want[r.Case]; !ok {
			bad = append(bad, fmt.Sprintf("%s is not in docs/refusals.md", r.Case))
		} else if w.step != r.Step || w.code != r.Code {
			bad = append(bad, fmt.Sprintf("%s: promised %s %s, got %s %s", r.Case, w.step, w.code, r.Step, r.Code))
		}
	}
	for name := range want {
		if !seen[name] {
			bad = append(bad, fmt.Sprintf("%s was promised and did not happen", name))
		}
	}
	if len(bad) == 0 {
		return nil
	}
	sort.Strings(bad)
	return fault.New(fault.ExitInternal, "demo.refusals", "this is a defect; please report it", "comparing refusals with docs/refusals.md: %s", strings.Join(bad, "; "))
}

func (r *run) summary(context.Context) error {
	if err := r.keepConsole(vmName); err != nil {
		return err
	}
	r.host.stop(vmName)
	r.stop() // what is still written to the logs belongs to what is kept
	want, err := readExpectations(filepath.Join(r.Root, "docs", "refusals.md"))
	if err != nil {
		return err
	}
	if err := compareExpectations(want, slices.Concat(r.rep.Refusals, r.rep.AlsoRefused)); err != nil {
		return err
	}
	r.begin("summary", "write the report")
	r.rep.Version = 1
	r.end()
	r.rep.Seconds = r.seconds
	r.rep.Seconds["total"] = r.clock().Sub(r.start).Seconds()
	if err := writeJSON(r.keep(fileReport), &r.rep); err != nil {
		return err
	}
	if err := writeSums(r.Out); err != nil {
		return err
	}
	printSummary(r.Stdout, &r.rep, r.Out)
	return nil
}

// printSummary says what was shown, to a person.
func printSummary(w io.Writer, rep *Report, out string) {
	fmt.Fprintf(w, "\n================ what this run has shown ================\n\n")
	fmt.Fprintf(w, "  %s\n\n", strings.ToUpper(rep.Notice[:1])+rep.Notice[1:]+".")
	fmt.Fprintf(w, "  The image booted (%s) and measured what was predicted from its files:\n\n", rep.Accelerator)
	rows := [][]string{{"PCR", "predicted", "measured", ""}}
	for _, p := range rep.PCRs {
		verdict := "equal"
		if p.Predicted == "" {
			p.Predicted, verdict = "-", "reported only"
		} else if p.Predicted != p.Measured {
			verdict = "DIFFERENT"
		} else if p.Source == "recorded" {
			verdict = "equal (recorded per firmware)"
		}
		rows = append(rows, []string{fmt.Sprint(p.Index), short(p.Predicted), short(p.Measured), verdict})
	}
	table(w, rows)
	fmt.Fprintf(w, "\n  The verifier's verdict: %s, trust class %s, manifest %s.\n", rep.Verdict.Status, rep.Verdict.TrustClass, short(rep.ManifestSHA256.String()))
	fmt.Fprintf(w, "  The client verified the same evidence itself, then asked %q\n  and was answered %q, %.1f s after power-on\n  (the model is a toy that has memorised a few answers).\n", rep.Prompt, strings.TrimSpace(rep.Answer), rep.FirstToken)
	printLedger(w, rep)
	fmt.Fprintf(w, "\n  With one thing changed, each of these was refused:\n\n")
	rows = [][]string{{"case", "step", "code", "expected", "actual", "by"}}
	for _, f := range slices.Concat(rep.Refusals, rep.AlsoRefused) {
		rows = append(rows, []string{f.Case, f.Step, f.Code, short(f.Expected), short(f.Actual), strings.Join(f.By, ", ")})
	}
	table(w, rows)
	fmt.Fprintf(w, "\n  Everything is in %s; check it again, offline, with:\n\n    build/bin/cocoon demo verify %s\n\n", out, out)
}

func short(s string) string {
	if len(s) > 20 {
		return s[:16] + "…"
	}
	return s
}

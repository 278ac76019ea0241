// Package resulttest is for tests of what makes checks: in come checks, and what
// their readers are promised and do not get becomes a test's failure.
package resulttest

import (
	"slices"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
)

// Complete wants of every failed check of a result what each failure is promised
// with: id, expected, actual, reason, remedy, document and section, each a text
// without blanks at its ends and on one line; and of every other check document
// and section. It returns the result.
func Complete(t testing.TB, r *result.Result) *result.Result {
	t.Helper()
	for _, c := range r.Checks() {
		if c.ID == "" || c.Document == "" || c.Section == "" {
			t.Errorf("%+v follows no document", c)
		}
	}
	complete(t, r.Failed())
	return r
}

// CompleteChecks is Complete for checks that no appraisal has cited yet.
func CompleteChecks(t testing.TB, checks []result.Check) {
	t.Helper()
	failed := slices.DeleteFunc(slices.Clone(checks), func(c result.Check) bool { return c.Status != result.Fail })
	result.Cite(failed)
	complete(t, failed)
}

// Faults wants of every fault of an error what it becomes a check with: code,
// message, expected, actual and remedy. It returns the error.
func Faults(t testing.TB, err error) error {
	t.Helper()
	for _, f := range fault.All(err) {
		c := []result.Check{{ID: f.Code, Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy}}
		result.Cite(c)
		complete(t, c)
	}
	return err
}

func complete(t testing.TB, failed []result.Check) {
	t.Helper()
	for _, c := range failed {
		for _, part := range []struct{ name, text string }{
			{"id", c.ID}, {"expected", c.Expected}, {"actual", c.Actual}, {"reason", c.Reason}, {"remedy", c.Remedy}, {"document", c.Document}, {"section", c.Section},
		} {
			if part.text == "" || strings.TrimSpace(part.text) != part.text || strings.Contains(part.text, "\n") {
				t.Errorf("failed check %q has the %s %q: %+v", c.ID, part.name, part.text, c)
			}
		}
	}
}

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/tcb"
)

// TestVerifyGivesEveryRealCaseItsStatus runs the plain command on every real
// quote with collateral: status and its parts are those of Intel's library,
// and the exit code is the one of the status, or of the debug flag.
func TestVerifyGivesEveryRealCaseItsStatus(t *testing.T) {
	dir := vectors.Dir(t)
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		DCAP []struct {
			Kind, Quote string
			Cases       []struct {
				Collateral, Expect, Platform, Module, QE string
				VerifyAt                                 int64    `json:"verify_at"`
				TCBDate                                  string   `json:"tcbDate"`
				TCBEval                                  int      `json:"tcbEval"`
				Advisories                               []string `json:"advisories"`
			}
		} `json:"dcap"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	total, good := 0, 0
	for _, q := range index.DCAP {
		for _, c := range q.Cases {
			total++
			ok := t.Run(filepath.Base(c.Collateral), func(t *testing.T) {
				want := c.Expect
				if strings.HasPrefix(want, "TCB_NOT_SUPPORTED") {
					want = string(tcb.NotSupported)
				}
				code, stdout, stderr := runHere(t, "verify", q.Kind, "--quote", filepath.Join(dir, q.Quote),
					"--collateral", filepath.Join(dir, c.Collateral), "--at", strconv.FormatInt(c.VerifyAt, 10), "--json")
				var rep quoteReport
				if err := json.Unmarshal([]byte(stdout), &rep); err != nil {
					t.Fatalf("%v in %s%s", err, stdout, stderr)
				}
				got := rep.TCB
				if string(got.Status) != want || string(got.Platform) != c.Platform || string(got.Module) != c.Module ||
					string(got.QE) != c.QE || got.Date != c.TCBDate || got.Evaluation != c.TCBEval || !slices.Equal(got.Advisories, c.Advisories) {
					t.Errorf("tcb is %+v, want %+v", got, c)
				}
				exit := fault.ExitPolicy
				switch {
				case want == string(tcb.NotSupported):
					exit = fault.ExitRefused
				case want == string(tcb.UpToDate) && !rep.Debug:
					exit = fault.ExitOK
				}
				if code != exit || rep.Accepted != (exit == fault.ExitOK) {
					t.Errorf("exit code is %d, accepted %t, want %d", code, rep.Accepted, exit)
				}
			})
			if ok {
				good++
			}
		}
	}
	t.Logf("%d of %d cases as expected", good, total)
	if total == 0 {
		t.Error("the index has no cases")
	}
}

package tdx_test

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/tcb"
)

// vectorQuote is an entry of the vectors' index.
type vectorQuote struct {
	Kind  string       `json:"kind"`
	Name  string       `json:"name"`
	Quote string       `json:"quote"`
	FMSPC string       `json:"fmspc"`
	Cases []vectorCase `json:"cases"`
}

type vectorCase struct {
	Collateral string   `json:"collateral"`
	VerifyAt   int64    `json:"verify_at"`
	TCBEval    int      `json:"tcbEval"`
	Expect     string   `json:"expect"`
	Platform   string   `json:"platform"`
	Module     string   `json:"module"`
	QE         string   `json:"qe"`
	Advisories []string `json:"advisories"`
	TCBDate    string   `json:"tcbDate"` // RFC 3339, empty for NotSupported
	GoTDXGuest string   `json:"go_tdx_guest_v031"`
	DCAPQVL    string   `json:"dcap_qvl_js_0_3_9"`
}

// want is the status that a case expects, in this project's spelling.
func (c *vectorCase) want() tcb.Status {
	if strings.HasPrefix(c.Expect, "TCB_NOT_SUPPORTED") {
		return tcb.NotSupported
	}
	return tcb.Status(c.Expect)
}

func loadVectors(t testing.TB) (string, []vectorQuote) {
	t.Helper()
	dir := vectors.Dir(t)
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		DCAP []vectorQuote `json:"dcap"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	return dir, index.DCAP
}

func readFile(t testing.TB, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readCollateral(t testing.TB, parts ...string) *collateral.Raw {
	t.Helper()
	raw, err := collateral.ParseJSON(readFile(t, parts...))
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// verifyKind verifies a quote of either kind and returns the common result.
func verifyKind(t testing.TB, kind string, quote []byte, o *dcap.Options) (*dcap.Result, error) {
	if kind == "sgx" {
		res, err := verifiedSGX(t, quote, o)
		if res == nil {
			return nil, err
		}
		return &res.Result, err
	}
	res, err := verified(t, quote, o)
	if res == nil {
		return nil, err
	}
	return &res.Result, err
}

func TestEveryRealCaseHasTheVerdictOfIntelsLibrary(t *testing.T) {
	dir, quotes := loadVectors(t)
	cache := dcap.NewCache(dcap.CacheOptions{})
	total, good := 0, 0
	for _, q := range quotes {
		raw := readFile(t, dir, q.Quote)
		for _, c := range q.Cases {
			total++
			o := &dcap.Options{RawCollateral: readCollateral(t, dir, c.Collateral), Now: time.Unix(c.VerifyAt, 0), Cache: cache}
			ok := t.Run(filepath.Base(c.Collateral), func(t *testing.T) { checkCase(t, q.Kind, raw, &c, o) })
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

func checkCase(t *testing.T, kind string, raw []byte, c *vectorCase, o *dcap.Options) {
	res, err := verifyKind(t, kind, raw, o)
	if res == nil {
		t.Fatalf("no result: %v", err)
	}
	want := c.want()
	if refused := want == tcb.NotSupported || want == tcb.Revoked; refused != (err != nil) {
		t.Errorf("error is %v with status %s", err, want)
	}
	if err != nil && (!fault.Has(err, kind+".tcb."+want.Code()) || fault.ExitCode(err) != fault.ExitRefused || len(fault.All(err)) != 1) {
		t.Errorf("faults are %v", err)
	}
	set, err := collateral.Open(o.RawCollateral, nil)
	if err != nil {
		t.Fatal(err)
	}
	exp := dcap.TCB{Evaluation: c.TCBEval, QEEvaluation: set.QEIdentity().Evaluation}
	var date time.Time
	if c.TCBDate != "" {
		date, err = time.Parse(time.RFC3339, c.TCBDate)
		if err != nil {
			t.Fatal(err)
		}
	}
	exp.Verdict = tcb.Verdict{Status: want, Platform: tcb.Status(c.Platform), Module: tcb.Status(c.Module),
		QE: tcb.Status(c.QE), Date: date, Advisories: c.Advisories}
	got := res.TCB
	got.Launch, got.Current = nil, nil
	if diff := cmp.Diff(exp, got); diff != "" {
		t.Errorf("TCB differs (-want +got):\n%s", diff)
	}
	// The same verdict with opened collateral and a filled cache.
	warm := *o
	warm.RawCollateral, warm.Collateral = nil, set
	again, _ := verifyKind(t, kind, raw, &warm)
	if diff := cmp.Diff(res, again); diff != "" {
		t.Errorf("warm result differs (-cold +warm):\n%s", diff)
	}
}

// TestRealNegativesAreRefused takes quotes that come without collateral: those
// whose cryptography is wrong are refused for that, the others only for what
// the collateral would have said.
func TestRealNegativesAreRefused(t *testing.T) {
	want := map[string]string{
		"sgx-v3-oasis-core-none-72a0":             "dcap.pck.missing",
		"sgx-v3-rust-sgx-00906ea10000-e979":       "",
		"sgx-v3-rust-sgx-00906ea10000-6dc7":       "dcap.pck.root",
		"sgx-v3-oasis-core-00906ea10000-f18a":     "",
		"tdx-v4-oasis-core-c0806f000000-46ca":     "",
		"tdx-v4-cc-trusted-api-10806f070000-3f49": "dcap.pck.root",
		"sgx-v3-openenclave-00906ea10000-2a49":    "dcap.pck.chain",
		"sgx-v3-openenclave-none-f4f2":            "dcap.pck.root",
		"sgx-v3-openenclave-none-4e3f":            "dcap.pck.chain",
	}
	dir, quotes := loadVectors(t)
	for _, q := range quotes {
		if len(q.Cases) > 0 {
			continue
		}
		t.Run(q.Name, func(t *testing.T) {
			res, err := verifyKind(t, q.Kind, readFile(t, dir, q.Quote), &dcap.Options{Now: time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)})
			if res == nil {
				t.Fatalf("no result: %v", err)
			}
			code, known := want[q.Name]
			if !known {
				t.Fatalf("quote %q is not in the table", q.Name)
			}
			if !fault.Has(err, "dcap.collateral.missing") || fault.ExitCode(err) != fault.ExitRefused {
				t.Errorf("faults are %v", err)
			}
			if code != "" && !fault.Has(err, code) {
				t.Errorf("no fault %s in: %v", code, err)
			}
			if code == "" && len(fault.All(err)) != 1 {
				t.Errorf("more than the collateral is missing: %v", err)
			}
			if res.Genuine || res.TCB.Status != "" {
				t.Errorf("result of a refused quote has a verdict: %+v", res.TCB)
			}
		})
	}
}

func TestErrorsJoinFaults(t *testing.T) {
	_, err := verified(t, []byte("no quote"), nil)
	var f *fault.Fault
	if !errors.As(err, &f) || f.Code != "tdx.quote.parse" || f.Exit != fault.ExitParse {
		t.Errorf("error is %v", err)
	}
}

func haveVectors() bool { return vectors.Find() != "" }

func TestRealCasesOutsideTheirWindowAreRefused(t *testing.T) {
	dir, quotes := loadVectors(t)
	for _, q := range quotes {
		raw := readFile(t, dir, q.Quote)
		for _, c := range q.Cases {
			set, err := collateral.Open(readCollateral(t, dir, c.Collateral), nil)
			if err != nil {
				t.Fatal(err)
			}
			sum := set.Summary()
			for at, code := range map[time.Time]string{
				sum.LatestIssue:                     "",
				sum.LatestIssue.Add(-time.Second):   "dcap.collateral.not_yet_valid",
				sum.EarliestExpiry:                  "",
				sum.EarliestExpiry.Add(time.Second): "dcap.collateral.expired",
			} {
				res, err := verifyKind(t, q.Kind, raw, &dcap.Options{Collateral: set, Now: at})
				if code == "" {
					if fault.Has(err, "dcap.collateral.expired") || fault.Has(err, "dcap.collateral.not_yet_valid") {
						t.Errorf("%s at %s: %v", c.Collateral, at, err)
					}
					continue
				}
				if !fault.Has(err, code) || fault.ExitCode(err) != fault.ExitRefused || res.TCB.Status != c.want() {
					t.Errorf("%s at %s: status %q, error %v", c.Collateral, at, res.TCB.Status, err)
				}
			}
		}
	}
}

func TestRealCollateralOfAnotherPlatformIsRefused(t *testing.T) {
	dir, quotes := loadVectors(t)
	pairs := 0
	for _, a := range quotes {
		for _, b := range quotes {
			if len(a.Cases) == 0 || len(b.Cases) == 0 || a.FMSPC == b.FMSPC && a.Kind == b.Kind {
				continue
			}
			pairs++
			c := b.Cases[0]
			o := &dcap.Options{RawCollateral: readCollateral(t, dir, c.Collateral), Now: time.Unix(c.VerifyAt, 0)}
			_, err := verifyKind(t, a.Kind, readFile(t, dir, a.Quote), o)
			want := "dcap.collateral.fmspc"
			if a.Kind != b.Kind {
				want = "dcap.collateral.tee"
			}
			if !fault.Has(err, want) || fault.ExitCode(err) != fault.ExitRefused {
				t.Errorf("%s with %s: no fault %s in %v", a.Name, c.Collateral, want, err)
			}
		}
	}
	t.Logf("%d pairs", pairs)
}

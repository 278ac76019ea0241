package tee_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/vectors"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/result"
	"cocoon/verifier/resulttest"
	"cocoon/verifier/tdxtest"
)

func foreignPolicy() *policy.Policy {
	return &policy.Policy{Format: policy.Format, Name: "foreign", Environment: policy.Production, TrustClasses: []string{policy.ClassTDX, policy.ClassSNP},
		DCAP: dcappolicy.Default(), SNP: snppolicy.Default(), Freshness: policy.Freshness{VerdictSeconds: 3600}}
}

func read(t *testing.T, parts ...string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(parts...))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// TestRecordedEvidenceHasItsTCBAndNoMore appraises every real quote and report
// as foreign: the TCB status is the index's, and nothing is ever accepted or
// affirming.
func TestRecordedEvidenceHasItsTCBAndNoMore(t *testing.T) {
	dir := vectors.Dir(t)
	var index struct {
		DCAP []struct {
			Kind, Quote string
			Cases       []struct {
				Collateral string
				VerifyAt   int64 `json:"verify_at"`
				Expect     string
			}
		}
	}
	if err := json.Unmarshal(read(t, dir, "index.json"), &index); err != nil {
		t.Fatal(err)
	}
	cases, upToDate := 0, 0
	for _, q := range index.DCAP {
		for _, c := range q.Cases {
			cases++
			ev := &evidence.Foreign{Profile: evidence.ProfileForeign, Collateral: read(t, dir, c.Collateral),
				CPU: &evidence.CPU{Type: q.Kind, Quote: read(t, dir, q.Quote), CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}}}
			r := appraiseForeign(t, ev, time.Unix(c.VerifyAt, 0))
			bad := map[string]bool{}
			for _, k := range r.Failed() {
				bad[k.ID] = true
			}
			if c.Expect == "UpToDate" {
				upToDate++
				for id := range bad {
					if strings.HasPrefix(id, q.Kind+".tcb.") || strings.HasPrefix(id, "dcap.") {
						t.Errorf("%s: %s failed", c.Collateral, id)
					}
				}
			} else if len(bad) == 0 {
				t.Errorf("%s: status %s, and nothing failed", c.Collateral, c.Expect)
			}
			if len(r.Measurements["mrtd"]) != 96 && len(r.Measurements["mrenclave"]) != 64 || r.Accepted || !r.Foreign || r.Status() == result.Affirming || r.TrustClass != q.Kind {
				t.Errorf("%s: measurements %v", c.Collateral, r.Measurements)
			}
		}
	}
	if cases == 0 || upToDate == 0 {
		t.Errorf("%d cases, %d up to date", cases, upToDate)
	}
	reports, err := filepath.Glob(filepath.Join(dir, "snp", "snp-v*.report.bin"))
	if err != nil || len(reports) == 0 {
		t.Fatalf("%d reports, %v", len(reports), err)
	}
	for _, path := range reports {
		var chain [][]byte
		for _, kind := range []string{".vcek.der", ".vlek.der"} {
			if b, err := os.ReadFile(strings.TrimSuffix(path, ".report.bin") + kind); err == nil {
				chain = append(chain, b)
			}
		}
		r := appraiseForeign(t, &evidence.Foreign{Profile: evidence.ProfileForeign, CPU: &evidence.CPU{Type: evidence.TypeSNP, Quote: read(t, path), CertChain: chain}},
			time.Date(2025, 6, 1, 0, 0, 0, 0, time.UTC))
		if len(r.Measurements["launch_digest"]) != 96 {
			t.Errorf("%s: measurements %v", path, r.Measurements)
		}
	}
}

func appraiseForeign(t *testing.T, ev *evidence.Foreign, at time.Time) *result.Result {
	return resulttest.Complete(t, appraise.AppraiseForeign(ev, &appraise.Options{Policy: foreignPolicy(), Now: at, CPUs: tee.CPUs(tee.Options{})}))
}

// TestForeignEvidenceIsNeverAffirmed appraises evidence that is good in all
// that can be looked at.
func TestForeignEvidenceIsNeverAffirmed(t *testing.T) {
	w := newWorld(t)
	own := w.evidence(t)
	doc, err := w.raw.MarshalJSON()
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		change func(*evidence.Foreign)
		want   result.Status
		failed string
	}{
		"good":                  {func(*evidence.Foreign) {}, result.Warning, ""},
		"without its log":       {func(f *evidence.Foreign) { f.CPU.EventLog = nil }, result.Warning, ""},
		"a changed quote":       {func(f *evidence.Foreign) { f.CPU.Quote = append([]byte{}, f.CPU.Quote...); f.CPU.Quote[200] ^= 1 }, result.Contraindicated, "tdx.quote.signature"},
		"another boot's log":    {func(f *evidence.Foreign) { f.CPU.EventLog = []byte{1} }, result.Contraindicated, "tdx.event_log.format"},
		"no collateral":         {func(f *evidence.Foreign) { f.Collateral = nil }, result.Contraindicated, "dcap.collateral.missing"},
		"a type nobody reads":   {func(f *evidence.Foreign) { f.CPU.Type = evidence.TypeTPM }, result.Contraindicated, "evidence.type.unsupported"},
		"a TD's quote as SGX's": {func(f *evidence.Foreign) { f.CPU.Type = evidence.TypeSGX }, result.Contraindicated, "sgx.quote.parse"},
		"a report of SNP":       {func(f *evidence.Foreign) { f.CPU.Type = evidence.TypeSNP }, result.Contraindicated, "snp.report.parse"},
		"Azure's without a HCL": {func(f *evidence.Foreign) { f.CPU.Type = evidence.TypeAzTDX }, result.Contraindicated, "azure.hcl.parse"},
	} {
		t.Run(name, func(t *testing.T) {
			cpu := own.CPU
			f := &evidence.Foreign{Profile: evidence.ProfileForeign, CPU: &cpu, Collateral: doc}
			c.change(f)
			r := resulttest.Complete(t, appraise.AppraiseForeign(f, &appraise.Options{Policy: w.Policy, Now: tdxtest.Now, CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: w.pki.Roots()}})}))
			if r.Accepted || !r.Foreign || r.Status() != c.want {
				t.Errorf("accepted %v, foreign %v, status %s, want %s: %v", r.Accepted, r.Foreign, r.Status(), c.want, r.Failed())
			}
			found := c.failed == ""
			for _, k := range r.Failed() {
				found = found || k.ID == c.failed
			}
			if !found {
				t.Errorf("%s did not fail: %+v", c.failed, r.Failed())
			}
		})
	}
}

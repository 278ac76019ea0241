package main

import (
	"crypto/ed25519"
	"encoding/binary"
	"encoding/json"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// recordedVerifier serves a production policy under the makers' roots.
func recordedVerifier(t *testing.T) string {
	t.Helper()
	w := tpmtest.NewWorld(t)
	p := *w.Policy
	p.Environment, p.TPM = policy.Production, nil
	p.TrustClasses = []string{policy.ClassTDX, policy.ClassSNP, policy.ClassSGX, policy.ClassAzTDX, policy.ClassAzSNP}
	p.DCAP, p.SNP = dcappolicy.Default(), snppolicy.Default()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := server.New(server.Options{Trust: server.Trust{Policy: &p, Manifests: w.Manifests(t), CPUs: tee.CPUs(tee.Options{}), Signer: key}, PerSecond: 1e6, Burst: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// TestEveryRealBundleIsAppraisedAsForeign sends every real quote, report and
// Azure bundle to a verifier, at a time when it was good. None is accepted or
// affirmed, and none has a key.
func TestEveryRealBundleIsAppraisedAsForeign(t *testing.T) {
	dir := vectors.Dir(t)
	url := recordedVerifier(t)
	b, err := os.ReadFile(filepath.Join(dir, "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	var index struct {
		DCAP []struct {
			Kind, Quote string
			Cases       []struct {
				Collateral, Expect string
				VerifyAt           int64 `json:"verify_at"`
			}
		} `json:"dcap"`
	}
	if err := json.Unmarshal(b, &index); err != nil {
		t.Fatal(err)
	}
	appraised := map[string]int{}
	// send returns the codes of the failed checks.
	send := func(t *testing.T, class string, args ...string) map[string]bool {
		t.Helper()
		code, stdout, stderr := runHere(t, append([]string{"appraise", "--verifier", url, "--json"}, args...)...)
		var r result.Result
		if err := json.Unmarshal([]byte(stdout), &r); err != nil {
			t.Fatalf("%v in %s%s", err, stdout, stderr)
		}
		if !r.Foreign || r.Accepted || r.TrustClass != class || r.Status() == result.Affirming || !r.Claims.ReceiptKey.IsZero() {
			t.Errorf("foreign %v, accepted %v, class %s, status %s", r.Foreign, r.Accepted, r.TrustClass, r.Status())
		}
		failed := map[string]bool{}
		for _, c := range r.Failed() {
			failed[c.ID] = true
		}
		if (code == 0) != (len(failed) == 0) {
			t.Errorf("exit code %d, failed %v", code, failed)
		}
		appraised[class]++
		return failed
	}
	for _, q := range index.DCAP {
		if len(q.Cases) == 0 {
			t.Run(filepath.Base(q.Quote), func(t *testing.T) {
				code, stdout, stderr := runHere(t, "appraise", filepath.Join(dir, q.Quote), "--verifier", url, "--json")
				if code == 0 || strings.Contains(stdout, `"accepted": true`) {
					t.Errorf("exit code %d: %s%s", code, stdout, stderr)
				}
			})
		}
		for _, c := range q.Cases {
			t.Run(filepath.Base(c.Collateral), func(t *testing.T) {
				failed := send(t, q.Kind, filepath.Join(dir, q.Quote), "--collateral", filepath.Join(dir, c.Collateral), "--at", strconv.FormatInt(c.VerifyAt, 10))
				tcb := false
				for id := range failed {
					tcb = tcb || strings.HasPrefix(id, q.Kind+".tcb.") || strings.HasPrefix(id, "dcap.")
				}
				if tcb != (c.Expect != "UpToDate") {
					t.Errorf("expected %s, failed %v", c.Expect, failed)
				}
			})
		}
	}
	reports, err := filepath.Glob(filepath.Join(dir, "snp", "snp-v*.report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range reports {
		t.Run(filepath.Base(path), func(t *testing.T) {
			args := []string{path, "--at", "2025-06-01T00:00:00Z"}
			for _, kind := range []string{".vcek.der", ".vlek.der"} {
				if cert := strings.TrimSuffix(path, ".report.bin") + kind; exists(cert) {
					args = append(args, "--certificate", cert)
				}
			}
			failed := send(t, policy.ClassSNP, args...)
			if failed["snp.cert.missing"] != (len(args) == 3) || failed["snp.signature"] {
				t.Errorf("failed %v", failed)
			}
		})
	}
	bundles, err := filepath.Glob(filepath.Join(dir, "azure-vtpm", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range bundles {
		t.Run(filepath.Base(path), func(t *testing.T) {
			class := policy.ClassAzSNP
			if strings.HasPrefix(filepath.Base(path), "tdx-") {
				class = policy.ClassAzTDX
			}
			failed := send(t, class, path, "--at", "2025-06-01T00:00:00Z")
			if failed["azure.runtime.hash"] || failed["tpm.quote.signature"] || failed["azure.hcl.parse"] {
				t.Errorf("failed %v", failed)
			}
		})
	}
	t.Run("a TD's quote with its CCEL", func(t *testing.T) {
		pair := filepath.Join(dir, "eventlog", "ccel-gcp-cos113")
		raw, err := os.ReadFile(pair + ".quote.bin")
		if err != nil {
			t.Fatal(err)
		}
		// Its collector padded the quote to the size of its buffer.
		quote := filepath.Join(t.TempDir(), "quote.bin")
		if err := os.WriteFile(quote, raw[:636+binary.LittleEndian.Uint32(raw[632:])], 0o600); err != nil {
			t.Fatal(err)
		}
		failed := send(t, policy.ClassTDX, quote, "--event-log", pair+".ccel.bin", "--at", "2025-06-01T00:00:00Z")
		if failed["tdx.event_log.format"] || failed["tdx.event_log.replay"] || !failed["dcap.collateral.missing"] {
			t.Errorf("failed %v", failed)
		}
		failed = send(t, policy.ClassTDX, quote, "--event-log", filepath.Join(dir, "eventlog", "ccel-trustee-CCEL_data_ovmf.ccel.bin"), "--at", "2025-06-01T00:00:00Z")
		if !failed["tdx.event_log.replay"] {
			t.Errorf("another machine's log: failed %v", failed)
		}
	})
	for class, least := range map[string]int{"tdx": 35, "sgx": 10, "snp": 13, "az-snp": 4, "az-tdx": 1} {
		if appraised[class] < least {
			t.Errorf("%d of class %s, want %d", appraised[class], class, least)
		}
	}
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

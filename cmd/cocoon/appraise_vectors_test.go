package main

import (
	"crypto/ed25519"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"cocoon/internal/vectors"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	gpupolicy "cocoon/verifier/policy/nvgpu"
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
	p.DCAP, p.SNP, p.NVGPU = dcappolicy.Default(), snppolicy.Default(), &gpupolicy.Policy{OCSP: gpupolicy.OCSP{AllowMissing: true}}
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	h, err := server.New(server.Options{Trust: server.Trust{Policy: &p, Manifests: w.Manifests(t), CPUs: tee.CPUs(tee.Options{}), GPUs: gpus.New(gpus.Options{}), Signer: key}, PerSecond: 1e6, Burst: 1e6})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	return srv.URL
}

// recordedRun sends real evidence to a verifier and remembers which files of
// the vectors it took.
type recordedRun struct {
	dir, url  string
	taken     map[string]bool
	appraised map[string]int // by class; "" is that of GPUs alone
}

// file names a file of the vectors for the command line.
func (r *recordedRun) file(parts ...string) string {
	rel := filepath.Join(parts...)
	r.taken[rel] = true
	return filepath.Join(r.dir, rel)
}

// send has evidence appraised and returns the IDs of the failed checks. It is
// never accepted or affirmed, and has no key and no token.
func (r *recordedRun) send(t *testing.T, class string, args ...string) map[string]bool {
	t.Helper()
	code, stdout, stderr := runHere(t, append([]string{"appraise", "--verifier", r.url, "--json"}, args...)...)
	var res result.Result
	if err := json.Unmarshal([]byte(stdout), &res); err != nil {
		t.Fatalf("%v in %s%s", err, stdout, stderr)
	}
	if !res.Foreign || res.Accepted || res.TrustClass != class || res.Status() == result.Affirming || !res.Claims.ReceiptKey.IsZero() || strings.Contains(stdout, `"ear"`) {
		t.Errorf("foreign %v, accepted %v, class %q, status %s", res.Foreign, res.Accepted, res.TrustClass, res.Status())
	}
	for name, s := range res.Submods {
		if s.Status == result.Affirming || s.Status == result.None {
			t.Errorf("%s is %s", name, s.Status)
		}
	}
	failed := map[string]bool{}
	for _, c := range res.Failed() {
		failed[c.ID] = true
	}
	if (code == 0) != (len(failed) == 0) {
		t.Errorf("exit code %d, failed %v", code, failed)
	}
	r.appraised[class]++
	return failed
}

// TestEveryRealBundleIsAppraisedAsForeign sends every real quote, report and
// agent's bundle to a verifier, at a time when it was good. Files of the vectors
// that are neither sent nor go with one that is have to be among those that are
// no evidence of a machine.
func TestEveryRealBundleIsAppraisedAsForeign(t *testing.T) {
	r := &recordedRun{dir: vectors.Dir(t), url: recordedVerifier(t), taken: map[string]bool{}, appraised: map[string]int{}}
	r.quotes(t)
	r.reports(t)
	r.agents(t)
	r.gpus(t)
	for class, least := range map[string]int{"tdx": 41, "sgx": 10, "snp": 14, "az-snp": 4, "az-tdx": 1, "": 15} {
		if r.appraised[class] < least {
			t.Errorf("%d of class %q, want %d", r.appraised[class], class, least)
		}
	}
	err := filepath.WalkDir(r.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(r.dir, path)
		if err == nil && !r.taken[rel] && !noEvidence(rel) {
			t.Errorf("%s is neither appraised nor known as something else", rel)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// noEvidence reports whether a file of the vectors is of a kind that shows no
// machine: documentation, roots, RIMs without a device, golden values, logs
// without a quote.
func noEvidence(rel string) bool {
	for _, pattern := range []string{
		"README.md", "gpu/README.md", "index.json", "gpu/roots/*", "gpu/rims/*", "gpu/claims/*", // claims: what NVIDIA's service said, not a device
		"gpu/evidence/*/meta.json", "gpu/evidence/*/ocsp-gpu_driver_rim_l?.der", "gpu/evidence/*/ocsp-gpu_rim_l2.der", "gpu/evidence/*/ocsp-gpu_vbios_l4.der", // good two months after the rest
		"snp/chains/*", "snp/neg-*.vcek.der", "eventlog/*.ccel-table.bin", "eventlog/*.nonce.bin", "eventlog/*.expected.json", "eventlog/ccel-trustee-*.ccel.bin",
		"eventlog/neg-*.ccel.bin", "eventlog/tpm-*.eventlog.bin", "launch/debian-golden.json", "launch/sev-snp-measure-golden.json", "launch/*.bin", "launch/*.fd",
	} {
		if ok, err := filepath.Match(pattern, rel); err == nil && ok {
			return true
		}
	}
	return false
}

// quotes sends every TDX and SGX quote of the index, once for each set of
// collateral. Those without are refused, or do not parse.
func (r *recordedRun) quotes(t *testing.T) {
	b, err := os.ReadFile(r.file("index.json"))
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
	for _, q := range index.DCAP {
		quote := r.file(q.Quote)
		if len(q.Cases) == 0 {
			t.Run(filepath.Base(q.Quote), func(t *testing.T) {
				failed := r.send(t, q.Kind, quote, "--at", "2025-06-01T00:00:00Z")
				if len(failed) == 0 {
					t.Error("nothing of it failed")
				}
			})
		}
		for _, c := range q.Cases {
			t.Run(filepath.Base(c.Collateral), func(t *testing.T) {
				failed := r.send(t, q.Kind, quote, "--collateral", r.file(c.Collateral), "--at", strconv.FormatInt(c.VerifyAt, 10))
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
}

// reports sends every SNP report.
func (r *recordedRun) reports(t *testing.T) {
	reports, err := filepath.Glob(filepath.Join(r.dir, "snp", "snp-v*.report.bin"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range reports {
		t.Run(filepath.Base(path), func(t *testing.T) {
			args := []string{r.file("snp", filepath.Base(path)), "--at", "2025-06-01T00:00:00Z"}
			for _, kind := range []string{".vcek.der", ".vlek.der"} {
				if cert := strings.TrimSuffix(path, ".report.bin") + kind; exists(cert) {
					args = append(args, "--certificate", r.file("snp", filepath.Base(cert)))
				}
			}
			failed := r.send(t, policy.ClassSNP, args...)
			if failed["snp.cert.missing"] != (len(args) == 3) || failed["snp.signature"] {
				t.Errorf("failed %v", failed)
			}
		})
	}
}

// agents sends what guest agents answered: Azure's, dstack's, and a TD's quote
// with its CCEL.
func (r *recordedRun) agents(t *testing.T) {
	const at = "2025-06-01T00:00:00Z"
	bundles, err := filepath.Glob(filepath.Join(r.dir, "azure-vtpm", "*.json"))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range bundles {
		t.Run(filepath.Base(path), func(t *testing.T) {
			class := policy.ClassAzSNP
			if strings.HasPrefix(filepath.Base(path), "tdx-") {
				class = policy.ClassAzTDX
			}
			failed := r.send(t, class, r.file("azure-vtpm", filepath.Base(path)), "--at", at)
			if failed["azure.runtime.hash"] || failed["tpm.quote.signature"] || failed["azure.hcl.parse"] {
				t.Errorf("failed %v", failed)
			}
		})
	}
	t.Run("a TD's quote with its CCEL", func(t *testing.T) {
		const pair = "ccel-gcp-cos113"
		quote := r.file("eventlog", pair+".quote.bin") // padded to the size of its collector's buffer
		failed := r.send(t, policy.ClassTDX, quote, "--event-log", r.file("eventlog", pair+".ccel.bin"), "--at", at)
		if failed["tdx.event_log.format"] || failed["tdx.event_log.replay"] || !failed["dcap.collateral.missing"] {
			t.Errorf("failed %v", failed)
		}
		failed = r.send(t, policy.ClassTDX, quote, "--event-log", filepath.Join(r.dir, "eventlog", "ccel-trustee-CCEL_data_ovmf.ccel.bin"), "--at", at)
		if !failed["tdx.event_log.replay"] {
			t.Errorf("another machine's log: failed %v", failed)
		}
	})
	// dstack's TDs are on platforms of one kind, for which there is collateral.
	intel := []string{"--collateral", r.file("tdx", "tdx-v4-attestation-rs-90c06f000000-140c.e19.collateral.json"), "--at", "1782215795"}
	logs := []string{r.file("eventlog", "jsonlog-dstack-quote-report.json"), r.file("eventlog", "jsonlog-dstack-tdx-lite-getquote.json")}
	for i, path := range append(logs, r.file("launch", "tdx-lite-attestation.json")) {
		t.Run(filepath.Base(path), func(t *testing.T) {
			if failed := r.send(t, policy.ClassTDX, append([]string{path}, intel...)...); len(failed) > 0 {
				t.Errorf("failed %v", failed)
			}
			if i < len(logs) {
				failed := r.send(t, policy.ClassTDX, append([]string{path, "--event-log", logs[1-i]}, intel...)...)
				if !failed["tdx.event_log.replay"] {
					t.Errorf("the other TD's log: failed %v", failed)
				}
			}
		})
	}
	t.Run("an SNP guest of dstack's", func(t *testing.T) {
		failed := r.send(t, policy.ClassSNP, r.file("launch", "sev-snp-attestation.json"), "--at", "2026-06-01T00:00:00Z")
		if failed["snp.signature"] || failed["snp.cert.missing"] || failed["snp.cert.chain"] {
			t.Errorf("failed %v", failed)
		}
	})
}

// gpus sends every device by itself, and the one whole machine that there is.
func (r *recordedRun) gpus(t *testing.T) {
	const google, sw = "google-hopper-550.90.07", "sdk-switch-c"
	entries, err := os.ReadDir(filepath.Join(r.dir, "gpu", "evidence"))
	if err != nil {
		t.Fatal(err)
	}
	of := func(name, file string) string { return r.file("gpu", "evidence", name, file) }
	nonce := func(t *testing.T, name string) string {
		b, err := os.ReadFile(of(name, "nonce.hex"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b))
	}
	beside := map[string][]string{
		google: {"--rim", of(google, "driver.swidtag"), "--rim", of(google, "vbios.swidtag"), "--ocsp", of(google, "ocsp-gpu_certificate_l2.der"),
			"--ocsp", of(google, "ocsp-gpu_certificate_l3.der"), "--ocsp", of(google, "ocsp-gpu_certificate_l4.der")},
		sw: {"--rim", of(sw, "bios.xml")},
	}
	at := map[string]string{google: "2025-08-21T12:00:00Z", sw: "2026-06-01T00:00:00Z"}
	// What there is no RIM for is unmeasured, which the policy does not allow.
	unmeasured := []string{"gpu.policy.measurements", "gpu.rim.driver", "gpu.rim.vbios"}
	want := map[string][]string{
		google: nil, sw: nil,
		"sdk-hopper-b":      append([]string{"gpu.policy.fwid"}, unmeasured...),
		"sdk-hopper-badsig": append([]string{"gpu.fwid", "gpu.signature"}, unmeasured...),
		"sdk-switch-badsig": {"gpu.arch", "gpu.policy.measurements", "gpu.rim.vbios", "gpu.signature"},
	}
	device := func(name string) []string {
		when := at[name]
		if when == "" {
			when = "2025-06-01T00:00:00Z"
		}
		return append([]string{of(name, "report.bin"), "--certificate", of(name, "chain.pem"), "--at", when}, beside[name]...)
	}
	same := func(t *testing.T, failed map[string]bool, want []string) {
		t.Helper()
		if got := slices.Sorted(maps.Keys(failed)); !slices.Equal(got, slices.Sorted(slices.Values(want))) {
			t.Errorf("failed %v, want %v", got, want)
		}
	}
	for _, e := range entries {
		name := e.Name()
		expect, known := want[name]
		switch {
		case known:
		case strings.HasPrefix(name, "nvtrust-ppcie-switch-"):
			expect = []string{"gpu.policy.measurements", "gpu.rim.vbios"}
		default:
			expect = unmeasured
		}
		t.Run(name, func(t *testing.T) {
			same(t, r.send(t, "", append(device(name), "--nonce", nonce(t, name))...), expect)
		})
	}
	t.Run("a GPU whose nonce nobody wrote down", func(t *testing.T) { same(t, r.send(t, "", device(google)...), nil) })
	t.Run("a GPU that was asked something else", func(t *testing.T) {
		same(t, r.send(t, "", append(device(google), "--nonce", nonce(t, "sdk-hopper-590"))...), []string{"gpu.nonce"})
	})
	var board []map[string]any
	for i := range 12 {
		name := fmt.Sprint("nvtrust-ppcie-gpu-", i)
		arch := "HOPPER"
		if i >= 8 {
			name, arch = fmt.Sprint("nvtrust-ppcie-switch-", i-8), "LS10"
		}
		entry := map[string]any{"arch": arch, "nonce": nonce(t, name)}
		for key, file := range map[string]string{"evidence": "report.bin", "certificate": "chain.pem"} {
			b, err := os.ReadFile(of(name, file))
			if err != nil {
				t.Fatal(err)
			}
			entry[key] = b
		}
		board = append(board, entry)
	}
	list := func(t *testing.T, entries []map[string]any) string {
		t.Helper()
		b, err := json.Marshal(entries)
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), "machine.json")
		if err := os.WriteFile(path, b, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	t.Run("a board, as NVIDIA's tools list it", func(t *testing.T) {
		same(t, r.send(t, "", list(t, board), "--at", "2026-06-01T00:00:00Z"), unmeasured)
	})
	t.Run("a board without a switch", func(t *testing.T) {
		same(t, r.send(t, "", list(t, board[:11]), "--at", "2026-06-01T00:00:00Z"), append([]string{"gpu.topology"}, unmeasured...))
	})
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/audit"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// noFiles is a release without any.
type noFiles struct{}

func (noFiles) Files() ([]audit.File, error)       { return nil, nil }
func (noFiles) Open(string) (audit.Content, error) { return nil, os.ErrNotExist }
func (noFiles) Close() error                       { return nil }

// TestAMachineIsHeldAgainstTheManifest shows evidence of a software TPM's
// machine as a file, through an endpoint such as cocoon proxy's, and asks a
// verifier.
func TestAMachineIsHeldAgainstTheManifest(t *testing.T) {
	w := tpmtest.NewWorld(t)
	v, dir := w.Manifests(t)[0], t.TempDir()
	save := func(name string, x any) string {
		b, err := json.Marshal(x)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), b, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, name)
	}
	policy, good := save("policy.json", w.Policy), save("good.json", w.Evidence(t))
	w.Boot.Components.InitrdSHA256 = digest.Sum256([]byte("another initrd"))
	other := save("other.json", w.Evidence(t))
	serve := func(h http.HandlerFunc) string {
		s := httptest.NewServer(h)
		t.Cleanup(s.Close)
		return s.URL
	}
	proxy := serve(func(rw http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/cocoon/worker" {
			http.NotFound(rw, r)
			return
		}
		b, err := os.ReadFile(good)
		if err != nil {
			t.Error(err)
		}
		_ = json.NewEncoder(rw).Encode(map[string]any{"evidence": json.RawMessage(b), "type": evidence.TypeTPM})
	})
	verifier := func(w *tpmtest.World) string {
		h, err := server.New(server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: scriptKey("verifier")}})
		if err != nil {
			t.Fatal(err)
		}
		return serve(h.ServeHTTP)
	}
	next := tpmtest.NewWorld(t)
	next.Manifest.Image.Version++
	off := serve(http.NotFound)
	for name, c := range map[string]struct {
		machine, policy string
		failed          string // a check that fails, "": none
		exit            int
	}{
		"evidence of this release":                 {good, policy, "", 0},
		"evidence of another initrd":               {other, policy, "machine.image.initrd", fault.ExitPolicy},
		"a software TPM under the built-in policy": {good, "", "machine.policy.trust_class", fault.ExitRefused},
		"a proxy's worker":                         {proxy + "/cocoon/worker", policy, "", 0},
		"a verifier that knows the manifest":       {verifier(w), policy, "", 0},
		"a verifier of other releases":             {verifier(next), policy, "machine.verifier", fault.ExitPolicy},
		"a URL with nothing behind it":             {off, policy, "error", fault.ExitNetwork},
		"a policy in place of evidence":            {policy, policy, "error", fault.ExitParse},
		"a gateway that is none":                   {"gateway://127.0.0.1:1", policy, "error", fault.ExitNetwork},
	} {
		f := &auditFlags{machine: c.machine, policy: c.policy, timeout: time.Minute, saved: map[string][]byte{}}
		ask, err := f.machineOf(noFiles{}, tpmtest.Now)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		rows, err := ask(context.Background(), v)
		if c.failed == "error" {
			if err == nil || fault.ExitCode(err) != c.exit {
				t.Errorf("%s: %v, exit code %d, want %d", name, err, fault.ExitCode(err), c.exit)
			}
			continue
		}
		r := &audit.Report{Rows: rows}
		found := c.failed == "" && err == nil && len(r.Failed()) == 0
		for _, row := range r.Failed() {
			found = found || row.Check == c.failed && row.Means != ""
		}
		if !found || len(rows) == 0 {
			t.Errorf("%s: failed %v, %v; want %q", name, r.Failed(), err, c.failed)
		}
		if got := fault.ExitCode(r.Err()); got != c.exit {
			t.Errorf("%s: exit code %d, want %d", name, got, c.exit)
		}
		if strings.HasSuffix(c.machine, "good.json") && len(f.saved[savedEvidence]) == 0 {
			t.Errorf("%s: the evidence is not kept for a bundle", name)
		}
	}
	if _, err := (&auditFlags{machine: good, policy: filepath.Join(dir, "none")}).machineOf(noFiles{}, tpmtest.Now); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a policy that is missing: %v", err)
	}
}

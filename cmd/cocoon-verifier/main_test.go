package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/internal/toolstree"
	"cocoon/verifier/client"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/policy"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

// install makes keys, policy, manifest and a config in a directory.
func install(t *testing.T, change func(map[string]any)) string {
	t.Helper()
	dir := t.TempDir()
	var out bytes.Buffer
	if err := run(t.Context(), []string{"keygen", "--dir", filepath.Join(dir, "keys")}, &out, os.Stderr); err != nil {
		t.Fatal(err)
	}
	if len(strings.TrimSpace(out.String())) != 64 {
		t.Errorf("keygen printed %q", out.String())
	}
	w := tpmtest.NewWorld(t)
	ca, err := keyfile.ReadCert(filepath.Join(dir, "keys", akCACertFile))
	if err != nil {
		t.Fatal(err)
	}
	w.Policy.TPM.AKRoots = [][]byte{ca.Raw}
	cfg := map[string]any{
		"listen": "127.0.0.1:0", "policy": "policy.json", "manifests": []string{"manifest.json"}, "signing_key": "keys/verifier.key",
		"ak_ca": map[string]any{"certificate": "keys/ak-ca.crt", "key": "keys/ak-ca.key"}, "archive": "archive",
		"journal": map[string]any{"dir": "journal", "origin": "localhost/verifier", "key": "keys/journal.key"},
	}
	if change != nil {
		change(cfg)
	}
	production := *w.Policy
	production.Environment, production.TrustClasses, production.TPM = policy.Production, []string{policy.ClassTDX}, nil
	for name, v := range map[string]any{"policy.json": w.Policy, "production.json": &production, "config.json": cfg, "manifest.json": json.RawMessage(w.Envelope(t))} {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(dir, "config.json")
}

// started is the service of a config, in this process.
func started(t *testing.T, path string) *service {
	t.Helper()
	s, err := newService(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func TestServiceStartsFromItsConfig(t *testing.T) {
	srv := httptest.NewServer(started(t, install(t, nil)))
	defer srv.Close()
	c, err := client.New(client.Options{BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := c.Info(context.Background())
	if err != nil || len(keys.Keys) != 1 || len(keys.AKRoots) != 1 {
		t.Errorf("keys %+v, %v", keys, err)
	}
}

func TestServiceIsACacheOfRIMs(t *testing.T) {
	pki, err := rimtest.NewPKI()
	if err != nil {
		t.Fatal(err)
	}
	upstream := rimtest.NewServer()
	const id = "NV_GPU_DRIVER_GH100_550.90.07"
	doc, err := pki.Mint(rimtest.RIM{Version: "550.90.07", Values: rimtest.One(4, "x", 1)})
	if err != nil {
		t.Fatal(err)
	}
	upstream.Put(id, doc)
	up := httptest.NewServer(upstream)
	defer up.Close()
	srv := httptest.NewServer(started(t, install(t, func(m map[string]any) {
		m["gpu_cache"] = map[string]any{"rim": up.URL, "dir": "rims", "ttl_seconds": 3600}
	})))
	defer srv.Close()
	// The list comes through; a document that is not under NVIDIA's root does
	// not, and the service itself still answers.
	for path, want := range map[string]int{"/v1/rim/ids": 200, "/v1/rim/" + id: 502, "/v1/rim/NV_GPU_DRIVER_GH100_1": 404, "/ocsp": 405, wire.PathInfo: 200} {
		res, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("GET %s: status %d, want %d", path, res.StatusCode, want)
		}
	}
	if upstream.Requests("/v1/rim/"+id) != 1 {
		t.Error("the service was not asked for the document")
	}
}

// TestTheCacheOfRIMsIsWithinACallersRate uses up what a caller may ask for at one
// address, and asks at the others.
func TestTheCacheOfRIMsIsWithinACallersRate(t *testing.T) {
	up := httptest.NewServer(rimtest.NewServer())
	defer up.Close()
	srv := httptest.NewServer(started(t, install(t, func(m map[string]any) {
		m["gpu_cache"] = map[string]any{"rim": up.URL, "dir": "rims", "ttl_seconds": 3600}
		m["limits"] = map[string]any{"per_second": 0.001, "burst": 3}
	})))
	defer srv.Close()
	do := func(method, path string) *http.Response {
		t.Helper()
		req, err := http.NewRequestWithContext(t.Context(), method, srv.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp
	}
	for range 3 {
		if resp := do("GET", "/v1/rim/ids"); resp.StatusCode == http.StatusTooManyRequests {
			t.Fatalf("status %d", resp.StatusCode)
		}
	}
	for _, r := range [][2]string{{"GET", "/v1/rim/ids"}, {"GET", "/v1/rim/x"}, {"POST", "/ocsp"}, {"GET", wire.PathInfo}} {
		if resp := do(r[0], r[1]); resp.StatusCode != http.StatusTooManyRequests || resp.Header.Get("Retry-After") == "" {
			t.Errorf("%s %s over the rate: status %d", r[0], r[1], resp.StatusCode)
		}
	}
	if resp := do("GET", wire.PathHealth); resp.StatusCode != http.StatusOK {
		t.Errorf("its state: %d", resp.StatusCode)
	}
}

func TestTheDocumentedCacheIsRead(t *testing.T) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "gpu-rims.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```json gpu_cache.json\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("the page shows no gpu_cache.json")
	}
	cfg, err := readConfig(install(t, func(c map[string]any) {
		if err := json.Unmarshal(m[1], &c); err != nil {
			t.Fatal(err)
		}
	}))
	if err != nil || cfg.GPUCache == nil || cfg.GPUCache.TTLSeconds != 86400 || cfg.GPUCache.Dir != "rims" {
		t.Errorf("got %+v, %v", cfg, err)
	}
}

func TestServiceStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	path := install(t, nil)
	done := make(chan error, 1)
	go func() { done <- run(ctx, []string{"--config", path}, os.Stdout, &bytes.Buffer{}) }()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("stopped with %v", err)
	}
}

func TestBadConfigsAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"an unknown key":            {func(m map[string]any) { m["polcy"] = "x" }, "verifier.config"},
		"no manifests":              {func(m map[string]any) { m["manifests"] = []string{} }, "verifier.config"},
		"a negative limit":          {func(m map[string]any) { m["limits"] = map[string]any{"burst": -1} }, "verifier.config"},
		"no policy":                 {func(m map[string]any) { m["policy"] = "absent.json" }, "verifier.policy"},
		"a manifest as policy":      {func(m map[string]any) { m["policy"] = "manifest.json" }, "verifier.policy"},
		"a policy as manifest":      {func(m map[string]any) { m["manifests"] = []string{"policy.json"} }, "verifier.manifest"},
		"no signing key":            {func(m map[string]any) { m["signing_key"] = "absent" }, "verifier.signing_key"},
		"an ECDSA signing key":      {func(m map[string]any) { m["signing_key"] = "keys/ak-ca.key" }, "verifier.signing_key"},
		"a readable signing key":    {func(m map[string]any) { m["signing_key"] = "keys/ak-ca.crt" }, "verifier.signing_key"},
		"another authority's key":   {func(m map[string]any) { m["ak_ca"].(map[string]any)["key"] = "keys/verifier.key" }, "verifier.ak_ca"},
		"AK certificates of a year": {func(m map[string]any) { m["ak_ca"].(map[string]any)["lifetime_seconds"] = 365 * 24 * 3600 }, "verifier.ak_ca"},
		"a cache of a month":        {func(m map[string]any) { m["gpu_cache"] = map[string]any{"ttl_seconds": 30 * 24 * 3600} }, "verifier.config"},
		"a cache of no service":     {func(m map[string]any) { m["gpu_cache"] = map[string]any{"rim": "x"} }, "rim.service.url"},
		"keys made for production": {func(m map[string]any) {
			m["make_keys"], m["signing_key"] = true, "made/verifier.key"
			m["policy"] = "production.json"
		}, "verifier.make_keys"},
		"a type that is not exact": {func(m map[string]any) { m["limits"] = map[string]any{"burst": "40"} }, "verifier.config"},
		"a journal without a key":  {func(m map[string]any) { m["journal"] = map[string]any{"dir": "j", "origin": "o.example/v"} }, "verifier.config"},
		"production without a journal": {func(m map[string]any) {
			m["policy"] = "production.json"
			delete(m, "journal")
			delete(m, "ak_ca")
		}, "verifier.journal.missing"},
		"a journal of no name": {func(m map[string]any) {
			m["journal"] = map[string]any{"dir": "j", "origin": "a b", "key": "keys/journal.key"}
		}, "verifier.journal"},
		"replicas without a store": {func(m map[string]any) { m["replicas"] = 2 }, "verifier.config"},
		"a store with a password in its URL": {func(m map[string]any) {
			m["replicas"], m["shared_store"] = 2, map[string]any{"url": "redis://:secret@127.0.0.1:1"}
		}, "verifier.shared_store"},
		"two ways to name keys": {func(m map[string]any) { m["signing_keys"] = []any{map[string]any{"file": "keys/verifier.key"}} }, "verifier.config"},
		"a key in two places": {func(m map[string]any) {
			delete(m, "signing_key")
			m["signing_keys"] = []any{map[string]any{"file": "keys/verifier.key", "sealed": map[string]any{"file": "x"}}}
		}, "verifier.config"},
		"a key sealed by something else": {func(m map[string]any) {
			delete(m, "signing_key")
			m["signing_keys"] = []any{map[string]any{"sealed": map[string]any{"file": "x", "by": "cpu"}}}
		}, "verifier.config"},
		"a sealing enclave without a signer": {func(m map[string]any) {
			delete(m, "signing_key")
			m["signing_keys"] = []any{map[string]any{"sealed": map[string]any{"file": "x", "by": "tee", "enclave": map[string]any{"address": "h:1", "min_svn": 1}}}}
		}, "verifier.config"},
		"a sealing enclave beside a TPM": {func(m map[string]any) {
			delete(m, "signing_key")
			m["signing_keys"] = []any{map[string]any{"sealed": map[string]any{"file": "x", "enclave": map[string]any{"address": "h:1", "signer": strings.Repeat("1", 64), "min_svn": 1}}}}
		}, "verifier.config"},
		"keys that are all retired": {func(m map[string]any) {
			delete(m, "signing_key")
			m["signing_keys"] = []any{map[string]any{"file": "keys/verifier.key", "retire_at": "2020-01-01T00:00:00Z"}}
		}, "verifier.signing_key"},
		"a token of no module": {func(m map[string]any) {
			delete(m, "signing_key")
			m["signing_keys"] = []any{map[string]any{"pkcs11": map[string]any{"module": "/etc/passwd", "token": "t", "label": "l", "pin_file": "keys/verifier.key"}}}
		}, "verifier.signing_key"},
		"a PIN for everyone to read": {func(m map[string]any) {
			delete(m, "signing_key")
			m["signing_keys"] = []any{map[string]any{"pkcs11": map[string]any{"module": "/etc/passwd", "token": "t", "label": "l", "pin_file": "keys/ak-ca.crt"}}}
		}, "verifier.signing_key"},
		"test roots for production": {func(m map[string]any) {
			m["policy"], m["test_roots"] = "production.json", map[string]any{"intel": "x.pem"}
		}, "verifier.test_roots"},
		"test roots that are none": {func(m map[string]any) { m["test_roots"] = map[string]any{"amd": "config.json"} }, "verifier.test_roots"},
		"TLS without a key":        {func(m map[string]any) { m["tls"] = map[string]any{"certificate": "keys/ak-ca.crt"} }, "verifier.config"},
		"a certificate that is none": {func(m map[string]any) {
			m["tls"] = map[string]any{"certificate": "keys/ak-ca.crt", "key": "keys/verifier.key"}
		}, "verifier.tls"},
		"a ledger without registry": {func(m map[string]any) { m["ledger"] = map[string]any{"config": "x"} }, "verifier.ledger"},
	} {
		t.Run(name, func(t *testing.T) {
			err := run(t.Context(), []string{"--config", install(t, c.change)}, os.Stdout, &bytes.Buffer{})
			if !fault.Has(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	if err := run(t.Context(), nil, os.Stdout, &bytes.Buffer{}); !fault.Has(err, "verifier.config") {
		t.Errorf("without a config: %v", err)
	}
}

func TestKeygenReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	args := []string{"keygen", "--dir", dir}
	if err := run(t.Context(), args, &bytes.Buffer{}, &bytes.Buffer{}); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, signingKeyFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := run(t.Context(), args, &bytes.Buffer{}, &bytes.Buffer{}); !fault.Has(err, "verifier.keygen") {
		t.Errorf("a second keygen: %v", err)
	}
	if after, err := os.ReadFile(filepath.Join(dir, signingKeyFile)); err != nil || !bytes.Equal(before, after) {
		t.Errorf("key changed: %v", err)
	}
}

// TestTheJournalIsCheckedByTheProgram opens a journal by the config, and holds
// it, good and damaged, against fsck.
func TestTheJournalIsCheckedByTheProgram(t *testing.T) {
	path := install(t, func(m map[string]any) {
		m["journal"] = map[string]any{"dir": "journal", "origin": "verifier.example/verdicts", "key": "keys/journal.key"}
	})
	s, err := newService(path, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newService(path, slog.New(slog.DiscardHandler)); !fault.Has(err, "verifier.journal") {
		t.Errorf("a second service on one journal: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(filepath.Dir(path), "journal")
	var out bytes.Buffer
	if err := run(t.Context(), []string{"fsck", dir}, &out, os.Stderr); err != nil || !strings.Contains(out.String(), `"size": 1`) {
		t.Errorf("fsck printed %s: %v", out.String(), err)
	}
	if err := run(t.Context(), []string{"fsck"}, &out, os.Stderr); !fault.Has(err, "usage") {
		t.Errorf("without a directory: %v", err)
	}
	if err := run(t.Context(), []string{"fsck", t.TempDir()}, &out, os.Stderr); err == nil {
		t.Error("an empty directory is a journal")
	}
}

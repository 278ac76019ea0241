package main

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
	"cocoon/verifier/nvgpu/rimtest"
)

// load reads a configuration as "serve --check" does.
func load(t *testing.T, doc string) (config, string, error) {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "hostd.json")
	if err := os.WriteFile(file, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
	var c config
	err := c.load(newServeCmd(), file)
	return c, dir, err
}

func TestGuestsAreServedReferenceMeasurements(t *testing.T) {
	upstream := rimtest.NewServer()
	upstream.Put("NV_GPU_DRIVER_GH100_1", []byte("x"))
	up := httptest.NewServer(upstream)
	defer up.Close()
	c, dir, err := load(t, `{"gpu_cache": {"listen": "unix:rim.sock", "dir": "rims", "rim": "`+up.URL+`"}}`)
	if err != nil {
		t.Fatal(err)
	}
	if c.GPUCache.Listen != "unix:"+filepath.Join(dir, "rim.sock") || c.GPUCache.Dir != filepath.Join(dir, "rims") {
		t.Errorf("paths %+v", c.GPUCache)
	}
	end, err := c.GPUCache.serve(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	guest := &http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(dir, "rim.sock"))
	}}}
	res, err := guest.Get("http://rim/v1/rim/ids")
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || res.StatusCode != http.StatusOK || !strings.Contains(string(b), "NV_GPU_DRIVER_GH100_1") {
		t.Errorf("status %d, %s, %v", res.StatusCode, b, err)
	}
	if err := end(); err != nil {
		t.Errorf("ending: %v", err)
	}
	if _, err := guest.Get("http://rim/v1/rim/ids"); err == nil {
		t.Error("the cache answers after its end")
	}
	var none *gpuCache
	if end, err := none.serve(t.Context(), slog.New(slog.DiscardHandler)); err != nil || end() != nil {
		t.Errorf("without a section: %v", err)
	}
}

func TestBadCacheSectionsAreRefused(t *testing.T) {
	for name, section := range map[string]string{
		"an address anybody can reach": `{"listen": "0.0.0.0:80"}`,
		"no port":                      `{"listen": "127.0.0.1"}`,
		"no address":                   `{}`,
		"an unknown key":               `{"listen": "127.0.0.1:8095", "roots": "x"}`,
		"a TTL of a month":             `{"listen": "127.0.0.1:8095", "ttl_seconds": 2592000}`,
	} {
		if _, _, err := load(t, `{"gpu_cache": `+section+`}`); !fault.Has(err, "hostd.config.malformed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheDocumentedSectionIsRead(t *testing.T) {
	root, err := toolstree.RepoRoot()
	if err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(filepath.Join(root, "docs", "gpu-rims.md"))
	if err != nil {
		t.Fatal(err)
	}
	m := regexp.MustCompile("(?s)```json hostd.json\n(.*?)```").FindSubmatch(page)
	if m == nil {
		t.Fatal("the page shows no hostd.json")
	}
	c, _, err := load(t, string(m[1]))
	if err != nil || c.GPUCache == nil || c.GPUCache.Listen != "unix:/run/cocoon-hostd/rim.sock" {
		t.Errorf("got %+v, %v", c.GPUCache, err)
	}
}

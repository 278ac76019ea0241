package main

import (
	"context"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/verifier/client"
	"cocoon/verifier/result"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/tpmtest"
)

// rooted writes a config that trusts the fleet's roots.
func rooted(t *testing.T, change func(map[string]any)) string {
	t.Helper()
	f, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	files, err := f.Files()
	if err != nil {
		t.Fatal(err)
	}
	path := install(t, func(m map[string]any) {
		m["test_roots"] = map[string]any{"intel": testfleet.FileIntel, "amd": testfleet.FileAMD, "nvidia": testfleet.FileNVIDIA, "nvidia_rim": testfleet.FileRIM}
		delete(m, "ak_ca")
		if change != nil {
			change(m)
		}
	})
	for name, b := range files {
		to := filepath.Join(filepath.Dir(path), name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path
}

// TestAConfigWithTestRootsSaysSoInEveryVerdict appraises a machine of each kind
// under a config with test roots.
func TestAConfigWithTestRootsSaysSoInEveryVerdict(t *testing.T) {
	s, err := newService(rooted(t, nil), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	srv := httptest.NewServer(s.mux)
	defer srv.Close()
	c, err := client.New(client.Options{BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	all := []string{"amd", "intel", "nvidia", "nvidia-rim"}
	info, err := c.Info(context.Background())
	if err != nil || !cmp.Equal(info.TestRoots, all) {
		t.Errorf("the service says %+v, %v", info, err)
	}
	fleet, err := testfleet.New(testfleet.ExampleSeed)
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range testfleet.Kinds() {
		m, err := fleet.Machine(kind, tpmtest.Now)
		if err != nil {
			t.Fatal(err)
		}
		ch, err := c.Challenge(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		ev, err := m.Evidence(ch.Challenge)
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.VerifyBytes(context.Background(), ev)
		r := client.Refusal(err)
		if err == nil {
			r = v.Result
			e, err := result.ParseEAR(v.EAR)
			if err != nil || !cmp.Equal(e.TestRoots, all) || e.TrustClass != "test" || v.Cell != "" {
				t.Errorf("%s: the verdict says %+v, %v", kind, e, err)
			}
		}
		if r == nil {
			t.Fatalf("%s: %v", kind, err)
		}
		said := slices.ContainsFunc(r.Checks(), func(k result.Check) bool { return k.ID == "policy.test_roots" })
		if r.TrustClass != "test" || !r.Development || !said || !cmp.Equal(r.TestRoots, all) {
			t.Errorf("%s: class %s, test roots %v, said %v", kind, r.TrustClass, r.TestRoots, said)
		}
	}
}

func TestBadSourcesAreRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(map[string]any)
		want   string
	}{
		"a root that is not there": {func(m map[string]any) { m["test_roots"] = map[string]any{"intel": "absent.pem"} }, "verifier.test_roots"},
		"a policy as a root":       {func(m map[string]any) { m["test_roots"] = map[string]any{"amd": "policy.json"} }, "verifier.test_roots"},
		"a key as a device root":   {func(m map[string]any) { m["test_roots"] = map[string]any{"nvidia": "keys/ak-ca.key"} }, "verifier.test_roots"},
		"a PCS that is no URL":     {func(m map[string]any) { m["pcs"] = map[string]any{"url": "x"} }, "dcap.collateral.url"},
		"a KDS that is no URL":     {func(m map[string]any) { m["kds"] = map[string]any{"url": "x"} }, "snp.kds.url"},
		"a wait of an hour":        {func(m map[string]any) { m["pcs"] = map[string]any{"timeout_seconds": 3600} }, "verifier.config"},
		"a wait below nothing":     {func(m map[string]any) { m["kds"] = map[string]any{"timeout_seconds": -1} }, "verifier.config"},
		"an unknown source":        {func(m map[string]any) { m["pcs"] = map[string]any{"uri": "x"} }, "verifier.config"},
	} {
		t.Run(name, func(t *testing.T) {
			if err := run(t.Context(), []string{"--config", rooted(t, c.change)}, io.Discard, io.Discard); !fault.Has(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
}

package main

import (
	"bytes"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	redisserver "github.com/alicebob/miniredis/v2/server"

	"cocoon/internal/fault"
)

// TestOneReplicasFetchServesTheOther has a machine appraised by one of two
// services with a store, and one of its kind by the other while the maker's
// service is down; then by others beside a store that lies, and by one without
// what was fetched.
func TestOneReplicasFetchServesTheOther(t *testing.T) {
	never := make(chan struct{})
	defer close(never)
	for _, src := range sources(t, never) {
		t.Run(src.section, func(t *testing.T) {
			store := miniredis.RunT(t)
			store.Server().SetPreHook(func(c *redisserver.Peer, cmd string, _ ...string) bool {
				if strings.EqualFold(cmd, "INFO") { // miniredis has no run id
					c.WriteBulk("# Server\r\nrun_id:one\r\n")
				}
				return strings.EqualFold(cmd, "INFO")
			})
			var asked atomic.Int64
			srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				asked.Add(1)
				src.handler.ServeHTTP(w, r)
			}))
			t.Cleanup(srv.Close)
			path := rooted(t, func(m map[string]any) {
				key := "url"
				if src.section == "gpu_cache" {
					key = "rim"
				}
				m[src.section] = map[string]any{key: srv.URL, "timeout_seconds": 20}
				m["replicas"], m["shared_store"] = 2, map[string]any{"url": "redis://" + store.Addr(), "prefix": "test", "secret_file": "shared.secret"}
				delete(m, "archive")
				delete(m, "journal") // each replica has its own, and here is one config
			})
			if err := os.WriteFile(filepath.Join(filepath.Dir(path), "shared.secret"), []byte(strings.Repeat("5e", 32)+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			replica := func() *sourced { return startSourced(t, path) }
			alone := withoutSecret(t, path)
			fetched := func() (list []string) {
				for _, k := range store.Keys() {
					if strings.HasPrefix(k, "test:fetched:of:") {
						list = append(list, k)
					}
				}
				return list
			}

			src.behave(answers)
			if r := startSourced(t, alone).appraise(t, src.kind); !r.Accepted || len(fetched()) != 0 {
				t.Errorf("without a secret: failed %s, %d entries", failedIDs(r), len(fetched()))
			}
			if r := replica().appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "fetched") {
				t.Fatalf("by the first: %q, failed %s", source(r), failedIDs(r))
			}
			if len(fetched()) == 0 {
				t.Fatalf("nothing is shared: %v", store.Keys())
			}
			for _, k := range fetched() {
				if store.TTL(k) <= 0 {
					t.Errorf("%s does not end", k)
				}
			}
			src.behave(down)
			before := asked.Load()
			if r := replica().appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "held") {
				t.Errorf("by the other: %q, failed %s", source(r), failedIDs(r))
			}
			if n := asked.Load() - before; n != 0 {
				t.Errorf("the other asked %d times", n)
			}

			spoil := func() {
				for _, k := range fetched() {
					b, err := store.Get(k)
					if err != nil {
						t.Fatal(err)
					}
					// A character of what was fetched, in base64, in the middle.
					doc := []byte(b)
					at := bytes.LastIndex(doc[:len(doc)/2], []byte("A"))
					doc[at] = 'B'
					if err := store.Set(k, string(doc)); err != nil {
						t.Fatal(err)
					}
				}
			}
			spoil()
			if r := replica().appraise(t, src.kind); r.Accepted {
				t.Error("accepted on what a store made up")
			}
			src.behave(answers)
			spoil()
			if r := replica().appraise(t, src.kind); !r.Accepted {
				t.Errorf("beside a store that lies: %q, failed %s", source(r), failedIDs(r))
			}
			if asked.Load() == before {
				t.Error("nobody was asked")
			}
			for _, k := range slices.Clone(fetched()) {
				store.Del(k)
			}
			if r := replica().appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "fetched") {
				t.Errorf("with an empty store: %q, failed %s", source(r), failedIDs(r))
			}
		})
	}
}

// withoutSecret writes a config of the same service that names no secret.
func withoutSecret(t *testing.T, path string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	alone := filepath.Join(filepath.Dir(path), "alone.json")
	if err := os.WriteFile(alone, bytes.Replace(b, []byte(`"secret_file":"shared.secret",`), nil, 1), 0o600); err != nil {
		t.Fatal(err)
	}
	return alone
}

// TestTheSecretOfReplicasIsRefused where others may have it, or could guess it.
func TestTheSecretOfReplicasIsRefused(t *testing.T) {
	for name, f := range map[string]struct {
		secret, password string
		mode             os.FileMode
	}{
		"for everyone to read":   {strings.Repeat("5e", 32), "p", 0o644},
		"for the group to read":  {strings.Repeat("5e", 32), "p", 0o640},
		"short":                  {strings.Repeat("5e", 15), "p", 0o600},
		"empty":                  {"", "p", 0o600},
		"the store's, as it is":  {strings.Repeat("5e", 32), strings.Repeat("5e", 32), 0o600},
		"not there":              {"", "p", 0},
		"as it should be (good)": {strings.Repeat("5e", 32), "p", 0o600},
	} {
		t.Run(name, func(t *testing.T) {
			path := install(t, func(m map[string]any) {
				m["shared_store"] = map[string]any{"url": "redis://127.0.0.1:1", "password_file": "password", "secret_file": "secret"}
				delete(m, "archive")
			})
			dir := filepath.Dir(path)
			if err := os.WriteFile(filepath.Join(dir, "password"), []byte(f.password), 0o600); err != nil {
				t.Fatal(err)
			}
			if f.mode != 0 {
				if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(f.secret+"\n"), f.mode); err != nil {
					t.Fatal(err)
				}
			}
			s, err := newService(path, slog.New(slog.DiscardHandler))
			if name == "as it should be (good)" {
				if err != nil {
					t.Error(err)
				}
			} else if !fault.Has(err, "verifier.shared_store") {
				t.Errorf("started: %v", err)
			}
			if err == nil {
				if err := s.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

package main

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/alicebob/miniredis/v2"
	redisserver "github.com/alicebob/miniredis/v2/server"
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
				m["replicas"], m["shared_store"] = 2, map[string]any{"url": "redis://" + store.Addr(), "prefix": "test"}
				delete(m, "archive")
				delete(m, "journal") // each replica has its own, and here is one config
			})
			replica := func() *sourced { return startSourced(t, path) }
			fetched := func() (list []string) {
				for _, k := range store.Keys() {
					if strings.HasPrefix(k, "test:fetched:of:") {
						list = append(list, k)
					}
				}
				return list
			}

			src.behave(answers)
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

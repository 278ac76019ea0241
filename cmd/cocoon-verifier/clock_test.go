package main

import (
	"crypto/ed25519"
	"errors"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/log"
	"cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/jwks"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

const day = 24 * time.Hour

// clock is a wall clock that tests set. The process goes on as it does: what
// lives by its age, as challenges do, does not see it.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) set(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = t
}

// jumping is a whole service under a clock that jumps.
type jumping struct {
	*clock
	start time.Time
	fleet *fleet
	dir   string
	url   string
	c     *client.Client
}

func startJumping(t *testing.T, change func(dir string, m map[string]any)) *jumping {
	t.Helper()
	j := &jumping{fleet: newFleet(t)}
	// After the machine was made: its collateral ends 29 days later than that.
	j.start = time.Now()
	j.clock = &clock{now: j.start}
	var cfg map[string]any
	j.dir = installFleet(t, j.fleet, func(m map[string]any) { cfg = m })
	change(j.dir, cfg)
	writeConfig(t, j.dir, cfg)
	s, err := newServiceOn(&keystore{}, j.Now, filepath.Join(j.dir, "config.yaml"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		// Whatever the clock did, the log is whole.
		if rep, err := journal.Fsck(filepath.Join(j.dir, "journal")); err != nil || rep.Err() != nil {
			t.Errorf("fsck: %+v, %v", rep, err)
		}
	})
	srv := httptest.NewServer(s)
	t.Cleanup(srv.Close)
	j.url, j.c = srv.URL, dial(t, srv.URL)
	return j
}

// ask has the machine appraised at a time from the start.
func (j *jumping) ask(t *testing.T, at time.Duration) (*client.Verdict, []byte, error) {
	t.Helper()
	j.set(j.start.Add(at))
	doc, err := j.fleet.live(t.Context(), j.c)
	if err != nil {
		t.Fatalf("at %s: %v", at, err)
	}
	v, err := j.c.VerifyBytes(t.Context(), doc)
	return v, doc, err
}

// verdict is what a verdict at a time says; its dates are of that time.
func (j *jumping) verdict(t *testing.T, at time.Duration) (*result.EAR, *client.Verdict, []byte) {
	t.Helper()
	v, doc, err := j.ask(t, at)
	if err != nil {
		t.Fatalf("at %s: %v", at, err)
	}
	keys, err := jwks.Parse(fetch(t, j.url+wire.PathJWKS))
	if err != nil {
		t.Fatal(err)
	}
	now := j.Now()
	e, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: keys, Now: now, AllowDevelopment: true})
	if err != nil {
		t.Fatalf("at %s: %v", at, err)
	}
	if iat := time.Unix(int64(e.IssuedAt), 0); !iat.Equal(now.Truncate(time.Second)) {
		t.Errorf("at %s: issued at %s, the clock says %s", at, iat, now)
	}
	if exp := time.Unix(int64(e.Expires), 0); exp.After(now.Add(result.MaxLifetime)) || !exp.After(now) {
		t.Errorf("at %s: expires at %s, the clock says %s", at, exp, now)
	}
	return e, v, doc
}

// TestTheClockJumpsADay has it go on by a day and back: verdicts are dated by it,
// nothing lives longer for it, and the log has them in the order in which they
// were given.
func TestTheClockJumpsADay(t *testing.T) {
	j := startJumping(t, func(string, map[string]any) {})
	info, err := j.c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	key, err := log.ParseKey(info.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	var last uint64
	var first []byte
	for i, at := range []time.Duration{0, day, 0, -day / 2, day, 0} {
		_, v, doc := j.verdict(t, at)
		p, err := journal.OpenPromise([]byte(v.Promise), key)
		if err != nil || i > 0 && uint64(p.Index) <= last {
			t.Fatalf("at %s: entry %+v after %d, %v", at, p, last, err)
		}
		last = uint64(p.Index)
		if i == 0 {
			first = doc
		}
		// Only as long as it is in force, by the clock of the moment: hours later
		// it is not handed out.
		h := hash(t, doc)
		if _, err := j.c.Stored(t.Context(), h); err != nil {
			t.Errorf("at %s: %v", at, err)
		}
		j.set(j.Now().Add(2 * time.Hour))
		if _, err := j.c.Stored(t.Context(), h); !fault.Has(err, wire.CodeNoVerdict) {
			t.Errorf("two hours after %s: %v", at, err)
		}
		// Evidence that was seen is seen, whatever the time.
		if _, err := j.c.VerifyBytes(t.Context(), first); err == nil {
			t.Errorf("at %s: a challenge was taken twice", at)
		}
	}
}

// TestNoJumpMakesCollateralLive looks at what a cache holds from outside of its
// dates, from both ends.
func TestNoJumpMakesCollateralLive(t *testing.T) {
	j := startJumping(t, func(string, map[string]any) {})
	// The machine brings collateral from a day before the start to 29 days after.
	j.verdict(t, 0)
	for _, c := range []struct {
		at   time.Duration
		good bool
	}{{day, true}, {30 * day, false}, {0, true}, {-2 * day, false}, {28 * day, true}, {29*day + time.Hour, false}, {day, true}} {
		_, _, err := j.ask(t, c.at)
		if !c.good {
			if r := client.Refusal(err); r == nil || !strings.Contains(failedIDs(r), "dcap.collateral.") {
				t.Errorf("at %s: %v", c.at, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("at %s: %v", c.at, err)
		}
	}
	// Close to its end a verdict ends with it.
	e, _, _ := j.verdict(t, 29*day-10*time.Minute)
	if exp, end := time.Unix(int64(e.Expires), 0), j.start.Add(29*day); exp.After(end) {
		t.Errorf("it expires at %s, and collateral at %s", exp, end)
	}
}

// TestKeysSignInTheirWindowsWhateverTheClockDid jumps over the turn of a key and
// back, and over the end of the last.
func TestKeysSignInTheirWindowsWhateverTheClockDid(t *testing.T) {
	ids := map[string]ed25519.PublicKey{}
	j := startJumping(t, func(dir string, m map[string]any) {
		for _, name := range []string{"one", "two"} {
			public, key, err := ed25519.GenerateKey(nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(os.MkdirAll(filepath.Join(dir, "keys"), 0o700), keyfile.Write(filepath.Join(dir, "keys", name), key)); err != nil {
				t.Fatal(err)
			}
			ids[name] = public
		}
		at := func(d time.Duration) string { return time.Now().Add(d).UTC().Format(time.RFC3339) }
		delete(m, "signing_key")
		m["signing_keys"] = []any{map[string]any{"file": "keys/one"}, map[string]any{"file": "keys/two", "not_before": at(day / 2), "retire_at": at(3 * day / 2)}}
	})
	state := func() int {
		t.Helper()
		resp, err := http.Get(j.url + wire.PathReady)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	for _, c := range []struct {
		at   time.Duration
		want string
	}{{0, "one"}, {day, "two"}, {0, "one"}, {2 * day, ""}, {day, "two"}, {-day / 2, "one"}} {
		v, _, err := j.ask(t, c.at)
		if c.want == "" {
			if !fault.Has(err, "verifier.signing_key") || state() != http.StatusServiceUnavailable {
				t.Errorf("at %s: ready %d, %v", c.at, state(), err)
			}
			continue
		}
		if err != nil {
			t.Fatalf("at %s: %v", c.at, err)
		}
		if _, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: []ed25519.PublicKey{ids[c.want]}, Now: j.Now(), AllowDevelopment: true}); err != nil || state() != http.StatusOK {
			t.Errorf("at %s it is not %s that signs: ready %d, %v", c.at, c.want, state(), err)
		}
	}
}

// TestSourcesWhoseClockJumps asks a service that fetches collateral: what it holds
// is good in its own dates alone, and what was fetched in the future is asked for
// again.
func TestSourcesWhoseClockJumps(t *testing.T) {
	for _, src := range sources(t, nil) {
		t.Run(src.section, func(t *testing.T) {
			c := &clock{now: time.Now()}
			start := c.now
			src.behave(answers)
			s := startSourcedAt(t, src.strict(t), c.Now)
			if r := s.appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "fetched") {
				t.Fatalf("%q, failed %s", source(r), failedIDs(r))
			}
			src.behave(down)
			// Thirty and more days on, everything held is past its end.
			c.set(start.Add(45 * day))
			if r := s.appraise(t, src.kind); r.Accepted {
				t.Errorf("45 days on: accepted, %q", source(r))
			}
			// Back again it is as good as it was.
			c.set(start.Add(time.Minute))
			if r := s.appraise(t, src.kind); !r.Accepted || !strings.Contains(source(r), "held") {
				t.Errorf("back again: %q, failed %s", source(r), failedIDs(r))
			}
			// Days before it was made nothing of it is good.
			c.set(start.Add(-45 * day))
			if r := s.appraise(t, src.kind); r.Accepted {
				t.Errorf("45 days before: accepted, %q", source(r))
			}
			c.set(start)
			if r := s.appraise(t, src.kind); !r.Accepted {
				t.Errorf("at the start: %q, failed %s", source(r), failedIDs(r))
			}
		})
	}
}

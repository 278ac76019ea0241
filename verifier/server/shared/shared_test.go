package shared_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/alicebob/miniredis/v2"
	redisserver "github.com/alicebob/miniredis/v2/server"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/server"
	"cocoon/verifier/server/shared"
	"cocoon/verifier/tpmtest"
	"cocoon/verifier/wire"
)

const purpose = verifierv1.Purpose_PURPOSE_APPRAISE

// fake is a store with a run id, which miniredis has not.
type fake struct {
	*miniredis.Miniredis
	run atomic.Value
}

func newFake(t *testing.T) *fake {
	t.Helper()
	f := &fake{Miniredis: miniredis.RunT(t)}
	f.run.Store("first")
	f.hook()
	return f
}

func (f *fake) hook() {
	f.Server().SetPreHook(func(c *redisserver.Peer, cmd string, args ...string) bool {
		if !strings.EqualFold(cmd, "INFO") {
			return false
		}
		c.WriteBulk("# Server\r\nredis_version:7.2.0\r\nrun_id:" + f.run.Load().(string) + "\r\n")
		return true
	})
}

// restart starts the store again, with everything that it had on its disk.
func (f *fake) restart(t *testing.T, run string) {
	t.Helper()
	f.Close()
	f.run.Store(run)
	if err := f.Restart(); err != nil {
		t.Fatal(err)
	}
	f.hook()
}

func open(t *testing.T, f *fake, o shared.Options) *shared.Store {
	t.Helper()
	o.URL, o.Timeout = "redis://"+f.Addr(), time.Minute // whoever is away refuses at once
	s, err := shared.Open(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return s
}

func issue(t *testing.T, s *shared.Store) digest.SHA256 {
	t.Helper()
	d, err := s.Issue(context.Background(), purpose, time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func took(t *testing.T, s *shared.Store, d digest.SHA256) bool {
	t.Helper()
	ours, why, err := s.Take(context.Background(), purpose, []digest.SHA256{digest.Sum256(nil), d})
	if err != nil {
		t.Fatal(err)
	}
	if len(ours) == 0 && why == "" {
		t.Error("refused without a reason")
	}
	return len(ours) == 1 && ours[0] == d
}

func TestOneChallengeServesOnceWhoeverTakesIt(t *testing.T) {
	f := newFake(t)
	a, b := open(t, f, shared.Options{}), open(t, f, shared.Options{})
	for range 20 {
		d := issue(t, a)
		var n atomic.Int64
		var wg sync.WaitGroup
		for _, s := range []*shared.Store{a, b, a, b} {
			wg.Go(func() {
				ours, _, err := s.Take(context.Background(), purpose, []digest.SHA256{d})
				if err != nil {
					t.Error(err)
				}
				n.Add(int64(len(ours)))
			})
		}
		wg.Wait()
		if n.Load() != 1 {
			t.Fatalf("taken %d times", n.Load())
		}
	}
	d := issue(t, a)
	if ours, _, err := b.Take(context.Background(), verifierv1.Purpose_PURPOSE_UNSPECIFIED, []digest.SHA256{d}); len(ours) != 0 || err != nil {
		t.Errorf("for another purpose: %v, %v", ours, err)
	}
	if took(t, open(t, f, shared.Options{Prefix: "another"}), d) {
		t.Error("a verifier of another prefix took it")
	}
	f.FastForward(time.Minute)
	if took(t, b, d) {
		t.Error("it was taken after its time")
	}
}

// TestAStoreThatComesBackKnowsNothing starts the store again with what it had
// before a challenge was taken.
func TestAStoreThatComesBackKnowsNothing(t *testing.T) {
	f := newFake(t)
	s := open(t, f, shared.Options{})
	d := issue(t, s)
	key := f.Keys()[0]
	if !took(t, s, d) {
		t.Fatal("not taken")
	}
	if err := f.Set(key, "1"); err != nil { // the disk missed the removal
		t.Fatal(err)
	}
	f.restart(t, "second")
	forgotten(t, s, d)
}

// forgotten wants a store that started again to serve new challenges alone.
func forgotten(t *testing.T, s *shared.Store, old ...digest.SHA256) {
	t.Helper()
	for _, d := range old {
		ours, _, err := s.Take(context.Background(), purpose, []digest.SHA256{d})
		if len(ours) != 0 || err != nil && !errors.Is(err, shared.ErrRestarted) {
			t.Errorf("after a restart: %v, %v", ours, err)
		}
		if took(t, s, d) {
			t.Error("after a restart it was taken again")
		}
	}
	if !took(t, s, issue(t, s)) {
		t.Error("a new challenge is not taken")
	}
}

func TestAStoreThatIsAwayLetsNothingThrough(t *testing.T) {
	f := newFake(t)
	s := open(t, f, shared.Options{})
	d := issue(t, s)
	f.Close()
	if _, err := s.Issue(context.Background(), purpose, time.Minute); err == nil {
		t.Error("issued without a store")
	}
	if ours, _, err := s.Take(context.Background(), purpose, []digest.SHA256{d}); err == nil || len(ours) != 0 {
		t.Errorf("took %v, %v", ours, err)
	}
	if s.Ready(context.Background()) == nil {
		t.Error("ready without a store")
	}
}

func TestStoresThatAreNone(t *testing.T) {
	for _, o := range []shared.Options{{URL: "http://x"}, {URL: "redis://:secret@127.0.0.1:1"}, {URL: "redis://127.0.0.1:1", Prefix: "a b"}} {
		if _, err := shared.Open(context.Background(), o); err == nil {
			t.Errorf("%+v: opened", o)
		}
	}
}

// replica is a verifier beside others.
func replica(t *testing.T, w *tpmtest.World, s *shared.Store) (*client.Client, string) {
	t.Helper()
	h, err := server.New(server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: w.ManifestKey},
		Challenges: s, Clock: func() time.Time { return tpmtest.Now }, Burst: 1000, PerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := client.New(client.Options{BaseURL: srv.URL, Retries: -1})
	if err != nil {
		t.Fatal(err)
	}
	return c, srv.URL
}

// TestTwoReplicasGiveOneVerdict sends one evidence to both at the same time,
// with a challenge of either.
func TestTwoReplicasGiveOneVerdict(t *testing.T) {
	f, w := newFake(t), tpmtest.NewWorld(t)
	a, urlA := replica(t, w, open(t, f, shared.Options{}))
	b, _ := replica(t, w, open(t, f, shared.Options{}))
	ctx := context.Background()
	for _, from := range []*client.Client{a, b, a, b} {
		ch, err := from.Challenge(ctx)
		if err != nil {
			t.Fatal(err)
		}
		ev := w.Evidence(t, ch.Challenge)
		var given atomic.Int64
		var wg sync.WaitGroup
		for _, c := range []*client.Client{a, b} {
			wg.Go(func() {
				switch _, err := c.Verify(ctx, ev); {
				case err == nil:
					given.Add(1)
				case !fault.Has(err, "nonce.challenge"):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if given.Load() != 1 {
			t.Errorf("%d verdicts on one challenge", given.Load())
		}
	}
	// Without the store nothing is decided, and both say so.
	ch, err := a.Challenge(ctx)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	if _, err := b.Verify(ctx, w.Evidence(t, ch.Challenge)); !fault.Has(err, "verifier.challenges") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("without the store: %v", err)
	}
	if _, err := a.Challenge(ctx); !fault.Has(err, "verifier.challenges") {
		t.Errorf("a challenge without the store: %v", err)
	}
	for path, want := range map[string]int{wire.PathReady: http.StatusServiceUnavailable, wire.PathHealth: http.StatusOK} {
		resp, err := http.Get(urlA + path)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != want {
			t.Errorf("%s: status %d, want %d", path, resp.StatusCode, want)
		}
	}
}

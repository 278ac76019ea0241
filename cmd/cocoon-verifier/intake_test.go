package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/manifestfile"
	"cocoon/internal/syncbuf"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/manifest"
	"cocoon/verifier/server"
	"cocoon/verifier/testfleet"
)

// TestAManifestThatIsListedLaterNeedsItsProof has a registry list a manifest while
// a service runs whose policy wants it in a log. One verifier hands it out without
// a proof, another with one.
func TestAManifestThatIsListedLaterNeedsItsProof(t *testing.T) {
	f := newFleet(t)
	tiles.Quiet()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tiles.Init(t.Context(), t.TempDir(), "localhost/manifests", key)
	if err != nil {
		t.Fatal(err)
	}
	m := manifestOf(t, f)
	if _, err := l.Append(t.Context(), key, m.SHA256); err != nil {
		t.Fatal(err)
	}
	proof, err := l.ProveInclusion(t.Context(), m.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	verifier := func(inclusion []byte) string {
		dir := installFleet(t, f, nil)
		if inclusion != nil {
			if err := os.WriteFile(filepath.Join(dir, testfleet.FileManifest+manifestfile.Suffix), inclusion, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		srv := httptest.NewServer(started(t, filepath.Join(dir, "config.yaml")))
		t.Cleanup(srv.Close)
		return srv.URL
	}
	stripping, whole := verifier(nil), verifier(proof.Text())
	for name, c := range map[string]struct {
		from     []string
		accepted bool
	}{
		"from one that leaves it out":     {[]string{stripping}, false},
		"from one that leaves it out too": {[]string{stripping, whole}, true},
	} {
		t.Run(name, func(t *testing.T) {
			r := registerFor(t, f, stripping)
			var says syncbuf.Buffer
			s := underRegistry(t, f, r, []log.Key{l.Key()}, &says, c.from...)
			srv := httptest.NewServer(s)
			defer srv.Close()
			r.list(m.SHA256)
			if err := s.takeIn(t.Context()); err != nil {
				t.Fatal(err)
			}
			doc, err := f.live(t.Context(), dial(t, srv.URL))
			if err != nil {
				t.Fatal(err)
			}
			_, err = dial(t, srv.URL).VerifyBytes(t.Context(), doc)
			if (err == nil) != c.accepted || err != nil && (!fault.Has(err, "manifest.logged") || len(fault.All(err)) != 1) {
				t.Errorf("accepted %v: %v", err == nil, err)
			}
			if word := map[bool]string{true: "manifest accepted", false: "manifest is refused"}[c.accepted]; !strings.Contains(says.String(), word+`" sha256=`+m.SHA256.String()) {
				t.Errorf("the service says %s", says.String())
			}
			p, err := dial(t, srv.URL).Manifest(t.Context(), m.SHA256)
			if err != nil || bytes.Equal(p.Inclusion, proof.Text()) != c.accepted {
				t.Errorf("the proof is handed on as %q, %v", p.Inclusion, err)
			}
			if c.accepted {
				loggedManifest(t, srv.URL, m.SHA256)
			}
		})
	}
}

func manifestOf(t *testing.T, f *fleet) *manifest.Verified {
	t.Helper()
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Read(env, nil)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// stuck is a log whose disk takes everything but one manifest, of which it says
// when it was asked to.
type stuck struct {
	server.Log
	at    digest.SHA256
	asked chan struct{}
	once  sync.Once
}

func (l *stuck) Manifest(ctx context.Context, m digest.SHA256) error {
	if m != l.at {
		return nil
	}
	l.once.Do(func() { close(l.asked) })
	<-ctx.Done()
	return ctx.Err()
}

func (*stuck) Key() log.Key { return log.Key{} }

// TestAStuckLogHoldsUpNoReload reloads a service while the log's disk keeps it from
// taking in a manifest: that one does not count.
func TestAStuckLogHoldsUpNoReload(t *testing.T) {
	f := newFleet(t)
	source := httptest.NewServer(started(t, filepath.Join(installFleet(t, f, nil), "config.yaml")))
	defer source.Close()
	r, m := registerFor(t, f, source.URL), manifestOf(t, f)
	var says syncbuf.Buffer
	s := underRegistry(t, f, r, nil, &says, source.URL)
	l := &stuck{at: m.SHA256, asked: make(chan struct{})}
	var err error
	if s.server, err = server.New(server.Options{Trust: s.loaded.trust, Journal: l}); err != nil {
		t.Fatal(err)
	}
	r.list(m.SHA256)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	taken, reloaded := make(chan struct{}), make(chan error, 1)
	go func() {
		defer close(taken)
		_ = s.takeIn(ctx) // of which the log knows nothing
	}()
	<-l.asked
	go func() { reloaded <- s.reload() }()
	select {
	case err := <-reloaded:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the reload waits for the log")
	}
	cancel()
	<-taken
	srv := httptest.NewServer(s.server)
	defer srv.Close()
	if p, err := dial(t, srv.URL).Manifest(t.Context(), m.SHA256); err == nil {
		t.Errorf("a manifest that is not in the log counts: %d bytes", len(p.Envelope))
	}
}

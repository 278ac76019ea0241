package main

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/manifestfile"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/manifest"
	"cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/testfleet"
)

// wantLog has the policy of an installed fleet name a new log, which has none of
// its manifests, and returns that log and its key.
func wantLog(t *testing.T, f *fleet, dir string) (*tiles.Log, ed25519.PrivateKey) {
	t.Helper()
	tiles.Quiet()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tiles.Init(t.Context(), t.TempDir(), "localhost/manifests", key)
	if err != nil {
		t.Fatal(err)
	}
	p := f.Policy(policy.ClassTDX, policy.ClassTest)
	p.Manifests.Log = &policy.Log{Keys: []log.Key{l.Key()}}
	doc, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, testfleet.FilePolicy), doc, 0o600); err != nil {
		t.Fatal(err)
	}
	return l, key
}

// TestTheProofComesAtTheServicesOwnPace has the service publish as its config
// says nothing of: the answer to GetVerdict brings the proof of a verdict. How
// long that takes is held to two seconds where the times are (package server);
// a busy machine may need another request.
func TestTheProofComesAtTheServicesOwnPace(t *testing.T) {
	f := newFleet(t)
	srv := httptest.NewServer(started(t, filepath.Join(installFleet(t, f, nil), "config.yaml")))
	defer srv.Close()
	c := dial(t, srv.URL)
	doc, err := f.live(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.VerifyBytes(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
	var v *client.Verdict
	for end := time.Now().Add(time.Minute); ; {
		if v, err = c.Logged(t.Context(), hash(t, doc)); err == nil {
			break
		}
		if !fault.Has(err, "verifier.log.pending") || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	info, err := c.Info(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	k, err := log.ParseKey(info.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	ear, err := result.ParseEAR(v.EAR)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := journal.EntryOf(v.EAR, ear, v.Cell)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := entry.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	p, err := log.ParseInclusion([]byte(v.Inclusion))
	if err != nil {
		t.Fatal(err)
	}
	promise, err := journal.OpenPromise([]byte(v.Promise), k)
	if err != nil || promise.Index != p.Index || promise.Leaf != leaf {
		t.Errorf("promised %+v, %v; proven at %d", promise, err, p.Index)
	}
	if _, err := p.VerifyLeaf(leaf, k); err != nil {
		t.Error(err)
	}
}

// TestAManifestWithoutAProofOfTheLogIsRefused has a policy name the log of
// manifests: the service says at the start that its manifest is not in it and
// refuses evidence until the proof lies beside, and hands that on.
func TestAManifestWithoutAProofOfTheLogIsRefused(t *testing.T) {
	f := newFleet(t)
	dir := installFleet(t, f, nil)
	l, key := wantLog(t, f, dir)
	var said bytes.Buffer
	s, err := newService(filepath.Join(dir, "config.yaml"), slog.New(slog.NewTextHandler(&said, nil)))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if !strings.Contains(said.String(), "manifest is refused") || strings.Contains(said.String(), "manifest accepted") {
		t.Errorf("the service says %s", said.String())
	}
	srv := httptest.NewServer(s)
	defer srv.Close()
	c := dial(t, srv.URL)
	verdict := func() error {
		doc, err := f.live(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		_, err = c.VerifyBytes(t.Context(), doc)
		return err
	}
	if err := verdict(); !fault.Has(err, "manifest.logged") || len(fault.All(err)) != 1 {
		t.Fatalf("without a proof: %v", err)
	}
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	m, err := manifest.Read(env, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range []digest.SHA256{digest.Sum256(nil), m.SHA256} {
		if _, err := l.Append(t.Context(), key, d); err != nil {
			t.Fatal(err)
		}
	}
	beside := func(d digest.SHA256) []byte {
		p, err := l.ProveInclusion(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, testfleet.FileManifest+manifestfile.Suffix), p.Text(), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := s.reload(); err != nil {
			t.Fatal(err)
		}
		return p.Text()
	}
	beside(digest.Sum256(nil))
	if err := verdict(); !fault.Has(err, "manifest.logged") {
		t.Errorf("with the proof of another manifest: %v", err)
	}
	proof := beside(m.SHA256)
	if err := verdict(); err != nil {
		t.Errorf("with the proof: %v", err)
	}
	loggedManifest(t, srv.URL, m.SHA256)
	if !strings.Contains(said.String(), "manifest accepted") {
		t.Errorf("the service says %s", said.String())
	}
	if p, err := c.Manifest(t.Context(), m.SHA256); err != nil || !bytes.Equal(p.Inclusion, proof) {
		t.Errorf("the proof is handed on as %q, %v", p.Inclusion, err)
	}
}

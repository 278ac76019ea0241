package server_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/result"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// TestEveryVerdictIsInTheJournal asks for a verdict and finds it in the log
// on disk, by its evidence, with the hash of the token that was handed out.
func TestEveryVerdictIsInTheJournal(t *testing.T) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "journal")
	verdicts, err := journal.Open(journal.Options{Dir: dir, Origin: "verifier.example/verdicts", Key: key, Promises: true, Publish: &journal.Publish{Interval: 100 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Journal = server.NewDurable(verdicts, o.Clock) })
	ev := s.w.Evidence(t, s.challenge(t))
	v, err := s.client.Verify(context.Background(), ev)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ev.Hash()
	if err != nil {
		t.Fatal(err)
	}
	found, err := verdicts.Find(journal.ByEvidence, h, 10)
	if err != nil || len(found) != 1 || found[0].Entry.Verdict != digest.Sum256([]byte(v.EAR)) || found[0].Entry.Manifest != s.w.Manifests(t)[0].SHA256 {
		t.Fatalf("found %+v, %v", found, err)
	}
	s.provenByItsLog(t, v, found[0], s.w.Manifests(t)[0].SHA256)
	// Refused evidence leaves no verdict.
	bad := s.w.Evidence(t, s.challenge(t))
	bad.Claims.ReceiptKey[0] ^= 1
	if _, err := s.client.Verify(context.Background(), bad); err == nil {
		t.Error("forged evidence got a verdict")
	}
	if err := verdicts.Close(); err != nil {
		t.Fatal(err)
	}
	rep, err := journal.Fsck(dir)
	if err != nil || rep.Err() != nil || rep.Size != 2 {
		t.Errorf("fsck: %+v, %v", rep, err)
	}
	// A journal that takes nothing more: no verdict is handed out.
	if v, err := s.client.Verify(context.Background(), s.w.Evidence(t, s.challenge(t))); err == nil {
		t.Errorf("a verdict that is in no journal was handed out: %+v", v)
	}
}

// provenByItsLog reads the log from the service, as a monitor does, and holds
// promise and proof against it.
func (s *service) provenByItsLog(t *testing.T, v *client.Verdict, found journal.Found, manifest digest.SHA256) {
	t.Helper()
	ctx := context.Background()
	info, err := s.client.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	key, err := log.ParseKey(info.LogKey)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := found.Entry.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	ear, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: []ed25519.PublicKey{s.key.Public().(ed25519.PublicKey)}, Now: s.clock(), AllowDevelopment: true})
	if err != nil {
		t.Fatal(err)
	}
	if e, err := journal.EntryOf(v.EAR, ear, v.Cell); err != nil || *e != found.Entry {
		t.Errorf("the verdict's entry is %+v, the log has %+v: %v", e, found.Entry, err)
	}
	p, err := journal.OpenPromise([]byte(v.Promise), key)
	if err != nil || p.Index != found.Index || p.Leaf != leaf {
		t.Fatalf("promise %+v, %v", p, err)
	}
	logged, err := s.client.Logged(ctx, found.Entry.Evidence)
	for end := time.Now().Add(time.Minute); fault.Has(err, "verifier.log.pending") && time.Now().Before(end); { // a slow disk
		logged, err = s.client.Logged(ctx, found.Entry.Evidence)
	}
	if err != nil || logged.EAR != v.EAR || logged.Promise != v.Promise {
		t.Fatalf("%+v, %v", logged, err)
	}
	proof, err := log.ParseInclusion([]byte(logged.Inclusion))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := proof.VerifyLeaf(leaf, key); err != nil || proof.Index != p.Index {
		t.Errorf("proof of entry %d: %v", proof.Index, err)
	}
	l, err := tiles.OpenURL(ctx, s.http.URL, key, http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Fsck(ctx); err != nil {
		t.Error(err)
	}
	if ms, err := l.Manifests(ctx); err != nil || len(ms) != 1 || ms[0].SHA256 != manifest {
		t.Errorf("manifests %+v, %v", ms, err)
	}
	for _, path := range []string{"/tile/0/999", "/log.pub", "/tile/../log.pub", "/tile/", "/.state/treeState", "/tile/../../segments/0000000000.log"} {
		res, err := http.Get(s.http.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		_ = res.Body.Close()
		if res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d", path, res.StatusCode)
		}
	}
}

// refusing is a journal whose disk is full.
type refusing struct{}

func (refusing) Append(context.Context, *server.Given) error { return errors.New("no space left") }

func (refusing) Get(context.Context, digest.SHA256) (server.Given, bool, error) {
	return server.Given{}, false, nil
}

func TestNoVerdictWithoutAnEntry(t *testing.T) {
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Journal = refusing{} })
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if v, err := s.client.Verify(ctx, s.w.Evidence(t, s.challenge(t))); err == nil {
		t.Errorf("got %+v", v)
	}
}

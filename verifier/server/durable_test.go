package server_test

import (
	"context"
	"crypto/ed25519"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/verifier/journal"
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
	log, err := journal.Open(journal.Options{Dir: dir, Origin: "verifier.example/verdicts", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	s := start(t, tpmtest.NewWorld(t), func(o *server.Options) { o.Journal = server.NewDurable(log, o.Clock) })
	ev := s.w.Evidence(t, s.challenge(t))
	v, err := s.client.Verify(context.Background(), ev)
	if err != nil {
		t.Fatal(err)
	}
	h, err := ev.Hash()
	if err != nil {
		t.Fatal(err)
	}
	found, err := log.Find(journal.ByEvidence, h, 10)
	if err != nil || len(found) != 1 || found[0].Entry.Verdict != digest.Sum256([]byte(v.EAR)) || found[0].Entry.Manifest != s.w.Manifests(t)[0].SHA256 {
		t.Fatalf("found %+v, %v", found, err)
	}
	// Refused evidence leaves no verdict.
	bad := s.w.Evidence(t, s.challenge(t))
	bad.Claims.ReceiptKey[0] ^= 1
	if _, err := s.client.Verify(context.Background(), bad); err == nil {
		t.Error("forged evidence got a verdict")
	}
	if err := log.Close(); err != nil {
		t.Fatal(err)
	}
	rep, err := journal.Fsck(dir)
	if err != nil || rep.Err() != nil || rep.Size != 1 {
		t.Errorf("fsck: %+v, %v", rep, err)
	}
	// A journal that takes nothing more: no verdict is handed out.
	if v, err := s.client.Verify(context.Background(), s.w.Evidence(t, s.challenge(t))); err == nil {
		t.Errorf("a verdict that is in no journal was handed out: %+v", v)
	}
}

// refusing is a journal whose disk is full.
type refusing struct{}

func (refusing) Append(context.Context, server.Given) error { return errors.New("no space left") }

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

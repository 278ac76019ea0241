package main

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/witness"
	"cocoon/verifier/client"
)

// TestTheLogOfVerdictsIsWitnessed has a config name a witness by its address:
// the proof of a verdict is under a checkpoint that it cosigned.
func TestTheLogOfVerdictsIsWitnessed(t *testing.T) {
	f := newFleet(t)
	dir := installFleet(t, f, func(m map[string]any) { m["journal"].(map[string]any)["witnesses"] = "witnesses" })
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "keys"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := keyfile.Write(filepath.Join(dir, "keys", "journal.key"), key); err != nil {
		t.Fatal(err)
	}
	k, err := log.NewKey("localhost/verifier", key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	seed := digest.Sum256([]byte("witness"))
	w, err := witness.Open(witness.Options{Dir: t.TempDir(), Name: "localhost/witness", Key: ed25519.NewKeyFromSeed(seed[:]), Logs: []log.Key{k}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	asked := httptest.NewServer(w.Handler(slog.New(slog.DiscardHandler)))
	defer asked.Close()
	policy := fmt.Appendf(nil, "witness one %s %s\nquorum one\n", w.Key(), asked.URL)
	if err := os.WriteFile(filepath.Join(dir, "witnesses"), policy, 0o600); err != nil {
		t.Fatal(err)
	}
	s := started(t, filepath.Join(dir, "config.yaml"))
	srv := httptest.NewServer(s)
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
	for end := time.Now().Add(time.Minute); ; { // each waits for two seconds at most
		if v, err = c.Logged(t.Context(), hash(t, doc)); err == nil {
			break
		}
		if !fault.Has(err, "verifier.log.pending") || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	p, err := log.ParseInclusion([]byte(v.Inclusion))
	if err != nil {
		t.Fatal(err)
	}
	if at, err := witness.Check(p.Checkpoint, w.Key()); err != nil || at.IsZero() {
		t.Errorf("cosigned at %s: %v", at, err)
	}
	if _, err := log.OpenCheckpoint(p.Checkpoint, k); err != nil {
		t.Error(err)
	}
}

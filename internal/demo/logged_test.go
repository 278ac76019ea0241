package demo

import (
	"crypto/ed25519"
	"encoding/hex"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/keyfile"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// TestTheKeptVerdictIsInTheLog has a verifier with a journal give a verdict, and
// keeps the proof as a run does.
func TestTheKeptVerdictIsInTheLog(t *testing.T) {
	dir := t.TempDir()
	key, logKey := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)), ed25519.NewKeyFromSeed([]byte(strings.Repeat("l", ed25519.SeedSize)))
	j, err := journal.Open(journal.Options{Dir: filepath.Join(dir, "journal"), Origin: logOrigin, Key: logKey, Log: slog.New(slog.DiscardHandler), Promises: true, Publish: &journal.Publish{}})
	if err != nil {
		t.Fatal(err)
	}
	defer j.Close()
	w := tpmtest.NewWorld(t)
	clock := func() time.Time { return tpmtest.Now }
	srv, err := server.New(server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: key}, Journal: server.NewDurable(j, clock), Clock: clock})
	if err != nil {
		t.Fatal(err)
	}
	http := httptest.NewServer(srv)
	defer http.Close()
	c, err := client.New(client.Options{BaseURL: http.URL})
	if err != nil {
		t.Fatal(err)
	}
	ch, err := c.Challenge(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ev := w.Evidence(t, ch.Challenge)
	given, err := c.Verify(t.Context(), ev)
	if err != nil {
		t.Fatal(err)
	}
	r := &run{Options: Options{Out: filepath.Join(dir, "kept"), Clock: clock}, verifierAddr: strings.TrimPrefix(http.URL, "http://"), verifierKey: digest.SHA256(key.Public().(ed25519.PublicKey))}
	if err := keyfile.Write(filepath.Join(dir, "journal.key"), logKey); err != nil {
		t.Fatal(err)
	}
	if err := r.keepLogKey(filepath.Join(dir, "journal.key")); err != nil {
		t.Fatal(err)
	}
	v := &verdictDoc{EAR: given.EAR, Checks: given.Checks}
	if err := r.logged(t.Context(), given.Result.EvidenceSHA256, v); err != nil {
		t.Fatal(err)
	}
	keep := func(v *verdictDoc) *kept {
		t.Helper()
		b, err := v.marshal()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(r.keep(fileVerdict), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return &kept{dir: r.Out}
	}
	if err := os.WriteFile(r.keep(fileVKey), []byte(hex.EncodeToString(key.Public().(ed25519.PublicKey))), 0o600); err != nil {
		t.Fatal(err)
	}
	// The manifest is entry 0.
	if where, err := keep(v).log(); err != nil || !strings.HasPrefix(where, "the verdict is entry 1 of 2 in ") {
		t.Errorf("%q, %v", where, err)
	}
	without, moved := *v, *v
	without.Inclusion, moved.Inclusion = "", strings.Replace(v.Inclusion, "index 1", "index 0", 1)
	for name, v := range map[string]*verdictDoc{"without a proof": &without, "at another place": &moved} {
		if _, err := keep(v).log(); !fault.Has(err, "demo.log") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := r.logged(t.Context(), given.Result.EvidenceSHA256, &verdictDoc{EAR: "another"}); !fault.Has(err, "demo.log") {
		t.Errorf("with another verdict: %v", err)
	}
}

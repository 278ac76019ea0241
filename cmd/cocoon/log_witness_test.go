package main

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
	"cocoon/measurements/log/witness"
)

// TestAProofIsVerifiedWithItsWitness publishes a manifest in a log that a
// witness cosigns, and verifies the proof with and without that witness.
func TestAProofIsVerifiedWithItsWitness(t *testing.T) {
	tiles.Quiet()
	seed := func(name string) ed25519.PrivateKey {
		s := digest.Sum256([]byte(name))
		return ed25519.NewKeyFromSeed(s[:])
	}
	const origin = "log.example.org/cocoon"
	key, err := log.NewKey(origin, seed("log").Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	keys := map[string]string{}
	var policy []byte
	for _, name := range []string{"one", "two"} { // the second one is never asked
		w, err := witness.Open(witness.Options{Dir: filepath.Join(t.TempDir(), name), Name: "witness.example.org/" + name, Key: seed(name), Logs: []log.Key{key}})
		if err != nil {
			t.Fatal(err)
		}
		defer w.Close()
		srv := httptest.NewServer(w.Handler(slog.New(slog.DiscardHandler)))
		defer srv.Close()
		if keys[name] = w.Key(); name == "one" {
			policy = fmt.Appendf(nil, "witness one %s %s\nquorum one\n", w.Key(), srv.URL)
		}
	}
	dir := filepath.Join(t.TempDir(), "log")
	l, err := tiles.OpenWriter(tiles.WriterOptions{Dir: dir, Origin: origin, Key: seed("log"), Interval: 100 * time.Millisecond, Witnesses: policy})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	manifest := digest.Sum256([]byte("manifest"))
	if err := l.Append(t.Context(), 0, [][]byte{log.Entry(manifest)}); err != nil {
		t.Fatal(err)
	}
	proof := filepath.Join(t.TempDir(), "proof")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		p, err := l.ProveInclusion(t.Context(), manifest)
		if err == nil {
			if err := os.WriteFile(proof, p.Text(), 0o600); err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, tiles.ErrNotLogged) && !errors.Is(err, tiles.ErrNotPublished) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
	for name, c := range map[string]struct {
		witnesses []string
		code      int
	}{
		"without":            {},
		"with it":            {[]string{keys["one"]}, fault.ExitOK},
		"with another":       {[]string{keys["two"]}, fault.ExitRefused},
		"with both":          {[]string{keys["one"], keys["two"]}, fault.ExitRefused},
		"with the log's own": {[]string{key.String()}, fault.ExitRefused},
		"with what is none":  {[]string{"x"}, fault.ExitParse},
	} {
		args := []string{"log", "verify", proof, manifest.String(), "--log-key", key.String()}
		for _, k := range c.witnesses {
			args = append(args, "--witness", k)
		}
		if code, stdout, stderr := runHere(t, args...); code != c.code {
			t.Errorf("%s: exit code %d, want %d: %s%s", name, code, c.code, stdout, stderr)
		}
	}
}

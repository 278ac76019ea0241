package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/log"
	"cocoon/measurements/log/witness"
	"cocoon/verifier/client"
	"cocoon/verifier/journal"
	"cocoon/verifier/server"
	"cocoon/verifier/tpmtest"
)

// loggedVerifier runs a verifier with a log and returns its address, the key of
// its log and a verdict of it.
func loggedVerifier(t *testing.T, name string, witnesses ...byte) (address, key string, v *client.Verdict) {
	t.Helper()
	w := tpmtest.NewWorld(t)
	clock := func() time.Time { return tpmtest.Now }
	j, err := journal.Open(journal.Options{Dir: filepath.Join(t.TempDir(), "journal"), Origin: "log.example/" + name, Key: scriptKey("log " + name), Promises: true,
		Publish: &journal.Publish{Interval: 100 * time.Millisecond, Witnesses: witnesses}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() })
	h, err := server.New(server.Options{Trust: server.Trust{Policy: w.Policy, Manifests: w.Manifests(t), Signer: scriptKey("verifier")}, Journal: server.NewDurable(j, clock),
		Clock: clock, Burst: 1000, PerSecond: 1000})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewServer(h)
	t.Cleanup(srv.Close)
	c, err := client.New(client.Options{BaseURL: srv.URL})
	if err != nil {
		t.Fatal(err)
	}
	ch, err := c.Challenge(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if v, err = c.Verify(context.Background(), w.Evidence(t, ch.Challenge)); err != nil {
		t.Fatal(err)
	}
	return srv.URL, j.Key().String(), v
}

func TestAVerdictMustBeInItsVerifiersLog(t *testing.T) {
	logKey, err := log.NewKey("log.example/one", scriptKey("log one").Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	w, err := witness.Open(witness.Options{Dir: t.TempDir(), Name: "witness.example/w", Key: scriptKey("witness"), Logs: []log.Key{logKey}})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	asked := httptest.NewServer(w.Handler(slog.New(slog.DiscardHandler)))
	defer asked.Close()
	address, key, v := loggedVerifier(t, "one", fmt.Appendf(nil, "witness one %s %s\nquorum one\n", w.Key(), asked.URL)...)
	other, otherKey, foreign := loggedVerifier(t, "two")
	dir := t.TempDir()
	promise := filepath.Join(dir, "promise")
	if err := os.WriteFile(promise, []byte(v.Promise), 0o600); err != nil {
		t.Fatal(err)
	}
	foreignPromise := filepath.Join(dir, "foreign")
	if err := os.WriteFile(foreignPromise, []byte(foreign.Promise), 0o600); err != nil {
		t.Fatal(err)
	}
	cocoon := func(args ...string) (string, error) {
		var out bytes.Buffer
		cmd := newRootCmd()
		cmd.SetArgs(args)
		cmd.SetOut(&out)
		cmd.SetErr(&out)
		err := cmd.ExecuteContext(t.Context())
		return out.String(), err
	}
	public := hex.EncodeToString(scriptKey("verifier").Public().(ed25519.PublicKey))
	verify := func(args ...string) (string, error) {
		return cocoon(append([]string{"verdict", "verify", v.EAR, "--key", public, "--at", tpmtest.Now.Format(time.RFC3339), "--allow-development"}, args...)...)
	}
	for _, args := range [][]string{{}, {"--promise", promise}} {
		out, err := verify(append(args, "--log", address, "--log-key", key)...)
		// A verdict is published some moments after it was given.
		for end := time.Now().Add(time.Minute); (fault.Has(err, "verdict.log.pending") || fault.Has(err, "verifier.log.pending")) && time.Now().Before(end); {
			out, err = verify(append(args, "--log", address, "--log-key", key)...)
		}
		if err != nil || !strings.HasPrefix(out, "verified, and in the log at "+address) {
			t.Errorf("%v: %v: %s", args, err, out)
		}
	}
	if out, err := verify("--log", address, "--log-key", key, "--witness", w.Key()); err != nil || !strings.HasPrefix(out, "verified, and in the log at "+address+", cosigned by every witness") {
		t.Errorf("with the witness: %v: %s", err, out)
	}
	stranger, err := witness.Open(witness.Options{Dir: t.TempDir(), Name: "witness.example/other", Key: scriptKey("other witness"), Logs: []log.Key{logKey}})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	for name, c := range map[string]struct {
		args []string
		code string
	}{
		"a witness that has not seen it": {[]string{"--log", address, "--log-key", key, "--witness", w.Key(), "--witness", stranger.Key()}, "log.not_cosigned"},
		"a witness's key that is none":   {[]string{"--log", address, "--log-key", key, "--witness", "w"}, "log.parse"},
		"a witness without a log":        {[]string{"--witness", w.Key()}, "usage"},
		"another verifier":               {[]string{"--log", other, "--log-key", otherKey}, "verdict.unknown"},
		"another verdict's promise":      {[]string{"--log", other, "--log-key", otherKey, "--promise", foreignPromise}, "verdict.log"},
		"a promise of another log":       {[]string{"--log", other, "--log-key", otherKey, "--promise", promise}, "verdict.log"},
		"another key":                    {[]string{"--log", address, "--log-key", otherKey}, "log.proof"},
		"no key":                         {[]string{"--log", address}, "usage"},
		"nobody at the address":          {[]string{"--log", "http://127.0.0.1:1", "--log-key", key}, "log.unreachable"},
		"a key without a log to check":   {[]string{"--log-key", key}, "usage"},
	} {
		if out, err := verify(c.args...); !fault.Has(err, c.code) {
			t.Errorf("%s: %v, want %s: %s", name, err, c.code, out)
		}
	}
	// The log as a whole, and its manifest.
	if out, err := cocoon("log", "fsck", address, "--log-key", key); err != nil || !strings.HasPrefix(out, "good: 2 entries") {
		t.Errorf("%v: %s", err, out)
	}
	proof := filepath.Join(dir, "proof")
	manifest := v.Result.Manifest.SHA256.String()
	if out, err := cocoon("log", "prove", address, manifest, "--log-key", key, "--out", proof); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if out, err := cocoon("log", "verify", proof, manifest, "--log-key", key); err != nil || !strings.Contains(out, "is entry 0 of 2") {
		t.Errorf("%v: %s", err, out)
	}
	if _, err := cocoon("log", "verify", proof, strings.Repeat("0", 63)+"1", "--log-key", key); !fault.Has(err, "log.proof") {
		t.Errorf("another manifest: %v", err)
	}
	if _, err := cocoon("log", "verify", proof, manifest, "--log-key", otherKey); !fault.Has(err, "log.proof") {
		t.Errorf("another key: %v", err)
	}
}

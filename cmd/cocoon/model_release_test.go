package main

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"cocoon/client/modelowner"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/syncbuf"
	"cocoon/measurements/digest"
	"cocoon/measurements/modelpack"
	"cocoon/ratls/modelkey"
	"cocoon/verifier/tpmtest"
)

// ownersDir is a directory with an owner's files, and the enclave that asks.
func ownersDir(t *testing.T) (dir string, w *tpmtest.World, key modelpack.Key, receipt ed25519.PrivateKey) {
	t.Helper()
	dir, w, key = t.TempDir(), tpmtest.NewWorld(t), modelpack.NewKey()
	_, receipt, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w.ReceiptKey = digest.SHA256(receipt.Public().(ed25519.PublicKey))
	id := key.ID()
	w.Config.Model.KeySHA256 = &id
	doc, err := modelpack.MarshalKey(&key, "chat@1:"+w.Config.Model.Verity.Root.String())
	if err != nil {
		t.Fatal(err)
	}
	pol, err := jcs.Marshal(w.Policy)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"ours.key": doc, "policy.json": pol, "manifest.json": w.Envelope(t)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, w, key, receipt
}

var listeningRE = regexp.MustCompile(`listening (http://\S+)`)

// runService runs the verb, until ctx ends or it ends by itself, and returns its
// address and what it ends with.
func runService(ctx context.Context, t *testing.T, dir string, out *syncbuf.Buffer, args ...string) (string, <-chan error) {
	t.Helper()
	cmd := newKeyServiceCmd(func() time.Time { return tpmtest.Now })
	cmd.SetOut(out)
	cmd.SetErr(out)
	cmd.SetArgs(append([]string{"--key", dir + "/ours.key", "--policy", dir + "/policy.json", "--manifest", dir + "/manifest.json",
		"--log", dir + "/releases.log", "--listen", "127.0.0.1:0", "--cache-dir", dir + "/cache"}, args...))
	done := make(chan error, 1)
	go func() { done <- cmd.ExecuteContext(ctx) }()
	for {
		if m := listeningRE.FindStringSubmatch(out.String()); m != nil {
			return m[1], done
		}
		select {
		case err := <-done:
			t.Fatalf("it ended: %v\n%s", err, out)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestAModelOwnerReleasesAKeyOnce runs the verb as an owner does; the enclave is
// one of class vtpm, which the owner's policy accepts for development.
func TestAModelOwnerReleasesAKeyOnce(t *testing.T) {
	dir, w, key, receipt := ownersDir(t)
	var out syncbuf.Buffer
	url, done := runService(t.Context(), t, dir, &out, "--once")
	config, err := w.Config.Hash()
	if err != nil {
		t.Fatal(err)
	}
	a := &modelkey.Asker{URL: url, HTTP: http.DefaultClient, Receipt: receipt, Config: config,
		Evidence: func(_ context.Context, c digest.SHA256) ([]byte, error) { return w.Evidence(t, c).Marshal() }}
	// Another machine is refused, and the service goes on.
	good := w.Boot.Components.InitrdSHA256
	w.Boot.Components.InitrdSHA256 = digest.Sum256([]byte("another initrd"))
	if _, err := a.Ask(t.Context(), w.Config.Model.Verity.Root, key.ID()); !fault.Has(err, modelkey.CodeRefused) || fault.ExitCode(err) != fault.ExitRefused {
		t.Errorf("another image: %v", err)
	}
	w.Boot.Components.InitrdSHA256 = good
	got, err := a.Ask(t.Context(), w.Config.Model.Verity.Root, key.ID())
	if err != nil || *got != key {
		t.Fatalf("got %v, %v\n%s", got, err, &out)
	}
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
	if s := out.String(); !strings.Contains(s, "for development") || !strings.Contains(s, "level=INFO msg=released pack=chat@1:") || strings.Contains(s, "000000000000") {
		t.Errorf("it said:\n%s", s)
	}

	var shown bytes.Buffer
	root := newRootCmd()
	root.SetOut(&shown)
	root.SetArgs([]string{"model", "releases", dir + "/releases.log", "--json"})
	if err := root.Execute(); err != nil {
		t.Fatal(err)
	}
	var log struct{ Releases []modelowner.Release }
	if err := json.Unmarshal(shown.Bytes(), &log); err != nil || len(log.Releases) != 1 || log.Releases[0].ReceiptKey != w.ReceiptKey || log.Releases[0].TrustClass != "vtpm" {
		t.Errorf("the log is %s, %v", &shown, err)
	}
	shown.Reset()
	root.SetArgs([]string{"model", "releases", dir + "/releases.log", "--json=false"})
	if err := root.Execute(); err != nil || !strings.Contains(shown.String(), w.ReceiptKey.String()) || !strings.HasSuffix(shown.String(), "1 releases\n") {
		t.Errorf("shown %q, %v", &shown, err)
	}
}

// TestAModelOwnersServiceEndsOrderly on a signal.
func TestAModelOwnersServiceEndsOrderly(t *testing.T) {
	dir, _, _, _ := ownersDir(t)
	var out syncbuf.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	url, done := runService(ctx, t, dir, &out)
	rsp, err := http.Get(url + "/healthz")
	if err != nil || rsp.StatusCode != http.StatusOK {
		t.Errorf("healthz: %v", err)
	} else {
		rsp.Body.Close()
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("it ended with %v", err)
	}
}

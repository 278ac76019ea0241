//go:build cgo

package main

import (
	"crypto/ed25519"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"cocoon/cmd/cocoon-verifier/internal/pkcs11test"
	"cocoon/verifier/jwks"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// TestAServiceSignsWithAToken runs the program with a config that names a token:
// its verdicts verify under the key set that it publishes, which is the token's
// key and no other, also after a reload; no file has a signing key.
func TestAServiceSignsWithAToken(t *testing.T) {
	module := pkcs11test.New(t, "verifier")
	f := newFleet(t)
	dir := installFleet(t, f, func(m map[string]any) {
		delete(m, "signing_key")
		m["signing_keys"] = []any{map[string]any{"pkcs11": map[string]any{"module": module, "token": pkcs11test.Label, "label": "verifier", "pin_file": "pin"}}}
	})
	if err := os.WriteFile(filepath.Join(dir, "pin"), []byte(pkcs11test.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	p := startProcess(t, dir, "--config", "config.yaml")
	c := dial(t, p.url)
	var first ed25519.PublicKey
	for range 2 {
		keys, err := jwks.Parse(fetch(t, p.url+wire.PathJWKS))
		if err != nil || len(keys) != 1 {
			t.Fatalf("%d keys are published: %v", len(keys), err)
		}
		if first == nil {
			first = keys[0]
		}
		if !first.Equal(keys[0]) {
			t.Error("a reload has another key")
		}
		doc, err := f.live(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		v, err := c.VerifyBytes(t.Context(), doc)
		if err != nil {
			t.Fatal(err)
		}
		if e, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: keys, AllowDevelopment: true}); err != nil || e.EvidenceSHA256 != hash(t, doc) {
			t.Errorf("the verdict under the published key: %v", err)
		}
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		p.until(t, "msg=reloaded")
	}
	if _, err := os.Stat(filepath.Join(dir, "keys", "verifier.key")); !os.IsNotExist(err) {
		t.Errorf("there is a signing key in a file: %v", err)
	}
	p.stop(t, syscall.SIGTERM)
}

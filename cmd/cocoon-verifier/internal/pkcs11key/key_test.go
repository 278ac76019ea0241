//go:build cgo

package pkcs11key

import (
	"crypto"
	"crypto/ed25519"
	"sync"
	"testing"

	"cocoon/cmd/cocoon-verifier/internal/pkcs11test"
)

// softHSM makes a token in software and returns how to open its key.
func softHSM(t *testing.T) (*Modules, Options) {
	t.Helper()
	o := Options{Module: pkcs11test.New(t, "verifier", "twice", "twice"), Token: pkcs11test.Label, Label: "verifier", PIN: pkcs11test.PIN}
	m := &Modules{}
	c, err := m.load(o.Module)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Finalize() })
	return m, o
}

func TestATokenSigns(t *testing.T) {
	m, o := softHSM(t)
	for what, change := range map[string]func(*Options){
		"another PIN":      func(o *Options) { o.PIN = "4321" },
		"another token":    func(o *Options) { o.Token = "x" },
		"another key":      func(o *Options) { o.Label = "x" },
		"an unclear label": func(o *Options) { o.Label = "twice" },
		"another module":   func(o *Options) { o.Module = "/etc/passwd" },
	} {
		bad := o
		change(&bad)
		if _, err := m.Open(bad); err == nil {
			t.Errorf("%s: opened", what)
		}
	}
	k, err := m.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	public := k.Public().(ed25519.PublicKey)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			message := []byte{byte(i)}
			sig, err := k.Sign(nil, message, crypto.Hash(0))
			if err != nil || !ed25519.Verify(public, message, sig) {
				t.Errorf("signature %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if _, err := k.Sign(nil, make([]byte, 32), crypto.SHA256); err == nil {
		t.Error("a hash was signed")
	}
	// The token is reset under the sessions, as after an update.
	if err := k.(*key).c.CloseAllSessions(k.(*key).slot); err != nil {
		t.Fatal(err)
	}
	for range 2 * sessions {
		if sig, err := k.Sign(nil, []byte("x"), crypto.Hash(0)); err != nil || !ed25519.Verify(public, []byte("x"), sig) {
			t.Fatalf("after a reset: %v", err)
		}
	}
	// A second one beside it, as at a reload.
	second, err := m.Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if err := k.Close(); err != nil {
		t.Error(err)
	}
	if _, err := k.Sign(nil, []byte("x"), crypto.Hash(0)); err == nil {
		t.Error("a closed key signs")
	}
	if _, err := second.Sign(nil, []byte("x"), crypto.Hash(0)); err != nil {
		t.Errorf("the other one: %v", err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
}

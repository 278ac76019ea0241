//go:build cgo

package pkcs11key

import (
	"crypto"
	"crypto/ed25519"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/miekg/pkcs11"

	"cocoon/internal/needtool"
)

// softHSM makes a token in software and returns how to open its key.
func softHSM(t *testing.T) (*Modules, Options) {
	t.Helper()
	module := os.Getenv("SOFTHSM2_MODULE")
	if module == "" {
		module = "/usr/lib/softhsm/libsofthsm2.so"
	}
	util := needtool.Find(t, "softhsm2-util")
	if _, err := os.Stat(module); err != nil {
		needtool.Missing(t, module)
	}
	dir := t.TempDir()
	conf := filepath.Join(dir, "softhsm2.conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir = "+dir+"\nobjectstore.backend = file\nlog.level = ERROR\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	if out, err := exec.CommandContext(t.Context(), util, "--module", module, "--init-token", "--free", "--label", "cocoon", "--so-pin", "0000", "--pin", "1234").CombinedOutput(); err != nil {
		t.Fatalf("making token: %v\n%s", err, out)
	}
	m := &Modules{}
	c, err := m.load(module)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Finalize() })
	slot, err := findToken(c, "cocoon")
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Login(s, pkcs11.CKU_USER, "1234"); err != nil {
		t.Fatal(err)
	}
	for _, label := range []string{"verifier", "twice", "twice"} {
		_, _, err = c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdwardsKeyPairGen, nil)}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
			// PrintableString "edwards25519" (PKCS #11 version 3.1, section 6.3.5).
			pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, append([]byte{0x13, 12}, "edwards25519"...)),
		}, []*pkcs11.Attribute{
			pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
			pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
		})
		if err != nil {
			t.Fatalf("making key: %v", err)
		}
	}
	if err := c.CloseAllSessions(slot); err != nil { // and so log out
		t.Fatal(err)
	}
	return m, Options{Module: module, Token: "cocoon", Label: "verifier", PIN: "1234"}
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

//go:build cgo

// Package pkcs11test makes PKCS #11 tokens in software, by SoftHSM, for tests.
// It has seen no hardware.
package pkcs11test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/miekg/pkcs11"

	"cocoon/internal/needtool"
)

// What every token has.
const (
	Label = "cocoon" // the token's
	PIN   = "1234"   // of the user
)

// The mechanism and the parameters of an Ed25519 key pair: PrintableString
// "edwards25519" (PKCS #11 version 3.1, sections 6.3.1 and 6.3.5).
const ckmEdwardsKeyPairGen = 0x1055

var edwards25519 = append([]byte{0x13, 12}, "edwards25519"...)

// New makes a token with a key pair for each label, and returns the path of the
// module that opens it. It is for this process and those that it starts; the
// module is left as if it had never been used.
func New(t testing.TB, keys ...string) (module string) {
	t.Helper()
	module = os.Getenv("SOFTHSM2_MODULE")
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
	if out, err := exec.CommandContext(t.Context(), util, "--module", module, "--init-token", "--free", "--label", Label, "--so-pin", "0000", "--pin", PIN).CombinedOutput(); err != nil {
		t.Fatalf("making token: %v\n%s", err, out)
	}
	c := pkcs11.New(module)
	if c == nil {
		t.Fatalf("%s is no module", module)
	}
	defer c.Destroy()
	if err := c.Initialize(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := c.Finalize(); err != nil {
			t.Error(err)
		}
	}()
	fill(t, c, keys)
	return module
}

// fill makes key pairs in the one token that has a label.
func fill(t testing.TB, c *pkcs11.Ctx, keys []string) {
	t.Helper()
	slots, err := c.GetSlotList(true)
	if err != nil {
		t.Fatal(err)
	}
	for _, slot := range slots {
		info, err := c.GetTokenInfo(slot)
		if err != nil {
			t.Fatal(err)
		}
		if info.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		s, err := c.OpenSession(slot, pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Login(s, pkcs11.CKU_USER, PIN); err != nil {
			t.Fatal(err)
		}
		for _, label := range keys {
			_, _, err := c.GenerateKeyPair(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(ckmEdwardsKeyPairGen, nil)}, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_VERIFY, true),
				pkcs11.NewAttribute(pkcs11.CKA_EC_PARAMS, edwards25519),
			}, []*pkcs11.Attribute{
				pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, label), pkcs11.NewAttribute(pkcs11.CKA_PRIVATE, true),
				pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false), pkcs11.NewAttribute(pkcs11.CKA_SIGN, true),
			})
			if err != nil {
				t.Fatalf("making key: %v", err)
			}
		}
		return
	}
	t.Fatal("the token is not there")
}

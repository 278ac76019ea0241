package keys

import (
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"testing"

	"cocoon/ratls"
)

func TestKeysAreNewAndOfTheRightKinds(t *testing.T) {
	a, err := New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	b, err := New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if a.TLS.Equal(b.TLS) || a.Receipt.Equal(b.Receipt) {
		t.Error("two boots share a key")
	}
	if a.TLS.Curve != elliptic.P256() {
		t.Errorf("TLS key is on %s", a.TLS.Curve.Params().Name)
	}
	spki, err := ratls.SPKIHash(a.TLS.Public())
	if err != nil || spki != a.SPKI {
		t.Errorf("SPKI hash is %s, want %s (%v)", a.SPKI, spki, err)
	}
	pub := a.ReceiptPublic()
	if !ed25519.Verify(pub[:], []byte("x"), ed25519.Sign(a.Receipt, []byte("x"))) {
		t.Error("the public half does not fit")
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("no entropy") }

func TestABrokenRandomSourceIsAnError(t *testing.T) {
	if _, err := New(broken{}); err == nil {
		t.Error("keys without entropy")
	}
}

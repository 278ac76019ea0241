// Package keys makes the keys of one boot. They are never written anywhere
// and die with the VM (DESIGN section 4: made anew at each boot, never
// sealed).
package keys

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"

	"cocoon/measurements/digest"
)

// Keys are the identity of one boot.
type Keys struct {
	TLS     *ecdsa.PrivateKey  // P-256, signs TLS handshakes
	Receipt ed25519.PrivateKey // signs receipts, and proves the worker to gateways

	// SPKI is the SHA-256 of the TLS key's SubjectPublicKeyInfo (DER).
	SPKI digest.SHA256
}

// New makes keys from the random source, crypto/rand.Reader outside tests.
// (For ECDSA, Go 1.26 always uses the system's generator.)
func New(random io.Reader) (*Keys, error) {
	t, err := ecdsa.GenerateKey(elliptic.P256(), random)
	if err != nil {
		return nil, fmt.Errorf("making TLS key: %w", err)
	}
	_, r, err := ed25519.GenerateKey(random)
	if err != nil {
		return nil, fmt.Errorf("making receipt key: %w", err)
	}
	der, err := x509.MarshalPKIXPublicKey(t.Public())
	if err != nil {
		return nil, fmt.Errorf("encoding TLS key: %w", err)
	}
	return &Keys{TLS: t, Receipt: r, SPKI: sha256.Sum256(der)}, nil
}

// ReceiptPublic returns the receipt key's raw public half.
func (k *Keys) ReceiptPublic() digest.SHA256 {
	return digest.SHA256(k.Receipt.Public().(ed25519.PublicKey))
}

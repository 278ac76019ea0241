package p256_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"math/big"
	"testing"

	"cocoon/verifier/internal/p256"
)

func TestVerifyTakesFixedSizeSignatures(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	pub, err := p256.Key(point[1:])
	if err != nil || !pub.Equal(&key.PublicKey) {
		t.Fatalf("key is %v, error %v", pub, err)
	}
	// Enough signatures for r and s with leading zeros and with the top bit set.
	for i := range 600 {
		digest := sha256.Sum256([]byte{byte(i), byte(i >> 8)})
		r, s, err := ecdsa.Sign(rand.Reader, key, digest[:])
		if err != nil {
			t.Fatal(err)
		}
		sig := make([]byte, 64)
		r.FillBytes(sig[:32])
		s.FillBytes(sig[32:])
		if !p256.Verify(pub, &digest, sig) {
			t.Fatalf("signature %x does not verify", sig)
		}
		sig[i%64] ^= 1
		if p256.Verify(pub, &digest, sig) {
			t.Fatalf("changed signature %x verifies", sig)
		}
	}
}

func TestDegenerateSignaturesAndKeysAreRefused(t *testing.T) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256([]byte("x"))
	n := elliptic.P256().Params().N
	order := n.FillBytes(make([]byte, 32))
	one := big.NewInt(1).FillBytes(make([]byte, 32))
	zero := make([]byte, 32)
	for name, sig := range map[string][]byte{
		"zeros": bytes.Repeat(zero, 2), "r zero": append(bytes.Clone(zero), one...), "s zero": append(bytes.Clone(one), zero...),
		"r of the group's order": append(bytes.Clone(order), one...), "s of the group's order": append(bytes.Clone(one), order...),
		"63 bytes": make([]byte, 63), "65 bytes": make([]byte, 65), "nothing": nil, "ones": bytes.Repeat([]byte{0xff}, 64),
	} {
		if p256.Verify(&key.PublicKey, &digest, sig) {
			t.Errorf("%s verifies", name)
		}
	}
	for name, xy := range map[string][]byte{
		"the point at infinity": make([]byte, 64), "a point off the curve": bytes.Repeat([]byte{1}, 64),
		"coordinates above the field": bytes.Repeat([]byte{0xff}, 64), "63 bytes": make([]byte, 63), "nothing": nil,
	} {
		if _, err := p256.Key(xy); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

package ecsig_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha512"
	"math/big"
	"testing"

	"cocoon/verifier/internal/ecsig"
)

// curves are those that platforms sign with.
var curves = []elliptic.Curve{elliptic.P256(), elliptic.P384()}

func size(c elliptic.Curve) int { return c.Params().BitSize / 8 }

func newKey(t testing.TB, c elliptic.Curve) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func sign(t testing.TB, key *ecdsa.PrivateKey, digest []byte) []byte {
	t.Helper()
	r, s, err := ecdsa.Sign(rand.Reader, key, digest)
	if err != nil {
		t.Fatal(err)
	}
	n := size(key.Curve)
	sig := make([]byte, 2*n)
	r.FillBytes(sig[:n])
	s.FillBytes(sig[n:])
	return sig
}

// many is n, or a tenth of it where the time is short: the race detector makes
// arithmetic slow, and finds nothing in it.
func many(n int) int {
	if testing.Short() {
		return n / 10
	}
	return n
}

func skipShort(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("arithmetic alone")
	}
}

func TestVerifyTakesFixedSizeSignatures(t *testing.T) {
	for _, c := range curves {
		key := newKey(t, c)
		point, err := key.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		pub, err := ecsig.Key(point[1:])
		if err != nil || !pub.Equal(&key.PublicKey) {
			t.Fatalf("key is %v, error %v", pub, err)
		}
		// Enough signatures for r and s with leading zeros and with the top bit set.
		for i := range many(600) {
			digest := sha512.Sum384([]byte{byte(i), byte(i >> 8)})
			d := digest[:size(c)]
			sig := sign(t, key, d)
			if r, s := ecsig.Halves(sig); !ecsig.Verify(pub, d, r, s) {
				t.Fatalf("signature %x does not verify", sig)
			}
			sig[i%len(sig)] ^= 1
			if r, s := ecsig.Halves(sig); ecsig.Verify(pub, d, r, s) {
				t.Fatalf("changed signature %x verifies", sig)
			}
		}
	}
}

// degenerate are signatures that no key has made.
func degenerate(c elliptic.Curve) map[string][2][]byte {
	n := size(c)
	order := c.Params().N.FillBytes(make([]byte, n))
	one, zero, ones := big.NewInt(1).FillBytes(make([]byte, n)), make([]byte, n), bytes.Repeat([]byte{0xff}, n)
	return map[string][2][]byte{
		"zeros": {zero, zero}, "r zero": {zero, one}, "s zero": {one, zero}, "ones": {ones, ones}, "s of ones": {one, ones},
		"r of the group's order": {order, one}, "s of the group's order": {one, order},
		"short": {one[1:], one[1:]}, "long": {append([]byte{0}, one...), append([]byte{0}, one...)}, "nothing": {nil, nil},
	}
}

func TestDegenerateSignaturesAndKeysAreRefused(t *testing.T) {
	for _, c := range curves {
		key := newKey(t, c)
		for name, sig := range degenerate(c) {
			if ecsig.Verify(&key.PublicKey, make([]byte, size(c)), sig[0], sig[1]) {
				t.Errorf("%s: %s verifies", c.Params().Name, name)
			}
		}
		for name, xy := range map[string][]byte{
			"the point at infinity": make([]byte, 2*size(c)), "a point off the curve": bytes.Repeat([]byte{1}, 2*size(c)),
			"coordinates above the field": bytes.Repeat([]byte{0xff}, 2*size(c)), "a byte short": make([]byte, 2*size(c)-1), "nothing": nil,
		} {
			if _, err := ecsig.Key(xy); err == nil {
				t.Errorf("%s: %s is taken", c.Params().Name, name)
			}
		}
	}
	if key := newKey(t, elliptic.P521()); ecsig.Verify(&key.PublicKey, make([]byte, 64), make([]byte, 66), make([]byte, 66)) {
		t.Error("a key on a larger curve verifies")
	}
	if r, s := ecsig.Halves(make([]byte, 65)); r != nil || s != nil {
		t.Errorf("65 bytes have halves %x and %x", r, s)
	}
}

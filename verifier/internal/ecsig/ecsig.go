// Package ecsig verifies ECDSA signatures in the fixed-size form that quotes,
// reports and collateral have: r and s, big-endian, each of the curve's size. In
// come a key, a digest and the two; out goes whether the signature holds (FIPS
// 186-5, section 6.4.2).
//
// Tables are for keys that come again and again: a platform's attestation key
// signs the quotes of all machines on it, a chip's VCEK all its reports.
package ecsig

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
)

// maxSize is the size of P-384's numbers, the largest that are signed with here.
const maxSize = 48

// Verify reports whether r and s, each of the size of key's curve, are its
// signature of the digest, as crypto/ecdsa decides it.
func Verify(key *ecdsa.PublicKey, digest, r, s []byte) bool {
	if size := (key.Curve.Params().BitSize + 7) / 8; size > maxSize || len(r) != size || len(s) != size {
		return false
	}
	var buf [2 + 2*(3+maxSize)]byte
	der := append(buf[:0], 0x30, 0)
	der = appendInteger(der, r)
	der = appendInteger(der, s)
	der[1] = byte(len(der) - 2)
	return ecdsa.VerifyASN1(key, digest, der)
}

// appendInteger appends the DER INTEGER of an unsigned number.
func appendInteger(der, n []byte) []byte {
	for len(n) > 1 && n[0] == 0 {
		n = n[1:]
	}
	if n[0]&0x80 != 0 {
		der = append(der, 2, byte(len(n)+1), 0)
	} else {
		der = append(der, 2, byte(len(n)))
	}
	return append(der, n...)
}

// Halves cuts a signature into r and s; neither is a number where its length is
// odd.
func Halves(sig []byte) (r, s []byte) {
	if len(sig)%2 != 0 {
		return nil, nil
	}
	return sig[:len(sig)/2], sig[len(sig)/2:]
}

// Key reads a public key on P-256, 64 bytes, or P-384, 96: x then y, big-endian. A
// point that is not on the curve is refused.
func Key(xy []byte) (*ecdsa.PublicKey, error) {
	on := elliptic.P256()
	switch len(xy) {
	case 64:
	case 96:
		on = elliptic.P384()
	default:
		return nil, fmt.Errorf("reading key of %d bytes, neither 64 nor 96", len(xy))
	}
	var buf [1 + 2*maxSize]byte
	key, err := ecdsa.ParseUncompressedPublicKey(on, append(append(buf[:0], 4), xy...))
	if err != nil {
		return nil, fmt.Errorf("reading %s key: %w", on.Params().Name, err)
	}
	return key, nil
}

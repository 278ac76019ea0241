// Package p256 verifies ECDSA P-256 signatures in the fixed-size form that
// Intel uses in quotes and collateral: r then s, 32 bytes each, big-endian.
package p256

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"fmt"
)

// Verify reports whether sig (64 bytes) is key's signature of the digest.
func Verify(key *ecdsa.PublicKey, digest *[32]byte, sig []byte) bool {
	if len(sig) != 64 {
		return false
	}
	var buf [72]byte
	der := append(buf[:0], 0x30, 0)
	der = appendInteger(der, sig[:32])
	der = appendInteger(der, sig[32:])
	der[1] = byte(len(der) - 2)
	return ecdsa.VerifyASN1(key, digest[:], der)
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

// Key reads a public key: x then y, 32 bytes each, big-endian. A point that is
// not on the curve is refused.
func Key(xy []byte) (*ecdsa.PublicKey, error) {
	if len(xy) != 64 {
		return nil, fmt.Errorf("reading P-256 key of %d bytes, not 64", len(xy))
	}
	var buf [65]byte
	buf[0] = 4
	copy(buf[1:], xy)
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), buf[:])
	if err != nil {
		return nil, fmt.Errorf("reading P-256 key: %w", err)
	}
	return key, nil
}

package vek

import (
	"crypto/ecdsa"
)

// VerifyP384 reports whether r and s (48 bytes each, big-endian) are key's
// signature of the digest. A signature with a number that is zero or not below
// the group order is refused.
func VerifyP384(key *ecdsa.PublicKey, digest *[48]byte, r, s *[48]byte) bool {
	var buf [2 + 2*(3+48)]byte
	der := append(buf[:0], 0x30, 0)
	der = appendInteger(der, r[:])
	der = appendInteger(der, s[:])
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

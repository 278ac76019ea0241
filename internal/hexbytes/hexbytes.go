// Package hexbytes has fixed-size byte values that JSON shows as lower-case
// hex; any other spelling is refused.
package hexbytes

import (
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrFormat is returned for text that is not lower-case hex of the right
// length.
var ErrFormat = errors.New("not lower-case hex of the right length")

// Hash is 32 bytes: a SHA-256, a cell's hash, an Ed25519 public key, a salt.
type Hash [32]byte

// Sig is an Ed25519 signature.
type Sig [64]byte

// String returns lower-case hex.
func (h Hash) String() string { return hex.EncodeToString(h[:]) }

// MarshalText returns lower-case hex.
func (h Hash) MarshalText() ([]byte, error) { return []byte(h.String()), nil }

// UnmarshalText reads 64 lower-case hex digits.
func (h *Hash) UnmarshalText(b []byte) error { return decode(h[:], b) }

// String returns lower-case hex.
func (s Sig) String() string { return hex.EncodeToString(s[:]) }

// MarshalText returns lower-case hex.
func (s Sig) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads 128 lower-case hex digits.
func (s *Sig) UnmarshalText(b []byte) error { return decode(s[:], b) }

// ParseHash reads 64 lower-case hex digits.
func ParseHash(s string) (Hash, error) {
	var h Hash
	return h, decode(h[:], []byte(s))
}

func decode(dst, text []byte) error {
	if len(text) != 2*len(dst) {
		return fmt.Errorf("reading %d hex digits, want %d: %w", len(text), 2*len(dst), ErrFormat)
	}
	for _, c := range text {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("reading hex: %w", ErrFormat)
		}
	}
	if _, err := hex.Decode(dst, text); err != nil {
		return fmt.Errorf("reading hex: %w", err)
	}
	return nil
}

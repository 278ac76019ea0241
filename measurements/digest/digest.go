// Package digest has the hash values that the project's documents carry:
// fixed-size, lower-case hex in JSON, refused in any other spelling.
package digest

import (
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
)

// ErrFormat is returned for text that is not lower-case hex of the right
// length.
var ErrFormat = errors.New("not lower-case hex of the right length")

// SHA256 is a 32-byte value, usually a SHA-256.
type SHA256 [32]byte

// SHA384 is a 48-byte value: a TDX or SNP measurement.
type SHA384 [48]byte

// Sum256 returns the SHA-256 of b.
func Sum256(b []byte) SHA256 { return sha256.Sum256(b) }

// Sum384 returns the SHA-384 of b.
func Sum384(b []byte) SHA384 { return sha512.Sum384(b) }

// Parse256 reads 64 lower-case hex digits.
func Parse256(s string) (SHA256, error) {
	var d SHA256
	return d, parse(d[:], s)
}

// Parse384 reads 96 lower-case hex digits.
func Parse384(s string) (SHA384, error) {
	var d SHA384
	return d, parse(d[:], s)
}

// String returns lower-case hex.
func (d SHA256) String() string {
	var text [2 * len(d)]byte
	hex.Encode(text[:], d[:])
	return string(text[:])
}

// IsZero reports whether every byte is zero.
func (d SHA256) IsZero() bool { return d == SHA256{} }

// MarshalText returns lower-case hex.
func (d SHA256) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// AppendText appends lower-case hex.
func (d SHA256) AppendText(b []byte) ([]byte, error) { return hex.AppendEncode(b, d[:]), nil }

// UnmarshalText reads 64 lower-case hex digits.
func (d *SHA256) UnmarshalText(b []byte) error { return parse(d[:], b) }

// String returns lower-case hex.
func (d SHA384) String() string {
	var text [2 * len(d)]byte
	hex.Encode(text[:], d[:])
	return string(text[:])
}

// IsZero reports whether every byte is zero.
func (d SHA384) IsZero() bool { return d == SHA384{} }

// MarshalText returns lower-case hex.
func (d SHA384) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// AppendText appends lower-case hex.
func (d SHA384) AppendText(b []byte) ([]byte, error) { return hex.AppendEncode(b, d[:]), nil }

// UnmarshalText reads 96 lower-case hex digits.
func (d *SHA384) UnmarshalText(b []byte) error { return parse(d[:], b) }

func parse[T string | []byte](dst []byte, s T) error {
	if len(s) != 2*len(dst) {
		return fmt.Errorf("reading hash %.16q: %w of %d digits", s, ErrFormat, 2*len(dst))
	}
	for i := range dst {
		high, low := digit(s[2*i]), digit(s[2*i+1])
		if high > 15 || low > 15 {
			return fmt.Errorf("reading hash %.16q: %w of %d digits", s, ErrFormat, 2*len(dst))
		}
		dst[i] = high<<4 | low
	}
	return nil
}

// digit is the value of a hex digit in lower case, 255 for anything else.
func digit(c byte) byte {
	switch {
	case c >= '0' && c <= '9':
		return c - '0'
	case c >= 'a' && c <= 'f':
		return c - 'a' + 10
	}
	return 255
}

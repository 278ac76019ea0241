package toncell

import (
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"

	"github.com/xssnick/tonutils-go/address"
)

// Address is a standard TON address (addr_std without anycast). The zero
// value is a valid address; a missing one is a nil pointer.
type Address struct {
	Workchain int8
	Hash      [32]byte
}

// FromAddr takes over the library's address; only standard ones are accepted.
func FromAddr(a *address.Address) (Address, error) {
	if a == nil || a.Type() != address.StdAddress || len(a.Data()) != 32 {
		return Address{}, fmt.Errorf("taking over address %v: not a standard address", a)
	}
	return Address{Workchain: int8(a.Workchain()), Hash: [32]byte(a.Data())}, nil
}

// Addr returns the library's form, bounceable, for the main network.
func (a Address) Addr() *address.Address {
	return address.NewAddress(0, byte(a.Workchain), append([]byte(nil), a.Hash[:]...))
}

// String returns the raw form: workchain, a colon, 64 lower-case hex digits.
func (a Address) String() string {
	return strconv.Itoa(int(a.Workchain)) + ":" + hex.EncodeToString(a.Hash[:])
}

// ParseAddress reads the raw form ("0:…" with 64 hex digits) or the
// user-friendly one (48 characters of base64 with a checksum).
func ParseAddress(s string) (Address, error) {
	if wc, digits, ok := strings.Cut(s, ":"); ok {
		n, err := strconv.ParseInt(wc, 10, 8)
		if err != nil || strconv.FormatInt(n, 10) != wc {
			return Address{}, fmt.Errorf("parsing address %q: bad workchain", s)
		}
		raw, err := hex.DecodeString(digits)
		if err != nil || len(raw) != 32 {
			return Address{}, fmt.Errorf("parsing address %q: want 64 hex digits", s)
		}
		return Address{Workchain: int8(n), Hash: [32]byte(raw)}, nil
	}
	if len(s) != 48 {
		return Address{}, fmt.Errorf("parsing address %q: neither raw nor user-friendly", s)
	}
	a, err := address.ParseAddr(s)
	if err != nil {
		return Address{}, fmt.Errorf("parsing address %q: %w", s, err)
	}
	return FromAddr(a)
}

// MarshalText writes the raw form.
func (a Address) MarshalText() ([]byte, error) { return []byte(a.String()), nil }

// UnmarshalText reads either form.
func (a *Address) UnmarshalText(b []byte) error {
	v, err := ParseAddress(string(b))
	if err != nil {
		return err
	}
	*a = v
	return nil
}

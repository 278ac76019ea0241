// Package coin has amounts of Toncoin. One TON is 10^9 nanoton; JSON shows
// nanoton as a decimal string, because JSON numbers end at 2^53.
package coin

import (
	"fmt"
	"math/big"
	"strconv"
	"strings"
)

// TON is one Toncoin in nanoton.
const TON Nano = 1_000_000_000

// Nano is an amount in nanoton.
type Nano uint64

// String returns TON with all nine decimals: "1.500000000".
func (n Nano) String() string { return fmt.Sprintf("%d.%09d", uint64(n/TON), uint64(n%TON)) }

// Big returns the amount as a big integer.
func (n Nano) Big() *big.Int { return new(big.Int).SetUint64(uint64(n)) }

// MarshalText writes nanoton in decimal.
func (n Nano) MarshalText() ([]byte, error) { return strconv.AppendUint(nil, uint64(n), 10), nil }

// UnmarshalText reads nanoton in canonical decimal: digits, no leading zero.
func (n *Nano) UnmarshalText(b []byte) error {
	v, err := strconv.ParseUint(string(b), 10, 64)
	if err != nil {
		return fmt.Errorf("reading nanoton: %w", err)
	}
	if strconv.FormatUint(v, 10) != string(b) {
		return fmt.Errorf("reading nanoton %q: not canonical decimal", b)
	}
	*n = Nano(v)
	return nil
}

// Parse reads TON with at most nine decimals: "1", "0.25".
func Parse(s string) (Nano, error) {
	whole, frac, dot := strings.Cut(s, ".")
	if whole == "" || len(frac) > 9 || (dot && frac == "") {
		return 0, fmt.Errorf("parsing %q as TON: want digits with at most nine decimals", s)
	}
	for _, c := range whole + frac {
		if c < '0' || c > '9' {
			return 0, fmt.Errorf("parsing %q as TON: want digits with at most nine decimals", s)
		}
	}
	v, err := strconv.ParseUint(whole+frac+strings.Repeat("0", 9-len(frac)), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("parsing %q as TON: %w", s, err)
	}
	return Nano(v), nil
}

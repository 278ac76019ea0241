package coin

import (
	"math"
	"testing"
)

func TestParse(t *testing.T) {
	for in, want := range map[string]Nano{
		"0": 0, "1": TON, "0.25": TON / 4, "1.000000001": TON + 1, "18446744073.709551615": math.MaxUint64,
	} {
		if got, err := Parse(in); err != nil || got != want {
			t.Errorf("Parse(%q) = %d, %v; want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", ".", "1.", ".5", "-1", "1e9", "1.0000000001", "18446744073.709551616", " 1", "1,5"} {
		if got, err := Parse(in); err == nil {
			t.Errorf("Parse(%q) = %d, want an error", in, got)
		}
	}
}

func TestTextIsNanotonAndCanonical(t *testing.T) {
	b, err := Nano(1_500_000_000).MarshalText()
	if err != nil || string(b) != "1500000000" {
		t.Errorf("MarshalText = %s, %v", b, err)
	}
	if s := Nano(1_500_000_000).String(); s != "1.500000000" {
		t.Errorf("String = %s", s)
	}
	var n Nano
	for _, in := range []string{"", "01", "+1", "-1", "1.0", "18446744073709551616"} {
		if err := n.UnmarshalText([]byte(in)); err == nil {
			t.Errorf("UnmarshalText(%q) = %d, want an error", in, n)
		}
	}
}

package jcs

import (
	"errors"
	"strings"
	"testing"
)

type doc struct {
	Role string `json:"role"`
	N    int    `json:"n,omitempty"`
}

func TestDecodeRefusesWhatIsNotStrict(t *testing.T) {
	for name, in := range map[string]string{
		"duplicate key":               `{"role":"a","role":"b"}`,
		"duplicate key in other case": `{"role":"a","Role":"b"}`,
		"unknown key":                 `{"role":"a","x":1}`,
		"trailing data":               `{"role":"a"} {}`,
		"truncated":                   `{"role":"a"`,
		"empty":                       ``,
		"deep nesting":                strings.Repeat("[", 100) + strings.Repeat("]", 100),
		"over the limit":              `{"role":"` + strings.Repeat("a", 200) + `"}`,
	} {
		t.Run(name, func(t *testing.T) {
			var d doc
			if err := Decode([]byte(in), 128, &d); err == nil {
				t.Errorf("Decode(%.40q) accepted", in)
			}
		})
	}
	var d doc
	if err := Decode([]byte(`{ "role" : "a" }`), 128, &d); err != nil || d.Role != "a" {
		t.Errorf("Decode of good document: %v, %+v", err, d)
	}
}

func TestDecodeCanonicalWantsTheExactBytes(t *testing.T) {
	var d doc
	if err := DecodeCanonical([]byte(`{"n":1,"role":"a"}`), 128, &d); err != nil {
		t.Errorf("canonical document refused: %v", err)
	}
	for _, in := range []string{`{"role":"a","n":1}`, `{"n":1, "role":"a"}`, `{"Role":"a"}`, `{"n":0,"role":"a"}`} {
		var d doc
		if err := DecodeCanonical([]byte(in), 128, &d); err == nil {
			t.Errorf("DecodeCanonical(%s) accepted", in)
		}
	}
}

func TestErrorsAreTyped(t *testing.T) {
	var d doc
	if err := Decode(make([]byte, 129), 128, &d); !errors.Is(err, ErrTooLarge) {
		t.Errorf("got %v, want ErrTooLarge", err)
	}
	var dup *DuplicateKeyError
	if err := Decode([]byte(`{"role":"a","role":"b"}`), 128, &d); !errors.As(err, &dup) || dup.Key != "role" {
		t.Errorf("got %v, want DuplicateKeyError", err)
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"n":1,"role":"a"}`))
	f.Add([]byte(`{"role":"\ud800"}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		var d doc
		if DecodeCanonical(in, 1<<16, &d) == nil {
			out, err := Marshal(d)
			if err != nil || string(out) != string(in) {
				t.Fatalf("accepted %q but encodes as %q, %v", in, out, err)
			}
		}
	})
}

package jcs

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/gowebpki/jcs"
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

// slowCheck is Check without the scanner.
func slowCheck(doc []byte) error {
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); err == nil {
		return errors.New("data after the JSON value")
	}
	return nil
}

var scanned = []string{
	`{"b":1,"a":[true,false,null,-5,{"z":"x\n","y":{}}],"c":"\u00e9"}`, `[]`, ` { "a" : 1 } `, `{"a":1,"A":2}`, `{"a":1,"a":2}`, `"\/"`, `"\u0041"`,
	`1e3`, `0.5`, `-0`, `01`, `9007199254740993`, `999999999999999`, `{"b":{"d":1,"c":2},"a":"\"\\"}`, `{"a":1,}`, `[1 2]`, `"a` + "\n" + `"`, `"`, `{"é":1}`, `truex`, `tru`,
	`{"ab":1,"a":2,"a!":3}`, `{"a":1} x`, strings.Repeat("[", 40) + strings.Repeat("]", 40), "\"\xff\"", `"<&>"`,
}

// agrees holds the scanner against the library and encoding/json: what it
// takes they take, and give the same for.
func agrees(t *testing.T, doc []byte) {
	t.Helper()
	if checkFast(doc) {
		if err := slowCheck(doc); err != nil || !json.Valid(doc) {
			t.Fatalf("the scanner takes %q: %v", doc, err)
		}
	}
	if out, ok := appendCanonical(nil, doc); ok {
		want, err := jcs.Transform(doc)
		if err != nil {
			// The library wants an object or array at the top, or a string.
			if json.Valid(doc) && len(doc) > 0 {
				return
			}
			t.Fatalf("the scanner takes %q: %v", doc, err)
		}
		if !bytes.Equal(out, want) {
			t.Fatalf("%q: got %q, want %q", doc, out, want)
		}
	}
}

func TestTheScannerAgreesWithTheLibrary(t *testing.T) {
	taken := 0
	for _, doc := range scanned {
		agrees(t, []byte(doc))
		if checkFast([]byte(doc)) {
			taken++
		}
	}
	if taken < 5 {
		t.Errorf("the scanner takes %d documents", taken)
	}
}

func FuzzScanner(f *testing.F) {
	for _, doc := range scanned {
		f.Add([]byte(doc))
	}
	f.Fuzz(agrees)
}

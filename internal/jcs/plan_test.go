package jcs

import (
	"encoding/hex"
	"encoding/json"
	"errors"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// word is a fixed-size value with a text form, as hashes are.
type word [2]byte

func (w word) MarshalText() ([]byte, error)        { return w.AppendText(nil) }
func (w word) AppendText(b []byte) ([]byte, error) { return hex.AppendEncode(b, w[:]), nil }
func (w *word) UnmarshalText(b []byte) error {
	if len(b) != 4 {
		return errors.New("not 4 digits")
	}
	_, err := hex.Decode(w[:], b)
	return err
}

// all has a field of every kind that has a plan.
type all struct {
	Z string            `json:"z"`
	B []byte            `json:"b"`
	O []byte            `json:"o,omitempty"`
	T bool              `json:"t,omitempty"`
	I int8              `json:"i"`
	U uint64            `json:"u,omitempty"`
	W word              `json:"w"`
	V []word            `json:"v"`
	R json.RawMessage   `json:"r,omitempty"`
	Q json.RawMessage   `json:"q"`
	M map[string]*inner `json:"m"`
	N map[string]int    `json:"n,omitempty"`
	P *inner            `json:"p,omitempty"`
	S []inner           `json:"s"`
	X [][]byte          `json:"x,omitempty"`
	inner
	Untagged string
}

type inner struct {
	A string `json:"a"`
	C int64  `json:"C,omitempty"`
	D *word  `json:"d,omitempty"`
}

// flat is all without the embedded struct, which has no plan.
type flat struct {
	Z string            `json:"z"`
	B []byte            `json:"b"`
	O []byte            `json:"o,omitempty"`
	T bool              `json:"t,omitempty"`
	I int8              `json:"i"`
	U uint64            `json:"u,omitempty"`
	W word              `json:"w"`
	V []word            `json:"v"`
	R json.RawMessage   `json:"r,omitempty"`
	Q json.RawMessage   `json:"q"`
	M map[string]*inner `json:"m"`
	N map[string]int    `json:"n,omitempty"`
	P *inner            `json:"p,omitempty"`
	S []inner           `json:"s"`
	X [][]byte          `json:"x,omitempty"`

	Untagged string
	//lint:ignore U1000 that neither reads nor writes it is what is tested
	hidden int

	Left int `json:"-"`
}

var planned = []string{
	`{"B":null}`, `{"z":"a","b":"AQI=","t":true,"i":-5,"u":7,"w":"0102","v":["0a0b"],"r":{"b":[1, 2],"a":null},"q":1,"m":{"x":{"a":"1","C":3},"a":{}},"n":{"k":1},"p":{"a":"","d":"ffff"},"s":[{"a":"q"},{}],"x":["","AA=="],"Untagged":"u"}`,
	`{"i":128}`, `{"u":-1}`, `{"i":1,"I":2}`, `{"i":1,"i":1}`, `{"Z":"other case"}`, `{"w":"01020"}`, `{"w":"zzzz"}`, `{"b":"A"}`, `{"b":"AR=="}`, `{"b":""}`, `{"b":"AQI=\n"}`, `{"b":null}`,
	`{"v":[]}`, `{"v":null}`, `{"m":{}}`, `{"m":{"a":null}}`, `{"n":{"a":1,"A":2}}`, `{"n":{"a":1,"a":2}}`, `{"p":null}`, `{"q":null}`, `{"q": [ 1 , 2.5 ] }`, `{"r":"\u0041"}`,
	` { "z" : "x" } `, `{"z":"x"} y`, `{"z":"\"\\\n\u0001é"}`, `{"z":"<&>"}`, `{"x":1}`, `{"unknown":1}`, `{"hidden":1}`, `{"Left":1}`, `[]`, `null`, `{"s":[{"a":1}]}`, `{"t":null}`, `{"t":false}`,
	`{"u":9007199254740993}`, `{"n":{"\u00e9":1}}`, `{"n":{"é":1,"z":2}}`, `{`, `{"z":"x",}`, `{"z"}`, `{"q":{"a":1,"A":2}}`, `{"q":{"a":{"b":1,"b":1}}}`,
}

// asEncodingJSON holds the plans against encoding/json: what they take it takes,
// to the same value, and what they write is what the library makes of it.
func asEncodingJSON(t *testing.T, doc []byte) {
	t.Helper()
	var fast, slow flat
	err := decode(doc, &slow)
	done, exact := decodeFast(doc, &fast)
	if exact {
		if again, err := marshal(&fast); err != nil || string(again) != string(doc) {
			t.Fatalf("%q is said to be canonical: it is %q, %v", doc, again, err)
		}
	}
	if done {
		if err != nil {
			t.Fatalf("the plan takes %q: %v", doc, err)
		}
		if diff := cmp.Diff(slow, fast, cmp.AllowUnexported(flat{})); diff != "" {
			t.Fatalf("%q (-encoding/json +plan):\n%s", doc, diff)
		}
	} else if diff := cmp.Diff(flat{}, fast, cmp.AllowUnexported(flat{})); diff != "" {
		t.Fatalf("%q was not taken and leaves:\n%s", doc, diff)
	}
	if err != nil {
		return
	}
	slow.Z += string(doc)
	for _, v := range []any{slow, &slow} {
		out, ok := appendValue(nil, v)
		if !ok {
			continue
		}
		want, err := marshal(v)
		if err != nil {
			t.Fatalf("the plan encodes %+v: %v", slow, err)
		}
		if string(out) != string(want) {
			t.Fatalf("%q: got\n%s\nwant\n%s", doc, out, want)
		}
	}
}

func TestPlansAgreeWithEncodingJSON(t *testing.T) {
	taken := 0
	for _, doc := range planned {
		asEncodingJSON(t, []byte(doc))
		if done, _ := decodeFast([]byte(doc), new(flat)); done {
			taken++
		}
	}
	if taken < 8 {
		t.Errorf("the plan takes %d documents", taken)
	}
	if planOf(reflect.TypeFor[all]()) != nil || planOf(reflect.TypeFor[any]()) != nil || planOf(reflect.TypeFor[float64]()) != nil || planOf(reflect.TypeFor[node]()) != nil {
		t.Error("a type has a plan that cannot have one")
	}
	for _, v := range []any{flat{}, &flat{}, (*flat)(nil), flat{U: 1 << 60}, flat{Z: "\xff"}, flat{Q: json.RawMessage("{}"), R: json.RawMessage("[")}} {
		got, err := Marshal(v)
		want, wantErr := marshal(v)
		if string(got) != string(want) || (err == nil) != (wantErr == nil) {
			t.Errorf("%+v: got %s, %v, want %s, %v", v, got, err, want, wantErr)
		}
	}
}

// TestCanonicalDocumentsAreKnown: what Marshal writes is read as its own form,
// and nothing that differs from it is.
func TestCanonicalDocumentsAreKnown(t *testing.T) {
	known := 0
	for _, text := range planned {
		var v flat
		if decode([]byte(text), &v) != nil {
			continue
		}
		doc, err := Marshal(&v)
		if err != nil {
			t.Fatal(err)
		}
		var again flat
		if exact, err := DecodeExact(doc, 1<<16, &again); err != nil {
			t.Fatalf("%s: %v", doc, err)
		} else if exact {
			known++
		}
		for i := 0; i <= len(doc); i++ {
			for _, in := range []string{" ", "A", "0", ",", `"a":1,`} {
				asEncodingJSON(t, slices.Concat(doc[:i], []byte(in), doc[i:]))
			}
			if i < len(doc) {
				asEncodingJSON(t, slices.Concat(doc[:i], doc[i+1:]))
				asEncodingJSON(t, slices.Concat(doc[:i], []byte{doc[i] ^ 1}, doc[i+1:]))
			}
		}
	}
	full := `{"Untagged":"u","b":"AQI=","i":-5,"m":{"a":{"a":""},"x":{"C":3,"a":"1"}},"n":{"k":1},"p":{"a":"","d":"ffff"},"q":1,"r":{"a":null,"b":[1,2]},"s":[{"a":"q"},{"a":""}],"t":true,"u":7,"v":["0a0b"],"w":"0102","x":["","AA=="],"z":"a"}`
	var v flat
	if exact, err := DecodeExact([]byte(full), 1<<16, &v); err != nil || !exact || known == 0 {
		t.Errorf("canonical %v, %v; %d others", exact, err, known)
	}
	asEncodingJSON(t, []byte(full))
}

// node is of a recursive type.
type node struct {
	Next *node `json:"next"`
}

func TestValuesThatAreNotZeroAreLeftToEncodingJSON(t *testing.T) {
	d := doc{N: 5}
	if err := Decode([]byte(`{"role":"a"}`), 128, &d); err != nil || d != (doc{"a", 5}) {
		t.Errorf("got %+v, %v", d, err)
	}
}

func FuzzPlan(f *testing.F) {
	for _, doc := range planned {
		f.Add([]byte(doc))
	}
	f.Fuzz(asEncodingJSON)
}

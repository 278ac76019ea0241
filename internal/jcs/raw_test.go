package jcs

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
)

// Raw JSON that was seen before is taken as it was, and what differs from it in
// anything is looked at.
func TestRawJSONIsRememberedByAllOfIt(t *testing.T) {
	type doc struct {
		Q json.RawMessage `json:"q"`
		Z string          `json:"z"`
	}
	raw := `{"a":"` + strings.Repeat("text ", leastRemembered) + `","b":[1,{"c":null}]}`
	whole := `{"q":` + raw + `,"z":"end"}`
	cases := map[string]string{
		"the same":                        whole,
		"a duplicate key behind it":       `{"q":` + raw + `,"q":1,"z":"end"}`,
		"no end":                          `{"q":` + raw,
		"another brace":                   `{"q":` + raw + `},"z":"end"}`,
		"a control character":             strings.Replace(whole, "text t", "text\nt", 1),
		"a duplicate key in it":           strings.Replace(whole, `"b":`, `"a":`, 1),
		"keys in another order":           strings.Replace(whole, `"b":`, `"A1":`, 1),
		"a space in it":                   strings.Replace(whole, `"b":`, `"b": `, 1),
		"a number that is no JSON":        strings.Replace(whole, `[1,`, `[01,`, 1),
		"a member more":                   strings.Replace(whole, `}]}`, `}],"d":0}`, 1),
		"a last member that is not there": strings.Replace(whole, `]}`, `],}`, 1),
	}
	for round := range 3 {
		for name, in := range cases {
			var got, want doc
			exact, err := DecodeExact([]byte(in), 1<<20, &got)
			wantErr := decode([]byte(in), &want)
			if (err == nil) != (wantErr == nil) || !bytes.Equal(got.Q, want.Q) || got.Z != want.Z {
				t.Errorf("%s, round %d: got %.60q and %v, want %.60q and %v", name, round, got.Q, err, want.Q, wantErr)
			}
			if canon, err := marshal(&want); wantErr == nil && exact != (err == nil && string(canon) == in) {
				t.Errorf("%s, round %d: exact is %v", name, round, exact)
			}
			clear(got.Q) // it is the caller's
		}
	}
	if n := checked.Prefix(1, []byte(raw+"}")); n != len(raw) {
		t.Errorf("%d bytes of %d are remembered", n, len(raw))
	}
	// What is taken at one depth may be too deep at another.
	deep := func(n int) string { return strings.Repeat(`{"q":`, n) + whole + strings.Repeat(`}`, n) }
	type level struct {
		Q json.RawMessage `json:"q"`
	}
	type lower struct {
		Q level `json:"q"`
	}
	inside := `{"a":"` + strings.Repeat("text ", leastRemembered) + `","b":` + strings.Repeat(`[`, MaxDepth-1) + strings.Repeat(`]`, MaxDepth-1) + `}`
	if err := Decode([]byte(`{"q":`+inside+`}`), 1<<20, new(level)); err != nil {
		t.Fatal(err)
	}
	if err := Decode([]byte(`{"q":{"q":`+inside+`}}`), 1<<20, new(lower)); err == nil {
		t.Error("an object is taken at a depth where it is too deep")
	}
	if err := Decode([]byte(deep(MaxDepth)), 1<<20, new(level)); err == nil {
		t.Error("a document that is too deep is taken")
	}
}

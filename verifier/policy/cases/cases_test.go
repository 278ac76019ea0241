package cases_test

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/verifier/policy/cases"
)

const good = `{"format":1,"cases":[
 {"name":"ours","evidence":"a.json","manifests":["m.json"],"at":"2026-11-22T12:00:00Z","want":"accepted"},
 {"name":"another initrd","evidence":"b.json","manifests":["m.json"],"at":"2026-11-22T12:00:00Z","want":["pcr.9","image.initrd","pcr.9"]}]}`

func TestCasesAreReadStrictly(t *testing.T) {
	f, err := cases.Parse([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(cases.Want{"image.initrd", "pcr.9"}, f.Cases[1].Want); d != "" || f.Cases[0].Want != nil {
		t.Errorf("wants are %v and %s", f.Cases[0].Want, d)
	}
	for name, change := range map[string][2]string{
		"another format": {`"format":1`, `"format":2`},
		"no cases":       {good[strings.Index(good, "[\n"):], "[]}"},
		"a name twice":   {"another initrd", "ours"},
		"no evidence":    {"a.json", ""},
		"no manifest":    {`["m.json"]`, `[]`},
		"no time":        {`"at":"2026-11-22T12:00:00Z","want":"a`, `"want":"a`},
		"another word":   {`"accepted"`, `"refused"`},
		"no codes":       {`["pcr.9","image.initrd","pcr.9"]`, `[]`},
		"an empty code":  {`"image.initrd"`, `""`},
		"a number":       {`"accepted"`, `1`},
		"an unknown key": {`"name":"ours"`, `"name":"ours","x":1`},
		"a key twice":    {`"name":"ours"`, `"name":"ours","name":"ours"`},
		"not JSON":       {"{", "["},
	} {
		doc := strings.Replace(good, change[0], change[1], 1)
		if doc == good {
			t.Fatalf("%s: the document did not change", name)
		}
		if _, err := cases.Parse([]byte(doc)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestWhatCameOutIsComparedBothWays(t *testing.T) {
	missing, extra := cases.Want{"a", "b"}.Compare([]string{"c", "b", "c"})
	if d := cmp.Diff([][]string{{"a"}, {"c"}}, [][]string{missing, extra}); d != "" {
		t.Error(d)
	}
	if missing, extra = (cases.Want)(nil).Compare(nil); missing != nil || extra != nil {
		t.Errorf("accepted evidence differs: %v %v", missing, extra)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(good))
	f.Add([]byte(`{"format":1,"cases":[{"want":[]}]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		v, err := cases.Parse(in)
		if err != nil {
			return
		}
		a, err := json.Marshal(v)
		if err != nil {
			return // a time beyond RFC 3339
		}
		w, err := cases.Parse(a)
		if err != nil {
			t.Fatalf("accepted cases are refused when written again: %v\n%s", err, a)
		}
		if b, err := json.Marshal(w); err != nil || !bytes.Equal(a, b) {
			t.Fatalf("cases change when they are written again: %v", err)
		}
	})
}

package evidence_test

import (
	"bytes"
	"strings"
	"testing"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/tpmtest"
)

func good(t testing.TB) []byte {
	t.Helper()
	b, err := tpmtest.NewWorld(t).Evidence(t).Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func foreign(t testing.TB) []byte {
	t.Helper()
	f := &evidence.Foreign{Profile: evidence.ProfileForeign, CPU: &tpmtest.NewWorld(t).Evidence(t).CPU, Collateral: []byte(`{"a":1}`)}
	b, err := f.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestEvidenceIsReadStrictly(t *testing.T) {
	own, other := string(good(t)), string(foreign(t))
	if e, err := evidence.Parse([]byte(own)); err != nil {
		t.Fatal(err)
	} else if again, err := e.Marshal(); err != nil || string(again) != own {
		t.Errorf("evidence came back as %s, %v", again, err)
	}
	if e, err := evidence.ParseForeign([]byte(other)); err != nil {
		t.Fatal(err)
	} else if again, err := e.Marshal(); err != nil || string(again) != other {
		t.Errorf("foreign evidence came back as %s, %v", again, err)
	}
	parseOwn := func(s string) error { _, err := evidence.Parse([]byte(s)); return err }
	parseForeign := func(s string) error { _, err := evidence.ParseForeign([]byte(s)); return err }
	for name, c := range map[string]struct {
		parse func(string) error
		doc   string
	}{
		"evidence as foreign":                  {parseForeign, own},
		"foreign as evidence":                  {parseOwn, other},
		"an unknown key":                       {parseOwn, strings.Replace(own, `{"claims"`, `{"x":1,"claims"`, 1)},
		"an unknown key in foreign evidence":   {parseForeign, strings.Replace(other, `{"collateral"`, `{"x":1,"collateral"`, 1)},
		"a key twice":                          {parseOwn, strings.Replace(own, `{"claims"`, `{"profile":"x","claims"`, 1)},
		"a key twice in foreign evidence":      {parseForeign, strings.Replace(other, `{"collateral"`, `{"profile":"x","collateral"`, 1)},
		"another profile":                      {parseOwn, strings.Replace(own, evidence.Profile, evidence.Profile+"0", 1)},
		"an unknown type":                      {parseOwn, strings.Replace(own, `"type":"tpm"`, `"type":"tee"`, 1)},
		"an unknown type of foreign evidence":  {parseForeign, strings.Replace(other, `"type":"tpm"`, `"type":"tee"`, 1)},
		"something behind it":                  {parseOwn, own + "{}"},
		"something behind foreign evidence":    {parseForeign, other + "{}"},
		"foreign evidence of nothing":          {parseForeign, `{"profile":"` + evidence.ProfileForeign + `"}`},
		"a nonce of GPUs without any":          {parseForeign, strings.Replace(other, `,"profile"`, `,"gpu_nonce":"`+strings.Repeat("00", 32)+`","profile"`, 1)},
		"more GPUs than a machine has":         {parseForeign, strings.Replace(other, `,"profile"`, `,"gpus":[`+strings.Repeat(`{"chain":[],"report":""},`, evidence.MaxGPUs)+`{"chain":[],"report":""}],"profile"`, 1)},
		"half of it":                           {parseOwn, own[:len(own)/2]},
		"more than there may be":               {parseOwn, own + strings.Repeat(" ", evidence.MaxEvidence)},
		"more foreign evidence than there may": {parseForeign, other + strings.Repeat(" ", evidence.MaxEvidence)},
	} {
		if err := c.parse(c.doc); err == nil {
			t.Errorf("%s: was read", name)
		}
	}
}

// TestTheHashIsThatOfTheCanonicalForm whatever form the document came in.
func TestTheHashIsThatOfTheCanonicalForm(t *testing.T) {
	own := good(t)
	want := digest.Sum256(own)
	for name, doc := range map[string]string{
		"canonical":     string(own),
		"spaced":        strings.Replace(string(own), `:`, ` : `, 1),
		"another order": `{"profile":"` + evidence.Profile + `",` + strings.Replace(string(own)[1:], `,"profile":"`+evidence.Profile+`"`, "", 1),
		"an escape":     strings.Replace(string(own), `"tpm"`, `"\u0074pm"`, 1),
		"an empty text": strings.Replace(string(own), `"event_log"`, `"hcl_report":"","event_log"`, 1),
	} {
		e, got, err := evidence.ParseHashed([]byte(doc))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if h, err := e.Hash(); err != nil || h != want || got != want {
			t.Errorf("%s: hash %s, again %s, %v, want %s", name, got, h, err, want)
		}
		if name != "canonical" && doc == string(own) {
			t.Errorf("%s: is the same document", name)
		}
	}
	if _, _, err := evidence.ParseHashed([]byte(`{}`)); err == nil {
		t.Error("nothing was read")
	}
}

func TestTheKeyOfAnEncryptedModelIsInTheConfigsHash(t *testing.T) {
	c := tpmtest.NewWorld(t).Config
	plain, err := c.Hash()
	if err != nil {
		t.Fatal(err)
	}
	read := func() error {
		doc, err := jcs.Marshal(c)
		if err != nil {
			t.Fatal(err)
		}
		got, err := evidence.ParseConfig(doc)
		if err != nil {
			return err
		}
		if h, err := got.Hash(); err != nil || h != digest.Sum256(doc) {
			t.Errorf("hash %s, %v, want %s", h, err, digest.Sum256(doc))
		}
		return nil
	}
	k := digest.Sum256([]byte("key"))
	c.Model.KeySHA256 = &k
	if h, err := c.Hash(); err != nil || h == plain {
		t.Errorf("hash %s with the key's name, %s without, %v", h, plain, err)
	}
	if err := read(); err != nil {
		t.Error(err)
	}
	c.Model.KeySHA256 = &digest.SHA256{}
	if err := read(); err == nil {
		t.Error("a key without a name was read")
	}
}

// FuzzParse reads what strangers send: it is refused, or it comes back as the
// same evidence.
func FuzzParse(f *testing.F) {
	f.Add(good(f))
	f.Add(recorded(f))
	f.Add(foreign(f))
	f.Add([]byte(`{}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if e, hash, err := evidence.ParseHashed(b); err == nil {
			if h, err := e.Hash(); err != nil || h != hash {
				t.Fatalf("hash %s of %q, %s again, %v", hash, b, h, err)
			}
			again(t, e.Marshal, func(b []byte) (func() ([]byte, error), error) {
				e, err := evidence.Parse(b)
				if err != nil {
					return nil, err
				}
				return e.Marshal, nil
			})
		}
		if e, err := evidence.ParseForeign(b); err == nil {
			again(t, e.Marshal, func(b []byte) (func() ([]byte, error), error) {
				e, err := evidence.ParseForeign(b)
				if err != nil {
					return nil, err
				}
				return e.Marshal, nil
			})
		}
	})
}

func again(t *testing.T, marshal func() ([]byte, error), parse func([]byte) (func() ([]byte, error), error)) {
	t.Helper()
	first, err := marshal()
	if err != nil {
		t.Fatal(err)
	}
	next, err := parse(first)
	if err != nil {
		t.Fatalf("its own form is refused: %v", err)
	}
	second, err := next()
	if err != nil || !bytes.Equal(first, second) {
		t.Fatalf("%s became %s, %v", first, second, err)
	}
}

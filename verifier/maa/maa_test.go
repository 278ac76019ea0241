package maa

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"testing"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
)

func url(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }

func request(t testing.TB, quote, data, typ string) []byte {
	t.Helper()
	b, err := json.Marshal(map[string]any{"quote": quote, "runtimeData": map[string]string{"data": data, "dataType": typ}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestRequestsAreReadStrictly(t *testing.T) {
	c := digest.Sum256([]byte("challenge"))
	good := `{"nonce":"` + c.String() + `"}`
	for name, tc := range map[string]struct {
		body string
		ok   bool
	}{
		"JSON":                          {string(request(t, url("q"), url(good), JSON)), true},
		"binary":                        {string(request(t, url("q"), url(string(c[:])+"key"), Binary)), true},
		"padded base64url":              {string(request(t, base64.URLEncoding.EncodeToString([]byte("q")), url(good), JSON)), true},
		"standard base64":               {string(request(t, "+/+/", url(good), JSON)), false},
		"no quote":                      {string(request(t, "", url(good), JSON)), false},
		"a quote that is too large":     {string(request(t, strings.Repeat("A", 100<<10), url(good), JSON)), false},
		"data that is too large":        {string(request(t, url("q"), strings.Repeat("A", 100<<10), Binary)), false},
		"another type of data":          {string(request(t, url("q"), url(good), "json")), false},
		"JSON without a nonce":          {string(request(t, url("q"), url(`{}`), JSON)), false},
		"a nonce twice":                 {string(request(t, url("q"), url(good[:len(good)-1]+`,"nonce":"1"}`), JSON)), false},
		"a nonce that is no text":       {string(request(t, url("q"), url(`{"nonce":1}`), JSON)), false},
		"JSON that is no object":        {string(request(t, url("q"), url(`null`), JSON)), false},
		"binary of less than 32 bytes":  {string(request(t, url("q"), url(string(c[:31])), Binary)), false},
		"no runtime data":               {`{"quote":"cQ"}`, false},
		"an unknown member":             {`{"quote":"cQ","draftPolicyForAttestation":"x"}`, false},
		"a long nonce of the caller's":  {strings.Replace(string(request(t, url("q"), url(good), JSON)), "{", `{"nonce":"`+strings.Repeat("a", 300)+`",`, 1), false},
		"init-time data of no kind":     {strings.Replace(string(request(t, url("q"), url(good), JSON)), "{", `{"initTimeData":{"data":"cQ","dataType":"x"},`, 1), false},
		"init-time data without a name": {strings.Replace(string(request(t, url("q"), url(good), JSON)), "{", `{"initTimeData":{"data":"cQ"},`, 1), false},
		"nothing":                       {``, false},
	} {
		r, err := Parse([]byte(tc.body))
		if tc.ok != (err == nil) || err != nil && !fault.Has(err, "request.body") {
			t.Errorf("%s: %v", name, err)
		}
		if err == nil && r.Challenge() != c {
			t.Errorf("%s: challenge %s", name, r.Challenge())
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(request(f, url("q"), url(`{"nonce":"`+digest.Sum256(nil).String()+`"}`), JSON))
	f.Add(request(f, url("q"), url(strings.Repeat("a", 40)), Binary))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := Parse(b)
		if err != nil {
			return
		}
		doc, err := r.Document()
		if err != nil {
			return // numbers in collateral that RFC 8785 cannot have
		}
		again, err := Parse(doc)
		if err != nil || again.Challenge() != r.Challenge() {
			t.Errorf("%s: %v", doc, err)
		}
		for _, c := range r.Bind(map[string]string{}) {
			if c.Status == "pass" {
				t.Errorf("%s passes without a quote", c.ID)
			}
		}
	})
}

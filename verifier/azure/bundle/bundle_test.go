package bundle_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/vectors"
	"cocoon/verifier/azure/bundle"
)

func TestBundlesThatAreNoneAreRefused(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(vectors.Dir(t), "azure-vtpm", "snp-trustee-evidence-v1.json"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bundle.Parse(b); err != nil || !bundle.Is(b) {
		t.Fatalf("a real bundle: %v", err)
	}
	for name, c := range map[string]struct{ old, new string }{
		"an unknown version": {`"version": 1`, `"version": 3`},
		"an unknown member":  {`"version"`, `"versions"`},
		"no HCL report":      {`"hcl_report"`, `"td_quote"`},
		"hex that is none":   {`"message": "ff`, `"message": "gg`},
		"a short register":   {`"pcrs": [`, `"pcrs": ["00",`},
		"a member twice":     {`"version"`, `"version": 1, "version"`},
	} {
		t.Run(name, func(t *testing.T) {
			in := bytes.Replace(b, []byte(c.old), []byte(c.new), 1)
			if bytes.Equal(in, b) {
				in = bytes.Replace(b, bytes.ReplaceAll([]byte(c.old), []byte(": "), []byte(":")), []byte(c.new), 1)
			}
			if bytes.Equal(in, b) {
				t.Fatal("nothing was changed")
			}
			if _, err := bundle.Parse(in); !errors.Is(err, bundle.ErrFormat) {
				t.Errorf("got %v", err)
			}
		})
	}
	for _, in := range []string{"", "{}", "[]", `{"quote":{},"report":[]}`, `{"hcl_report":"AA","quote":{"signature":[256],"message":[],"pcrs":[]}}`} {
		if _, err := bundle.Parse([]byte(in)); !errors.Is(err, bundle.ErrFormat) {
			t.Errorf("%q: got %v", in, err)
		}
	}
}

func FuzzBundle(f *testing.F) {
	f.Add([]byte(`{"version":1,"hcl_report":"AA","tpm_quote":{"message":"00","signature":"00","pcrs":[]}}`))
	f.Add([]byte(`{"quote":{"signature":[1],"message":[2],"pcrs":[[3]]},"report":[72,67,76,65]}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		ev, err := bundle.Parse(in)
		if err == nil && (len(ev.HCL) == 0 || len(ev.PCRs) == 0) {
			t.Fatalf("a bundle without a report or registers: %+v", ev)
		}
	})
}

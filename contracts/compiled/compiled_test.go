package compiled

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"path/filepath"
	"testing"
)

func TestCodeHasTheStatedHash(t *testing.T) {
	for _, load := range []func() (*Artefact, error){Registry, Job, Worker} {
		a, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if a.Code.GetType() != 0 || len(a.CodeHashHex) != 64 {
			t.Errorf("%s: code %v with hash %s", a.Contract, a.Code, a.CodeHashHex)
		}
	}
}

// Without Node this is all that shows a source edited after the last build.
func TestSourcesAreTheOnesThatWereCompiled(t *testing.T) {
	for _, load := range []func() (*Artefact, error){Registry, Job, Worker} {
		a, err := load()
		if err != nil {
			t.Fatal(err)
		}
		if len(a.Sources) < 3 {
			t.Errorf("%s: only %d sources", a.Contract, len(a.Sources))
		}
		for name, want := range a.Sources {
			src, err := os.ReadFile(filepath.Join("..", "tolk", name))
			if err != nil {
				t.Fatal(err)
			}
			sum := sha256.Sum256(src)
			if got := hex.EncodeToString(sum[:]); got != want {
				t.Errorf("%s: SHA-256 %s, compiled %s: run `npm run build` in contracts/", name, got, want)
			}
		}
	}
}

func TestAnotherHashIsRefused(t *testing.T) {
	a, err := Job()
	if err != nil {
		t.Fatal(err)
	}
	b, err := Registry()
	if err != nil {
		t.Fatal(err)
	}
	swapped := []byte(`{"contract":"job","compiler":"x","codeHashHex":"` + b.CodeHashHex + `","codeBoc64":"` + a.CodeBOC64 + `","sources":{}}`)
	if _, err := load(swapped); err == nil {
		t.Error("code under another contract's hash was loaded")
	}
}

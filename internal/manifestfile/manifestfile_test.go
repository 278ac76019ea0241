package manifestfile

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"cocoon/measurements/log"
)

// TestTheProofBesideAManifest lays all kinds of things beside a manifest.
func TestTheProofBesideAManifest(t *testing.T) {
	write := func(t *testing.T, b []byte, path ...string) {
		name := filepath.Join(path...)
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	proof := []byte("proof")
	for name, c := range map[string]struct {
		lay   func(t *testing.T, dir string)
		proof []byte
		fails bool // where it is wanted
	}{
		"nothing":             {func(*testing.T, string) {}, nil, false},
		"a proof":             {func(t *testing.T, dir string) { write(t, proof, dir, "m.json"+Suffix) }, proof, false},
		"a release's proof":   {func(t *testing.T, dir string) { write(t, proof, dir, "log", "inclusion") }, proof, false},
		"a file of the name":  {func(t *testing.T, dir string) { write(t, proof, dir, "log") }, nil, false},
		"the largest proof":   {func(t *testing.T, dir string) { write(t, make([]byte, log.MaxProof), dir, "log", "inclusion") }, make([]byte, log.MaxProof), false},
		"what is larger":      {func(t *testing.T, dir string) { write(t, make([]byte, log.MaxProof+1), dir, "log", "inclusion") }, nil, true},
		"a directory":         {func(t *testing.T, dir string) { write(t, nil, dir, "m.json"+Suffix, "file") }, nil, true},
		"a link to itself":    {func(t *testing.T, dir string) { link(t, "log", filepath.Join(dir, "log")) }, nil, true},
		"a link into nowhere": {func(t *testing.T, dir string) { link(t, "absent", filepath.Join(dir, "log")) }, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			c.lay(t, dir)
			got, err := Inclusion(filepath.Join(dir, "m.json"), true)
			if !bytes.Equal(got, c.proof) || (err != nil) != c.fails {
				t.Errorf("wanted: %d bytes, %v", len(got), err)
			}
			if got, err = Inclusion(filepath.Join(dir, "m.json"), false); !bytes.Equal(got, c.proof) || err != nil {
				t.Errorf("not wanted: %d bytes, %v", len(got), err)
			}
		})
	}
}

func link(t *testing.T, to, name string) {
	t.Helper()
	if err := os.Symlink(to, name); err != nil {
		t.Fatal(err)
	}
}

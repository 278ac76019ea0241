package bundle

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/collateral"
)

// realBundles are collateral that Intel's service gave, two for each TEE.
func realBundles(t testing.TB) []*collateral.Raw {
	t.Helper()
	var out []*collateral.Raw
	for _, tee := range []string{"tdx", "sgx"} {
		names, err := filepath.Glob(filepath.Join(vectors.Find(), tee, "*.collateral.json"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names[:min(2, len(names))] {
			raw, err := Read(name)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, raw)
		}
	}
	return out
}

// TestAnyChangedByteOfADirectoryIsSeen flips bytes of each file: the bundle is
// refused, or is another, which its signatures then refuse.
func TestAnyChangedByteOfADirectoryIsSeen(t *testing.T) {
	for _, want := range append(realBundles(t), sample()) {
		dir := t.TempDir()
		if err := WriteDir(dir, want); err != nil {
			t.Fatal(err)
		}
		for _, f := range files {
			path := filepath.Join(dir, f.name)
			good, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for i := 0; i < len(good); i += 1 + len(good)/10 {
				bad := bytes.Clone(good)
				bad[i] ^= 0x11
				if err := os.WriteFile(path, bad, 0o600); err != nil {
					t.Fatal(err)
				}
				if got, err := Read(dir); err == nil && reflect.DeepEqual(want, got) {
					t.Errorf("%s: byte %d changed, and the bundle is the same", f.name, i)
				}
			}
			if err := os.WriteFile(path, good[:len(good)/2], 0o600); err != nil {
				t.Fatal(err)
			}
			if got, err := Read(dir); err == nil && reflect.DeepEqual(want, got) {
				t.Errorf("%s was cut, and the bundle is the same", f.name)
			}
			if err := os.WriteFile(path, good, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// FuzzRead reads a file, and a directory in which one file is fuzzed.
func FuzzRead(f *testing.F) {
	for _, raw := range append(realBundles(f), sample()) {
		path := filepath.Join(f.TempDir(), "c.json")
		if err := WriteFile(path, raw); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, len(files))
		for i, file := range files {
			f.Add(file.data(raw), i)
		}
	}
	f.Add([]byte(" 00ff \n"), 5)
	f.Fuzz(func(t *testing.T, b []byte, which int) {
		path := filepath.Join(t.TempDir(), "c")
		at := path
		if which >= 0 && which < len(files) {
			if err := WriteDir(path, sample()); err != nil {
				t.Fatal(err)
			}
			at = filepath.Join(path, files[which].name)
		}
		if err := os.WriteFile(at, b, 0o600); err != nil {
			t.Fatal(err)
		}
		raw, err := Read(path)
		if err != nil {
			for _, one := range fault.All(err) {
				if one.Exit != fault.ExitParse || one.Code == "" || one.Remedy == "" {
					t.Fatalf("refused by %+v", one)
				}
			}
			if len(fault.All(err)) == 0 {
				t.Fatalf("refused without a code: %v", err)
			}
			return
		}
		for form, write := range map[string]func(string, *collateral.Raw) error{"file": WriteFile, "directory": WriteDir} {
			out := filepath.Join(t.TempDir(), "back")
			if err := write(out, raw); err != nil {
				t.Fatal(err)
			}
			back, err := Read(out)
			if err != nil {
				t.Fatalf("what was read cannot be written as a %s: %v", form, err)
			}
			if !reflect.DeepEqual(raw, back) {
				t.Fatalf("a %s comes back different:\n%s", form, cmp.Diff(raw, back))
			}
		}
	})
}

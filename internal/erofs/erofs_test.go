package erofs

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"cocoon/internal/toolstree"
)

// content is what a file of these tests holds.
func content(f File) []byte {
	return bytes.Repeat([]byte(f.Path+"\n"), int(f.Size)/len(f.Path)+1)[:f.Size]
}

func image(t *testing.T, files []File) []byte {
	t.Helper()
	l, err := Plan(files)
	if err != nil {
		t.Fatal(err)
	}
	l.SetUUID([16]byte{1, 2, 3})
	out := make([]byte, l.Blocks*BlockSize)
	copy(out, l.Meta)
	for _, f := range l.Files {
		copy(out[f.Offset:], content(f.File))
	}
	return out
}

func many() []File {
	files := []File{{"config.json", 10}, {"empty", 0}, {"a/b/c/deep", 4096}, {"a/b/x", 4097}, {"a/z", 1}, {"weights", 3 << 20}, {"ä name with spaces", 5}}
	for i := range 700 { // several blocks of entries
		files = append(files, File{fmt.Sprintf("shards/model-%05d-of-00700.safetensors", i), uint64(i)})
	}
	return files
}

// fsck.erofs of erofs-utils is the reference: it checks the image and takes
// out exactly the files.
func TestTheReferenceProgramReadsEveryFile(t *testing.T) {
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("no tools tree: %v", err)
	}
	for name, files := range map[string][]File{"one file": {{"m.gguf", 12345}}, "many": many()} {
		t.Run(name, func(t *testing.T) {
			img, dir := filepath.Join(t.TempDir(), "img"), filepath.Join(t.TempDir(), "out")
			if err := os.WriteFile(img, image(t, files), 0o600); err != nil {
				t.Fatal(err)
			}
			if out, err := tools.Command(t.Context(), "fsck.erofs", "--extract="+dir, img).CombinedOutput(); err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			left := map[string]File{}
			for _, f := range files {
				left[f.Path] = f
			}
			err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
				if err != nil || d.IsDir() {
					return err
				}
				rel, err := filepath.Rel(dir, p)
				if err != nil {
					return err
				}
				b, err := os.ReadFile(p)
				if err != nil {
					return err
				}
				if f, ok := left[rel]; !ok || !bytes.Equal(b, content(f)) {
					t.Errorf("%s has other bytes", rel)
				}
				delete(left, rel)
				return nil
			})
			if err != nil || len(left) > 0 {
				t.Errorf("%d files are missing, %v", len(left), err)
			}
		})
	}
}

func TestEqualFilesGiveEqualBytesInAnyOrder(t *testing.T) {
	a := many()
	b := slices.Clone(a)
	slices.Reverse(b)
	if !bytes.Equal(image(t, a), image(t, b)) {
		t.Error("the order of the files matters")
	}
}

func TestWhatNoFileSystemShouldHoldIsRefused(t *testing.T) {
	for name, files := range map[string][]File{
		"nothing":               nil,
		"an absolute path":      {{"/a", 1}},
		"a path that climbs":    {{"a/../b", 1}},
		"the root":              {{".", 1}},
		"a path with a zero":    {{"a\x00b", 1}},
		"a name that is long":   {{strings.Repeat("x", MaxName+1), 1}},
		"a path that is deep":   {{strings.Repeat("a/", MaxDepth) + "x", 1}},
		"a file twice":          {{"a", 1}, {"a", 2}},
		"a file as a directory": {{"a", 1}, {"a/b", 1}},
		"more than fits":        {{"a", MaxSize}, {"b", 1}},
		"a size that overflows": {{"a", 1 << 63}, {"b", 1 << 63}},
		"too many":              make([]File, MaxFiles+1),
	} {
		if _, err := Plan(files); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

// FuzzPlan: whatever the names, what is laid out does not overlap and ends
// where it says.
func FuzzPlan(f *testing.F) {
	f.Add("a/b", uint64(5), "c", uint64(0))
	f.Add("a", uint64(5), "a/b", uint64(1))
	f.Fuzz(func(t *testing.T, a string, n uint64, b string, m uint64) {
		l, err := Plan([]File{{a, n}, {b, m}})
		if err != nil {
			return
		}
		end := uint64(len(l.Meta))
		for _, p := range l.Files {
			if p.Offset < end {
				t.Fatalf("%q at %d, after %d", p.Path, p.Offset, end)
			}
			end = p.Offset + blocksOf(p.Size)*BlockSize
		}
		if end != l.Blocks*BlockSize {
			t.Fatalf("ends at %d of %d", end, l.Blocks*BlockSize)
		}
	})
}

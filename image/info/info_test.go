package info

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestWhatIsWrittenIsReadBack(t *testing.T) {
	dir := t.TempDir()
	want := Image{Format: ImageFormat, Name: "x", Version: 3, Root: Verity{Root: strings.Repeat("ab", 32), Salt: "01", DataBlocks: 7},
		Artefacts: []Artefact{{File: Kernel, SHA256: "aa", Size: 1}}, Packages: []Package{{Name: "p"}}, ToolsUsed: []Package{}}
	if err := Write(filepath.Join(dir, ImageFile), want); err != nil {
		t.Fatal(err)
	}
	got, err := LoadImage(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	packs := Packs{Format: PacksFormat, Packs: []Pack{{Name: "engine", Files: []Entry{}}}, Packages: []Package{}}
	if err := Write(filepath.Join(dir, PacksFile), packs); err != nil {
		t.Fatal(err)
	}
	p, err := LoadPacks(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Find("engine"); err != nil {
		t.Error(err)
	}
	if _, err := p.Find("other"); err == nil {
		t.Error("a pack that is not there was found")
	}
}

func TestLoadRefusesForeignDocuments(t *testing.T) {
	for name, doc := range map[string]string{
		"another format": `{"format":"cocoon-image/2"}`,
		"an unknown key": `{"format":"cocoon-image/1","extra":1}`,
		"no JSON":        `hello`,
		"nothing":        ``,
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, ImageFile), []byte(doc), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := LoadImage(dir); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, err := LoadPacks(t.TempDir()); err == nil {
		t.Error("a missing file was read")
	}
}

func TestVerityParamsRefuseBadHex(t *testing.T) {
	good := Verity{Root: strings.Repeat("ab", 32), Salt: "0102"}
	if root, salt, err := good.Params(); err != nil || root[0] != 0xab || len(salt) != 2 {
		t.Errorf("got %x %x %v", root, salt, err)
	}
	for name, v := range map[string]Verity{
		"a short root":  {Root: "ab", Salt: "01"},
		"no salt":       {Root: good.Root},
		"an odd salt":   {Root: good.Root, Salt: "012"},
		"a long salt":   {Root: good.Root, Salt: strings.Repeat("00", 257)},
		"a root of zzz": {Root: strings.Repeat("zz", 32), Salt: "01"},
	} {
		if _, _, err := v.Params(); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

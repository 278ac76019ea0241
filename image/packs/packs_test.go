package packs

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cocoon/image/info"
	"cocoon/internal/toolstree"
	"cocoon/measurements/verity"
)

func tools(t *testing.T) toolstree.Tree {
	t.Helper()
	tree, err := toolstree.Find()
	if err != nil {
		t.Skipf("make deps has not run: %v", err)
	}
	return tree
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestAPackIsTheSameEachTimeAndVerifies(t *testing.T) {
	tree := tools(t)
	var packs []info.Pack
	var files [][]byte
	for range 2 {
		dir := t.TempDir()
		src := filepath.Join(dir, "src")
		write(t, filepath.Join(src, "a", "file"), "content")
		write(t, filepath.Join(src, "big"), string(bytes.Repeat([]byte("0123456789abcdef"), 100000)))
		p, err := Make(context.Background(), Options{
			Tools: tree, Name: "engine", Serial: "s", Source: src, Dest: filepath.Join(dir, "p.img"),
			UUID: "6f9d2c1e-3c57-4f0a-8a0e-1d5a3a1e7c10", Epoch: 1767225600, Compression: "lz4hc,level=9",
		})
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(filepath.Join(dir, "p.img"))
		if err != nil {
			t.Fatal(err)
		}
		packs, files = append(packs, p), append(files, data)
	}
	if !bytes.Equal(files[0], files[1]) || packs[0].SHA256 != packs[1].SHA256 {
		t.Error("two runs gave two packs")
	}
	p := packs[0]
	root, salt, err := p.Verity.Params()
	if err != nil {
		t.Fatal(err)
	}
	if err := verity.Verify(bytes.NewReader(files[0]), p.Verity.DataBlocks, salt, root); err != nil {
		t.Error(err)
	}
	files[0][5000] ^= 1
	if err := verity.Verify(bytes.NewReader(files[0]), p.Verity.DataBlocks, salt, root); !errors.Is(err, verity.ErrCorrupt) {
		t.Errorf("a changed pack: got %v", err)
	}
	if len(p.Files) != 2 || p.Files[0].Path != "a/file" || p.Files[0].Size != 7 {
		t.Errorf("files are %+v", p.Files)
	}
	if p.Size != int64(len(files[0])) || p.Size%verity.BlockSize != 0 {
		t.Errorf("size is %d of %d", p.Size, len(files[0]))
	}
}

func TestMakeFailsOnAMissingSource(t *testing.T) {
	tree := tools(t)
	dir := t.TempDir()
	_, err := Make(context.Background(), Options{Tools: tree, Name: "model", Source: filepath.Join(dir, "none"), Dest: filepath.Join(dir, "p.img"), UUID: "6f9d2c1e-3c57-4f0a-8a0e-1d5a3a1e7c10"})
	if err == nil {
		t.Fatal("a pack was made of nothing")
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) != 0 {
		t.Errorf("files are left over: %v", left)
	}
}

// The tools tree is itself a tree of unpacked packages, and a real program of
// it the best test: what the closure finds must be enough to run it.
func TestARootfsHoldsWhatItsProgramNeeds(t *testing.T) {
	tree := tools(t)
	dir := filepath.Join(t.TempDir(), "rootfs")
	r := Rootfs{From: tree.Dir, Programs: []string{"usr/bin/mkfs.erofs"}, Dirs: []string{"run/engine"}, Passwd: "root:x:0:0::/:/none\n"}
	if err := r.Build(dir); err != nil {
		t.Fatal(err)
	}
	small := toolstree.Tree{Dir: dir}
	if out, err := small.Command(context.Background(), "mkfs.erofs", "--version").CombinedOutput(); err != nil {
		t.Errorf("running from the root file system: %v\n%s", err, out)
	}
	if _, err := os.Stat(filepath.Join(dir, "usr/bin/sh")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a shell came along")
	}
	for _, name := range []string{"run/engine", "etc/passwd", "lib64/ld-linux-x86-64.so.2"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
}

func TestARootfsWithoutALibraryIsRefused(t *testing.T) {
	tree := tools(t)
	from := t.TempDir()
	data, err := os.ReadFile(filepath.Join(tree.Dir, "usr/bin/mkfs.erofs"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(from, "usr/bin/mkfs.erofs"), string(data))
	r := Rootfs{From: from, Programs: []string{"usr/bin/mkfs.erofs"}}
	if err := r.Build(filepath.Join(t.TempDir(), "x")); !errors.Is(err, ErrMissingLibrary) {
		t.Errorf("got %v, want %v", err, ErrMissingLibrary)
	}
}

func TestARootfsRefusesLinksThatLeaveTheTree(t *testing.T) {
	from := t.TempDir()
	if err := os.MkdirAll(filepath.Join(from, "usr/bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("../../../../etc/passwd", filepath.Join(from, "usr/bin/x")); err != nil {
		t.Fatal(err)
	}
	r := Rootfs{From: from, Programs: []string{"usr/bin/x"}}
	if err := r.Build(filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a link out of the tree was followed")
	}
}

func TestARootfsRefusesPluginsThatAreNotThere(t *testing.T) {
	r := Rootfs{From: t.TempDir(), Plugins: []string{"usr/lib/*.so"}}
	if err := r.Build(filepath.Join(t.TempDir(), "x")); err == nil {
		t.Error("a pattern without files was accepted")
	}
}

package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/image/info"
)

// twoBuilds makes two builders whose outputs are small equal files.
func twoBuilds(t *testing.T) (a, b *builder) {
	t.Helper()
	a = &builder{out: t.TempDir(), profile: profile{Name: defaultProfile}}
	b = &builder{out: t.TempDir(), profile: a.profile}
	for _, x := range []*builder{a, b} {
		for dir, names := range map[string][]string{
			"image": append(slices.Clone(imageFiles), info.ImageFile),
			"packs": {"engine.img", "model.img", info.PacksFile},
			"mkosi": {"init", "extra/usr/bin/cocoon-enclave"},
		} {
			for _, n := range names {
				put(t, x.path(dir, n), "same "+n)
			}
		}
	}
	return a, b
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestEqualBuildsAreEqual(t *testing.T) {
	a, b := twoBuilds(t)
	if differ, err := a.compare(t.Context(), b); err != nil || len(differ) != 0 {
		t.Errorf("differ %q, error %v", differ, err)
	}
}

func TestEachArtefactIsCompared(t *testing.T) {
	for _, label := range []string{"image/cmdline", "image/initrd", "image/uki.efi", "image/vmlinuz", "image/image.json", "packs/packs.json", "mkosi/init", "mkosi/extra/usr/bin/cocoon-enclave"} {
		a, b := twoBuilds(t)
		put(t, b.path(label), "other")
		differ, err := a.compare(t.Context(), b)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{label}, differ); diff != "" {
			t.Error(diff)
		}
	}
}

func TestAMissingArtefactIsAnError(t *testing.T) {
	a, b := twoBuilds(t)
	if err := os.Remove(b.path("image", info.UKI)); err != nil {
		t.Fatal(err)
	}
	if _, err := a.compare(t.Context(), b); err == nil {
		t.Error("a build without a file was compared as whole")
	}
}

func TestTheSecondBuildsSourcesHaveOtherTimesAndNoBuild(t *testing.T) {
	root := t.TempDir()
	for _, n := range []string{"go.mod", "image/x.go", "build/out", ".git/config", "contracts/node_modules/y"} {
		put(t, filepath.Join(root, n), n)
	}
	b := &builder{root: root}
	to := filepath.Join(t.TempDir(), "another path")
	if err := b.copySources(to); err != nil {
		t.Fatal(err)
	}
	for _, n := range []string{"go.mod", "image/x.go"} {
		st, err := os.Stat(filepath.Join(to, n))
		if err != nil || !st.ModTime().Equal(secondTime) {
			t.Errorf("%s: %v", n, err)
		}
	}
	for _, n := range []string{"build", ".git", "contracts/node_modules"} {
		if _, err := os.Stat(filepath.Join(to, n)); !os.IsNotExist(err) {
			t.Errorf("%s was copied", n)
		}
	}
}

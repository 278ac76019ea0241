// Package imagetest finds the built image, packs and tools tree for tests
// that boot real machines.
package imagetest

import (
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/toolstree"
)

// EnvRequired names the variable that turns an absent image into a failure.
const EnvRequired = "COCOON_IMAGE_REQUIRED"

// Build is what "make deps" and "make image" leave.
type Build struct {
	Tools toolstree.Tree
	Image string // directory: vmlinuz, initrd, root.img, cmdline
	Packs string // directory: engine.img, model.img, packs.json
}

// Find returns the build; where it is absent the test is skipped, or fails
// with COCOON_IMAGE_REQUIRED=1. A test with -short is skipped in any case.
func Find(t testing.TB) Build {
	t.Helper()
	if testing.Short() {
		t.Skip("boots a machine: not with -short")
	}
	b, why := find()
	if why == "" {
		return b
	}
	if os.Getenv(EnvRequired) == "1" {
		t.Fatalf("the built image is required and absent: %s", why)
	}
	t.Skipf("the built image is absent (%s): run make deps image", why)
	return Build{}
}

// Tools is Find for tests that need the tools tree alone.
func Tools(t testing.TB) toolstree.Tree {
	t.Helper()
	tree, err := toolstree.Find()
	if err == nil {
		return tree
	}
	if os.Getenv(EnvRequired) == "1" {
		t.Fatalf("the tools tree is required and absent: %v", err)
	}
	t.Skipf("the tools tree is absent (%v): run make deps", err)
	return tree
}

func find() (Build, string) {
	tree, err := toolstree.Find()
	if err != nil {
		return Build{}, err.Error()
	}
	root, err := toolstree.RepoRoot()
	if err != nil {
		return Build{}, err.Error()
	}
	b := Build{Tools: tree, Image: filepath.Join(root, "build", "image"), Packs: filepath.Join(root, "build", "packs")}
	for _, f := range []string{filepath.Join(b.Image, "image.json"), filepath.Join(b.Packs, "packs.json")} {
		if _, err := os.Stat(f); err != nil {
			return Build{}, err.Error()
		}
	}
	return b, ""
}

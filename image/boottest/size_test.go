package boottest

import (
	"os"
	"path/filepath"
	"testing"

	"cocoon/image/info"
	"cocoon/internal/imagetest"
	"cocoon/measurements/verity"
)

// TestTheBuiltImageIsSmallEnough reads image.json, and the files that it
// describes.
func TestTheBuiltImageIsSmallEnough(t *testing.T) {
	b := imagetest.Find(t)
	im, err := info.LoadImage(b.Image)
	if err != nil {
		t.Fatal(err)
	}
	if err := info.CheckSizes(im); err != nil {
		t.Error(err)
	}
	// Data and hash tree, and nothing between or behind: no superblock that
	// could be believed.
	st, err := os.Stat(filepath.Join(b.Image, info.RootDisk))
	if err != nil {
		t.Fatal(err)
	}
	if want := int64(im.Root.DataBlocks+verity.TreeBlocks(im.Root.DataBlocks)) * verity.BlockSize; st.Size() != want {
		t.Errorf("%s has %d bytes, data and hash tree have %d", info.RootDisk, st.Size(), want)
	}
	for _, a := range im.Artefacts {
		st, err := os.Stat(filepath.Join(b.Image, a.File))
		if err != nil || st.Size() != a.Size {
			t.Errorf("%s is not of %d bytes: %v", a.File, a.Size, err)
		}
		t.Logf("%-9s %10d bytes", a.File, a.Size)
	}
}

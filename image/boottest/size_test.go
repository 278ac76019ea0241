package boottest

import (
	"os"
	"path/filepath"
	"testing"

	"cocoon/image/info"
	"cocoon/internal/imagetest"
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
	for _, a := range im.Artefacts {
		st, err := os.Stat(filepath.Join(b.Image, a.File))
		if err != nil || st.Size() != a.Size {
			t.Errorf("%s is not of %d bytes: %v", a.File, a.Size, err)
		}
		t.Logf("%-9s %10d bytes", a.File, a.Size)
	}
}

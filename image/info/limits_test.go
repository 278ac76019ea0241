package info

import (
	"testing"

	"cocoon/internal/fault"
)

func sized(root, uki, initrd int64) Image {
	return Image{Artefacts: []Artefact{{File: RootDisk, Size: root}, {File: UKI, Size: uki}, {File: Initrd, Size: initrd}}}
}

func TestAnImageThatHasGrownTooLargeIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		im   Image
		fits bool
	}{
		"at the limit":           {sized(MaxRootAndUKI-14e6, 14e6, MaxInitrd), true},
		"root and UKI too large": {sized(MaxRootAndUKI-14e6+1, 14e6, MaxInitrd), false},
		"initrd too large":       {sized(1, 1, MaxInitrd+1), false},
		"no UKI":                 {sized(1, 0, 1), false},
		"nothing":                {Image{}, false},
	} {
		err := CheckSizes(c.im)
		if c.fits != (err == nil) || !c.fits && !fault.Has(err, CodeSize) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

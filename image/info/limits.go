package info

import (
	"errors"
	"fmt"

	"cocoon/internal/fault"
)

// Largest sizes of an image's parts, in bytes: what a machine fetches and
// keeps of the image itself, packs apart, and what it unpacks before anything
// is verified.
const (
	MaxRootAndUKI = 160_000_000
	MaxInitrd     = 5_000_000
)

// CodeSize is the fault of an image that has grown too large.
const CodeSize = "image.size"

// CheckSizes reports every part of an image that is too large, or missing.
func CheckSizes(im Image) error {
	sizes := make(map[string]int64)
	for _, a := range im.Artefacts {
		sizes[a.File] = a.Size
	}
	var errs []error
	for _, name := range []string{RootDisk, UKI, Initrd} {
		if sizes[name] <= 0 {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeSize, "size of "+name, "a file", "none", "run: sudo make image"))
		}
	}
	check := func(what string, size, limit int64) {
		if size > limit {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeSize, what, fmt.Sprintf("at most %d bytes", limit), fmt.Sprintf("%d bytes", size),
				"see what grew: the package list in image.json, or the module list of the initrd"))
		}
	}
	check(RootDisk+" and "+UKI+" together", sizes[RootDisk]+sizes[UKI], MaxRootAndUKI)
	check(Initrd, sizes[Initrd], MaxInitrd)
	return errors.Join(errs...)
}

package info

import (
	"errors"
	"fmt"
	"strings"

	"cocoon/internal/fault"
)

// Codes of Compare.
const (
	CodePinUnavailable = "tools.pin_unavailable"
	CodeArtefact       = "image.artefact_differs"
	CodePackages       = "image.packages_differ"
	CodeToolchain      = "image.toolchain_differs"
)

// Compare reports how a rebuilt image differs from a released one: nil if
// every artefact is the same, else one fault per difference. Where a pinned
// tool had to be replaced, that is the first thing said, for then other bytes
// are to be expected.
func Compare(released, rebuilt Image) error {
	var errs []error
	have := make(map[string]Artefact)
	for _, a := range rebuilt.Artefacts {
		have[a.File] = a
	}
	for _, a := range released.Artefacts {
		if got := have[a.File]; got.SHA256 != a.SHA256 {
			actual := got.SHA256
			if actual == "" {
				actual = "no such file"
			}
			errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeArtefact, "SHA-256 of "+a.File, a.SHA256, actual, "compare the two files with diffoscope"))
		}
	}
	if len(released.Artefacts) != len(rebuilt.Artefacts) {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, CodeArtefact, "number of artefacts",
			fmt.Sprint(len(released.Artefacts)), fmt.Sprint(len(rebuilt.Artefacts)), "rebuild from the release's own sources"))
	}
	if len(errs) == 0 {
		return nil
	}
	var causes []error
	if !rebuilt.ToolsExact {
		causes = append(causes, fault.New(fault.ExitRefused, CodePinUnavailable, "rebuild with the packages kept with the release: make rebuild RELEASE=DIR",
			"comparing with a release: %s", strings.Join(rebuilt.PinsReplaced, "; ")))
	}
	if released.Go != rebuilt.Go {
		causes = append(causes, fault.Mismatch(fault.ExitRefused, CodeToolchain, "Go toolchain", released.Go, rebuilt.Go, "rebuild with the release's Go version"))
	}
	if diff := packageDiff(released.Packages, rebuilt.Packages); diff != "" {
		causes = append(causes, fault.New(fault.ExitRefused, CodePackages, "rebuild with the packages kept with the release: make rebuild RELEASE=DIR",
			"comparing with a release: packages differ: %s", diff))
	}
	return errors.Join(append(causes, errs...)...)
}

// packageDiff lists packages whose version or hash changed.
func packageDiff(a, b []Package) string {
	have := make(map[string]Package)
	for _, p := range b {
		have[p.Name] = p
	}
	var out []string
	for _, p := range a {
		if q, ok := have[p.Name]; !ok {
			out = append(out, p.Name+" is missing")
		} else if q != p {
			out = append(out, fmt.Sprintf("%s %s became %s", p.Name, p.Version, q.Version))
		}
		delete(have, p.Name)
	}
	for _, p := range b {
		if _, extra := have[p.Name]; extra {
			out = append(out, p.Name+" is new")
		}
	}
	return strings.Join(out, ", ")
}

package info

import (
	"strings"
	"testing"

	"cocoon/internal/fault"
)

func pair() (Image, Image) {
	im := func() Image {
		return Image{
			Go: "go1.26.8", ToolsExact: true,
			Artefacts: []Artefact{{File: Initrd, SHA256: "aa"}, {File: RootDisk, SHA256: "bb"}},
			Packages:  []Package{{Name: "runc", Version: "1.1", SHA256: "cc"}},
		}
	}
	return im(), im()
}

func TestCompareNamesEveryDifferenceAndItsCauses(t *testing.T) {
	tests := []struct {
		name string
		edit func(*Image)
		want []string
	}{
		{"nothing differs", func(*Image) {}, nil},
		{"a replaced pin that changes nothing", func(im *Image) { im.ToolsExact = false }, nil},
		{"one artefact", func(im *Image) { im.Artefacts[0].SHA256 = "zz" }, []string{CodeArtefact}},
		{"two artefacts", func(im *Image) { im.Artefacts[0].SHA256 = "y"; im.Artefacts[1].SHA256 = "z" }, []string{CodeArtefact, CodeArtefact}},
		{"an artefact is missing", func(im *Image) { im.Artefacts = im.Artefacts[:1] }, []string{CodeArtefact, CodeArtefact}},
		{"an artefact too many", func(im *Image) { im.Artefacts = append(im.Artefacts, Artefact{File: "x"}) }, []string{CodeArtefact}},
		{"a replaced pin", func(im *Image) { im.ToolsExact = false; im.Artefacts[0].SHA256 = "z" }, []string{CodePinUnavailable, CodeArtefact}},
		{"another toolchain", func(im *Image) { im.Go = "go1.27"; im.Artefacts[0].SHA256 = "z" }, []string{CodeToolchain, CodeArtefact}},
		{"another package", func(im *Image) { im.Packages[0].Version = "1.2"; im.Artefacts[1].SHA256 = "z" }, []string{CodePackages, CodeArtefact}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			released, rebuilt := pair()
			tt.edit(&rebuilt)
			err := Compare(released, rebuilt)
			var got []string
			for _, f := range fault.All(err) {
				got = append(got, f.Code)
			}
			if strings.Join(got, " ") != strings.Join(tt.want, " ") {
				t.Errorf("codes are %q, want %q", got, tt.want)
			}
		})
	}
}

func TestPackageDiffNamesWhatCameAndWent(t *testing.T) {
	a := []Package{{Name: "a", Version: "1"}, {Name: "b", Version: "1"}}
	b := []Package{{Name: "b", Version: "2"}, {Name: "c", Version: "1"}}
	if got, want := packageDiff(a, b), "a is missing, b 1 became 2, c is new"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

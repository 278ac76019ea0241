package lock

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func lockedSample() Packages {
	return Packages{Format: PackagesFormat, Release: "trixie", Packages: []Locked{
		{Set: SetKernel, Name: "linux-image-6.12.1-cloud-amd64", Version: "6.12.1-1", Arch: "amd64", SHA256: strings.Repeat("ab", 32)},
		{Set: SetRoot, Name: "libc6", Version: "2.41-12", Arch: "amd64", SHA256: strings.Repeat("cd", 32)},
		{Set: SetTools, Name: "libc6", Version: "2.41-12", Arch: "amd64", SHA256: strings.Repeat("cd", 32)},
	}}
}

func TestAPackageLockIsReadAsItIsWritten(t *testing.T) {
	doc, err := lockedSample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParsePackages(doc)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(lockedSample(), got); diff != "" {
		t.Error(diff)
	}
	if n := len(got.Set(SetRoot)); n != 1 {
		t.Errorf("set root has %d packages, want 1", n)
	}
	if again, err := got.Encode(); err != nil || string(again) != string(doc) {
		t.Errorf("a second writing differs, error %v", err)
	}
}

func TestAPackageLockIsStrict(t *testing.T) {
	doc, err := lockedSample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	for name, edit := range map[string][2]string{
		"another format":       {PackagesFormat, "cocoon-packages-lock/2"},
		"an unknown key":       {`"arch"`, `"architecture"`},
		"an unknown set":       {`"set":"root"`, `"set":"boot"`},
		"a package twice":      {`"set":"tools"`, `"set":"root"`},
		"another machine":      {`"arch":"amd64"`, `"arch":"arm64"`},
		"a short hash":         {strings.Repeat("ab", 32), "ab"},
		"an upper-case hash":   {strings.Repeat("ab", 32), strings.Repeat("AB", 32)},
		"an empty version":     {`"version":"6.12.1-1"`, `"version":""`},
		"a path as a name":     {`"name":"libc6"`, `"name":"../libc6"`},
		"a release of no name": {`"release": "trixie"`, `"release": ""`},
	} {
		in := strings.Replace(string(doc), edit[0], edit[1], 1)
		if in == string(doc) {
			t.Fatalf("%s: the case changes nothing", name)
		}
		if _, err := ParsePackages([]byte(in)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzParsePackages(f *testing.F) {
	doc, err := lockedSample().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(doc)
	f.Fuzz(func(t *testing.T, doc []byte) {
		l, err := ParsePackages(doc)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParsePackages(again); err != nil {
			t.Errorf("what was written cannot be read: %v", err)
		}
	})
}

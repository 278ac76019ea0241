package lock

import (
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"sort"

	"cocoon/internal/jcs"
)

// PackagesFormat is the only accepted value of a package lock's format field.
const PackagesFormat = "cocoon-packages-lock/1"

// maxPackages bounds a package lock; the tools tree has about 250 packages.
const maxPackages = 4096

// Sets of a package lock, besides SetTools.
const (
	SetRoot   = "root"   // the root file system of the image
	SetKernel = "kernel" // kernel and modules
)

// Packages is the content of image/packages.lock: every package of the stable
// release that the image is made from or with, and the kernel's packages of its
// backports, by version and SHA-256. A version is also the floor of its
// replacements: a stable release, and its backports, only go forward.
type Packages struct {
	Format   string   `json:"format"`
	Release  string   `json:"release"` // code name of the stable release
	Packages []Locked `json:"packages"`
}

// Locked is one package of the release or, in SetKernel, of its backports.
type Locked struct {
	Set     string `json:"set"` // SetRoot, SetKernel or SetTools
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`   // amd64 or all
	SHA256  string `json:"sha256"` // of the .deb, lower-case hex
}

var archRE = regexp.MustCompile(`^(amd64|all)$`)

// ParsePackages decodes and checks a package lock.
func ParsePackages(doc []byte) (Packages, error) {
	var l Packages
	if err := jcs.Decode(doc, 4*maxSize, &l); err != nil {
		return Packages{}, fmt.Errorf("decoding the package lock: %w", err)
	}
	if l.Format != PackagesFormat {
		return Packages{}, fmt.Errorf("package lock format is %q, want %q", l.Format, PackagesFormat)
	}
	if !suiteRE.MatchString(l.Release) || len(l.Packages) > maxPackages {
		return Packages{}, fmt.Errorf("package lock of %d packages for release %.64q is out of range", len(l.Packages), l.Release)
	}
	seen := make(map[[2]string]bool)
	for i, p := range l.Packages {
		if err := p.check(); err != nil {
			return Packages{}, fmt.Errorf("package lock entry %d: %w", i, err)
		}
		key := [2]string{p.Set, p.Name}
		if seen[key] {
			return Packages{}, fmt.Errorf("package lock entry %d: %s is twice in set %s", i, p.Name, p.Set)
		}
		seen[key] = true
	}
	return l, nil
}

func (p Locked) check() error {
	switch {
	case p.Set != SetRoot && p.Set != SetKernel && p.Set != SetTools:
		return fmt.Errorf("unknown set %.64q", p.Set)
	case !nameRE.MatchString(p.Name):
		return fmt.Errorf("name %.64q is not a package name", p.Name)
	case !versionRE.MatchString(p.Version):
		return fmt.Errorf("%s: version %.64q is not a Debian version", p.Name, p.Version)
	case !archRE.MatchString(p.Arch):
		return fmt.Errorf("%s: architecture %.64q is not amd64 or all", p.Name, p.Arch)
	case !sha256RE.MatchString(p.SHA256):
		return fmt.Errorf("%s: sha256 %.80q is not 64 lower-case hex digits", p.Name, p.SHA256)
	}
	return nil
}

// LoadPackages reads and parses the file at path.
func LoadPackages(path string) (Packages, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return Packages{}, fmt.Errorf("reading the package lock: %w", err)
	}
	return ParsePackages(doc)
}

// Set returns the packages of one set.
func (l Packages) Set(name string) []Locked {
	var out []Locked
	for _, p := range l.Packages {
		if p.Set == name {
			out = append(out, p)
		}
	}
	return out
}

// Encode returns the file's text: one package a line, sorted, so that a
// change shows as the lines that changed.
func (l Packages) Encode() ([]byte, error) {
	ps := append([]Locked{}, l.Packages...)
	sort.Slice(ps, func(i, j int) bool {
		if ps[i].Set != ps[j].Set {
			return ps[i].Set < ps[j].Set
		}
		return ps[i].Name < ps[j].Name
	})
	out := fmt.Appendf(nil, "{\n  \"format\": %q,\n  \"release\": %q,\n  \"packages\": [\n", l.Format, l.Release)
	for i, p := range ps {
		line, err := json.Marshal(p)
		if err != nil {
			return nil, fmt.Errorf("encoding the package lock: %w", err)
		}
		out = append(append(out, "    "...), line...)
		if i < len(ps)-1 {
			out = append(out, ',')
		}
		out = append(out, '\n')
	}
	return append(out, "  ]\n}\n"...), nil
}

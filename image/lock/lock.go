// Package lock reads tools.lock: the packages that the build takes from
// outside the stable Debian release, each pinned by version and SHA-256 with
// a floor below which no replacement is taken.
//
// In comes the file's JSON, decoded strictly; out goes a Lock whose every
// field has been checked. The format is this project's own.
package lock

import (
	"fmt"
	"os"
	"regexp"

	"cocoon/internal/jcs"
)

// Format is the only accepted value of the lock's format field.
const Format = "cocoon-tools-lock/1"

// maxSize bounds the file; a lock has a few dozen short entries.
const maxSize = 256 << 10

// Sets that packages are resolved for.
const (
	SetTools  = "tools"  // build/tools: QEMU, firmware, software TPM, mkosi
	SetEngine = "engine" // the inference engine's root file system
)

// Lock is the content of tools.lock.
type Lock struct {
	Format   string    `json:"format"`
	Release  string    `json:"release"` // code name of the stable release
	Packages []Package `json:"packages"`
}

// Package pins one binary package.
type Package struct {
	Set     string `json:"set"`     // SetTools or SetEngine
	Name    string `json:"name"`    // Debian package name
	Suite   string `json:"suite"`   // suite it comes from
	Version string `json:"version"` // exact Debian version
	SHA256  string `json:"sha256"`  // of the .deb, lower-case hex
	Floor   string `json:"floor"`   // lowest version a replacement may have
}

var (
	nameRE    = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,127}$`)
	suiteRE   = regexp.MustCompile(`^[a-z][a-z-]{1,31}$`)
	versionRE = regexp.MustCompile(`^[0-9][0-9A-Za-z.+:~-]{0,127}$`)
	sha256RE  = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Parse decodes and checks a lock file.
func Parse(doc []byte) (Lock, error) {
	var l Lock
	if err := jcs.Decode(doc, maxSize, &l); err != nil {
		return Lock{}, fmt.Errorf("decoding the lock: %w", err)
	}
	if l.Format != Format {
		return Lock{}, fmt.Errorf("lock format is %q, want %q", l.Format, Format)
	}
	if !suiteRE.MatchString(l.Release) {
		return Lock{}, fmt.Errorf("lock release %q is not a suite name", l.Release)
	}
	seen := make(map[[2]string]bool)
	for i, p := range l.Packages {
		if err := p.check(); err != nil {
			return Lock{}, fmt.Errorf("lock package %d: %w", i, err)
		}
		key := [2]string{p.Set, p.Name}
		if seen[key] {
			return Lock{}, fmt.Errorf("lock package %d: %s is pinned twice in set %s", i, p.Name, p.Set)
		}
		seen[key] = true
	}
	return l, nil
}

func (p Package) check() error {
	switch {
	case p.Set != SetTools && p.Set != SetEngine:
		return fmt.Errorf("unknown set %q", p.Set)
	case !nameRE.MatchString(p.Name):
		return fmt.Errorf("name %q is not a package name", p.Name)
	case !suiteRE.MatchString(p.Suite):
		return fmt.Errorf("%s: suite %q is not a suite name", p.Name, p.Suite)
	case !versionRE.MatchString(p.Version):
		return fmt.Errorf("%s: version %q is not a Debian version", p.Name, p.Version)
	case !versionRE.MatchString(p.Floor):
		return fmt.Errorf("%s: floor %q is not a Debian version", p.Name, p.Floor)
	case !sha256RE.MatchString(p.SHA256):
		return fmt.Errorf("%s: sha256 %q is not 64 lower-case hex digits", p.Name, p.SHA256)
	}
	return nil
}

// Load reads and parses the file at path.
func Load(path string) (Lock, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return Lock{}, fmt.Errorf("reading the lock: %w", err)
	}
	return Parse(doc)
}

// Set returns the packages pinned for one set.
func (l Lock) Set(name string) []Package {
	var out []Package
	for _, p := range l.Packages {
		if p.Set == name {
			out = append(out, p)
		}
	}
	return out
}

// Suites returns the suites outside the stable release, in order of first
// mention.
func (l Lock) Suites() []string {
	var out []string
	seen := map[string]bool{}
	for _, p := range l.Packages {
		if !seen[p.Suite] {
			seen[p.Suite] = true
			out = append(out, p.Suite)
		}
	}
	return out
}

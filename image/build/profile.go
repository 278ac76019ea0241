package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"cocoon/image/debs"
	"cocoon/image/lock"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// defaultProfile is built where none is named.
const defaultProfile = "cpu"

// envProfile names the variable that chooses a profile: make image PROFILE=debug.
const envProfile = "PROFILE"

// profile is one kind of image: a document of image/profiles.
type profile struct {
	Format   int      `json:"format"` // 1
	Name     string   `json:"name"`
	Image    string   `json:"image"`    // image name in manifests
	Debug    bool     `json:"debug"`    // verbose, marked on the command line, refused in production
	Kernel   string   `json:"kernel"`   // metapackage; empty: the default's, as locked
	Suite    string   `json:"suite"`    // that the kernel comes from; empty: the stable release
	Floor    string   `json:"floor"`    // lowest version of the kernel; empty with the default's
	Archives []string `json:"archives"` // words by which the machine's apt sources for it are known

	// Components of the stable release that it may take packages from, beside main.
	Components []string `json:"components"`

	Tags []string `json:"tags"` // build tags of the supervisor

	Packages []profilePackage `json:"packages"` // in the root file system besides mkosi.conf's
	Keep     []string         `json:"keep"`     // of their files, beside mkosi.finalize's own list
}

// profilePackage is a package that a profile needs.
type profilePackage struct {
	Name  string `json:"name"`
	Floor string `json:"floor"` // lowest version, or empty
	From  string `json:"from"`  // where it comes from, for people
}

// aptSources is where the machine's apt has its further archives.
const aptSources = "/etc/apt/sources.list.d"

// codePackageUnavailable is returned where a profile cannot be built because
// the machine's apt does not offer a package.
const codePackageUnavailable = "image.package_unavailable"

var (
	profileRE = regexp.MustCompile(`^[a-z]{1,16}$`)
	packageRE = regexp.MustCompile(`^[a-z0-9][a-z0-9+.-]{0,127}$`)
	keepRE    = regexp.MustCompile(`^[a-z0-9][A-Za-z0-9_./*+-]{0,254}$`)
)

// loadProfile reads a profile's document, strictly.
func (b *builder) loadProfile(name string) (profile, error) {
	const remedy = "PROFILE is one of cpu, debug, nvidia"
	if !profileRE.MatchString(name) {
		return profile{}, fault.New(fault.ExitInternal, "image.profile", remedy, "reading PROFILE: %.32q is not a profile", name)
	}
	doc, err := os.ReadFile(filepath.Join(b.root, "image", "profiles", name+".json"))
	if err != nil {
		return profile{}, fault.New(fault.ExitInternal, "image.profile", remedy, "reading the profile %s: %w", name, err)
	}
	p, err := parseProfile(doc)
	if err == nil && p.Name != name {
		err = fmt.Errorf("it is called %.32q", p.Name)
	}
	if err != nil {
		return profile{}, fault.New(fault.ExitParse, "image.profile", "restore image/profiles from version control", "reading the profile %s: %w", name, err)
	}
	return p, nil
}

func parseProfile(doc []byte) (profile, error) {
	var p profile
	if err := jcs.Decode(doc, 64<<10, &p); err != nil {
		return profile{}, err
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Format != 1 {
		bad("format %d, want 1", p.Format)
	}
	if !profileRE.MatchString(p.Name) || !packageRE.MatchString(p.Image) {
		bad("name %.32q or image %.32q is not a name", p.Name, p.Image)
	}
	if p.Kernel != "" && !packageRE.MatchString(p.Kernel) || (p.Kernel == "") != (p.Floor == "") {
		bad("kernel %.64q with floor %.64q", p.Kernel, p.Floor)
	}
	for _, k := range p.Packages {
		if !packageRE.MatchString(k.Name) || k.From == "" {
			bad("package %.64q needs a name and a word on where it comes from", k.Name)
		}
	}
	for _, w := range p.Tags {
		if !profileRE.MatchString(w) {
			bad("tag %.32q is no word", w)
		}
	}
	for _, w := range p.Archives {
		if !profileRE.MatchString(w) {
			bad("archive %.32q is no word", w)
		}
	}
	for _, c := range p.Components {
		if !packageRE.MatchString(c) || c == "main" {
			bad("component %.32q is no further component of a release", c)
		}
	}
	for _, k := range p.Keep {
		if !keepRE.MatchString(k) || strings.Contains(k, "..") {
			bad("%.64q is no relative path", k)
		}
	}
	return p, errors.Join(errs...)
}

// imageDir is where the profile's image goes, below build/.
func (b *builder) imageDir() string {
	if b.profile.Name == defaultProfile {
		return "image"
	}
	return "image-" + b.profile.Name
}

// special reports whether the profile has packages of its own.
func (p profile) special() bool { return p.Kernel != "" || len(p.Packages) > 0 }

// resolveProfile replaces root and kernel packages by the profile's. All that
// is missing is said at once, with where it comes from.
func (b *builder) resolveProfile(ctx context.Context, u used) (used, error) {
	p := b.profile
	if !p.special() || b.kept != "" {
		return u, nil
	}
	l, err := lock.Load(filepath.Join(b.root, "tools.lock"))
	if err != nil {
		return used{}, err
	}
	_, locked, err := b.packageLock()
	if err != nil {
		return used{}, err
	}
	extra, err := debs.MachineSources(aptSources, p.Archives)
	if err != nil {
		return used{}, err
	}
	a, err := b.openArchive(ctx, l, locked, extra, p.Components...)
	if err != nil {
		return used{}, err
	}
	want := []debs.Wanted{{Name: p.Kernel, Suite: p.Suite, Floor: p.Floor}}
	from := map[string]string{p.Kernel: "Debian, suite " + p.Suite}
	for _, k := range p.Packages {
		want = append(want, debs.Wanted{Name: k.Name, Floor: k.Floor})
		from[k.Name] = k.From
	}
	missing, err := a.Missing(ctx, want)
	if err != nil {
		return used{}, err
	}
	if err := unavailable(p.Name, missing, from); err != nil {
		return used{}, err
	}
	roots, err := b.rootPackages()
	if err != nil {
		return used{}, err
	}
	for _, k := range p.Packages {
		roots = append(roots, k.Name)
	}
	if u.Root, err = a.Resolve(ctx, lock.SetRoot, slices.Concat(essentialRoots, roots)); err != nil {
		return used{}, resolveFault("root file system", err)
	}
	kernel, err := a.ResolveFrom(ctx, p.Suite, p.Kernel)
	if err != nil {
		return used{}, resolveFault("kernel", err)
	}
	if u.Kernel = kernelFiles(kernel); len(u.Kernel) == 0 {
		return used{}, fmt.Errorf("resolving the kernel: %s brings no kernel package", p.Kernel)
	}
	u.Exact = false
	u.Warnings = append(slices.Clone(u.Warnings), "tools.pin_unavailable: profile "+p.Name+" is not in "+packagesLock+": the newest packages are taken, and measurements follow from them")
	all := slices.Concat(u.Root, u.Kernel)
	if err := a.Fetch(ctx, all); err != nil {
		return used{}, fault.New(fault.ExitNetwork, "build.fetch", "run it again; what arrived is kept", "fetching packages: %w", err)
	}
	return u, a.Verify(all)
}

// unavailable says which packages a profile lacks.
func unavailable(name string, missing []debs.Wanted, from map[string]string) error {
	var errs []error
	for _, w := range missing {
		want := w.Name
		if w.Floor != "" {
			want += " at version " + w.Floor + " or newer"
		}
		actual := "not offered by the machine's archives"
		if w.Offered != "" {
			actual = "newest offered is " + w.Offered
		}
		errs = append(errs, fault.Mismatch(fault.ExitNotReady, codePackageUnavailable, "package of profile "+name, want, actual,
			"it comes from: "+from[w.Name]+"; add that archive to the machine's apt, or build another profile"))
	}
	return errors.Join(errs...)
}

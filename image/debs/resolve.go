package debs

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"sort"
	"strings"

	"cocoon/image/lock"
)

// instRE matches apt-get -s's line for a package that would be installed.
var instRE = regexp.MustCompile(`^Inst (\S+) \((\S+) `)

// Resolve returns roots and everything they depend on from the stable
// release, in the versions of the package lock, with the lock's pins of the
// same set in their place. Where a pinned version is neither offered nor
// cached, the newest one of its suite at or above the floor is taken, and
// said so; see locked for packages of the release.
func (a *Archive) Resolve(ctx context.Context, set string, roots []string) ([]Deb, error) {
	pinned, err := a.pins(ctx, set)
	if err != nil {
		return nil, err
	}
	foreign := make(map[string]bool)
	for _, d := range pinned {
		foreign[d.Name] = true
	}
	for _, d := range a.locked(set, a.release()) {
		if !foreign[d.Name] {
			pinned = append(pinned, d)
		}
	}
	versions := make(map[string]string)
	var files []string // pins that only the cache still has
	for _, d := range pinned {
		versions[d.Name] = d.Version
		if d.Size == 0 {
			files = append(files, a.Path(d))
		}
	}
	if err := a.setPreferences(versions, -1); err != nil {
		return nil, err
	}
	solved, err := a.solve(ctx, append(append([]string{}, roots...), files...))
	if err != nil {
		return nil, err
	}
	got, err := a.merge(ctx, solved, pinned)
	if err != nil {
		return nil, err
	}
	return got, a.checkFloors(ctx, set, got)
}

// locked returns the packages of a set that can be had exactly as the package
// lock names them: offered by one of the suites with the same hash, or cached.
func (a *Archive) locked(set string, suites []string) []Deb {
	var out []Deb
	for _, p := range a.opts.Locked.Set(set) {
		d := Deb{Name: p.Name, Version: p.Version, Arch: p.Arch, SHA256: p.SHA256, Source: FromLock, Pinned: p.Version}
		if r := a.records[p.Name+"="+p.Version]; r.SHA256 == p.SHA256 && a.offers(suites, p.Name, p.Version) {
			d.Size = r.Size
			out = append(out, d)
		} else if _, err := os.Stat(a.Path(d)); err == nil {
			out = append(out, d) // Size stays 0: only the cache has it
		}
	}
	return out
}

// release returns the suites of the stable release and its updates.
func (a *Archive) release() []string {
	r := a.opts.Lock.Release
	return []string{r, r + "-updates", r + "-security"}
}

// offers reports whether one of the suites has a version.
func (a *Archive) offers(suites []string, name, version string) bool {
	return slices.ContainsFunc(suites, func(s string) bool {
		return slices.Contains(parseMadison(a.offered[name], s), version)
	})
}

// checkFloors marks what stands for a locked package that is gone, and
// refuses what is older than it: a stable release only goes forward.
func (a *Archive) checkFloors(ctx context.Context, set string, got []Deb) error {
	byName := make(map[string]lock.Locked)
	for _, p := range a.opts.Locked.Set(set) {
		byName[p.Name] = p
	}
	for i := range got {
		d := &got[i]
		p, ok := byName[d.Name]
		if !ok || d.Source != FromRelease {
			continue
		}
		d.Source, d.Pinned = FromNewer, p.Version
		if !atLeast(ctx, d.Version, p.Version) {
			return fmt.Errorf("choosing %s from %s: offered %s, locked %s: %w", d.Name, a.opts.Lock.Release, d.Version, p.Version, ErrBelowFloor)
		}
	}
	return nil
}

// ResolveClosed returns exactly the packages that the lock pins for a set.
// If one had to be replaced, its dependencies may have changed too: then the
// roots are resolved anew from the pins' suite.
func (a *Archive) ResolveClosed(ctx context.Context, set string, roots []string) ([]Deb, error) {
	pinned, err := a.pins(ctx, set)
	if err != nil {
		return nil, err
	}
	fallback := false
	for _, d := range pinned {
		fallback = fallback || d.Source == FromFallback
	}
	if !fallback {
		return a.merge(ctx, nil, pinned)
	}
	if err := a.setPreferences(nil, 995); err != nil {
		return nil, err
	}
	solved, err := a.solve(ctx, roots)
	if err != nil {
		return nil, err
	}
	debs, err := a.merge(ctx, solved, nil)
	if err != nil {
		return nil, err
	}
	byName := make(map[string]lock.Package)
	for _, p := range a.opts.Lock.Set(set) {
		byName[p.Name] = p
	}
	for i := range debs {
		p := byName[debs[i].Name]
		debs[i].Source, debs[i].Pinned = FromFallback, p.Version
		if debs[i].SHA256 == p.SHA256 {
			debs[i].Source = FromPin
		}
	}
	return debs, nil
}

// solve lets apt complete a list of packages from nothing installed.
func (a *Archive) solve(ctx context.Context, roots []string) (map[string]string, error) {
	out, err := a.run(ctx, "", "apt-get", append([]string{"-s", "-y", "-q", "install"}, roots...)...)
	if err != nil {
		return nil, fmt.Errorf("resolving packages: %w", err)
	}
	got := make(map[string]string)
	for _, line := range strings.Split(string(out), "\n") {
		if m := instRE.FindStringSubmatch(line); m != nil {
			name, _, _ := strings.Cut(m[1], ":")
			got[name] = m[2]
		}
	}
	return got, nil
}

// merge adds size and hash to solved names; pinned records win.
func (a *Archive) merge(ctx context.Context, solved map[string]string, pinned []Deb) ([]Deb, error) {
	var debs []Deb
	done := make(map[string]bool)
	for _, d := range pinned {
		if _, ok := solved[d.Name]; ok || solved == nil {
			debs = append(debs, d)
			done[d.Name] = true
		}
	}
	var specs []string
	for name, v := range solved {
		if !done[name] {
			specs = append(specs, name+"="+v)
		}
	}
	sort.Strings(specs)
	recs, err := a.show(ctx, specs)
	if err != nil {
		return nil, err
	}
	for _, s := range specs {
		d, ok := recs[s]
		if !ok {
			return nil, fmt.Errorf("resolving packages: no record of %s", s)
		}
		d.Source = FromRelease
		debs = append(debs, d)
	}
	sort.Slice(debs, func(i, j int) bool { return debs[i].Name < debs[j].Name })
	return debs, nil
}

// pins chooses a version for each pin of a set.
func (a *Archive) pins(ctx context.Context, set string) ([]Deb, error) {
	var out []Deb
	for _, p := range a.opts.Lock.Set(set) {
		d, err := a.pin(ctx, p)
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

// pin chooses a version for one pin: the exact one if it is offered or
// cached, else the newest of its suite at or above the floor.
func (a *Archive) pin(ctx context.Context, p lock.Package) (Deb, error) {
	offered := parseMadison(a.offered[p.Name], p.Suite)
	exact := Deb{Name: p.Name, Version: p.Version, SHA256: p.SHA256, Source: FromPin, Pinned: p.Version}
	for _, v := range offered {
		if d := a.records[p.Name+"="+v]; v == p.Version && d.SHA256 == p.SHA256 {
			exact.Size, exact.Arch = d.Size, d.Arch
			return exact, nil
		}
	}
	if _, err := os.Stat(a.Path(exact)); err == nil {
		out, err := exec.CommandContext(ctx, "dpkg-deb", "-f", a.Path(exact), "Architecture").Output()
		if err != nil {
			return Deb{}, fmt.Errorf("reading the cached %s: %w", p.Name, err)
		}
		exact.Arch = strings.TrimSpace(string(out))
		return exact, nil // Size stays 0: only the cache has it
	}
	best := ""
	for _, v := range offered {
		if atLeast(ctx, v, p.Floor) && (best == "" || atLeast(ctx, v, best)) {
			best = v
		}
	}
	if best == "" {
		return Deb{}, fmt.Errorf("choosing %s from %s: offered %q, floor %s: %w", p.Name, p.Suite, offered, p.Floor, ErrBelowFloor)
	}
	d, ok := a.records[p.Name+"="+best]
	if !ok {
		return Deb{}, fmt.Errorf("choosing %s: no record of version %s", p.Name, best)
	}
	d.Source, d.Pinned = FromFallback, p.Version
	fmt.Fprintf(a.opts.Log, "pin unavailable: %s %s is gone from %s; taking %s (floor %s): measurements are recomputed and will differ from older releases\n",
		p.Name, p.Version, p.Suite, best, p.Floor)
	return d, nil
}

// parseMadison reads "name | version | uri suite/component arch Packages".
func parseMadison(out, suite string) []string {
	var versions []string
	for _, line := range strings.Split(out, "\n") {
		f := strings.Split(line, "|")
		if len(f) == 3 && strings.Contains(f[2], " "+suite+"/") {
			versions = append(versions, strings.TrimSpace(f[1]))
		}
	}
	return versions
}

// atLeast compares Debian versions by deb-version(7), with dpkg.
func atLeast(ctx context.Context, v, floor string) bool {
	return exec.CommandContext(ctx, "dpkg", "--compare-versions", v, "ge", floor).Run() == nil
}

// Wanted is a package that must be offered, from any suite or from one.
type Wanted struct {
	Name    string
	Suite   string // empty: the release, or another archive of the machine's apt
	Floor   string // lowest version, or empty
	Offered string // newest version that is offered, where it is too old
}

// Missing returns the wanted packages that cannot be had.
func (a *Archive) Missing(ctx context.Context, want []Wanted) ([]Wanted, error) {
	names := make([]string, len(want))
	for i, w := range want {
		names[i] = w.Name
	}
	out, err := a.run(ctx, "", "apt-cache", append([]string{"madison"}, names...)...)
	if err != nil {
		return nil, fmt.Errorf("listing versions: %w", err)
	}
	offered := make(map[string]string)
	for _, line := range strings.Split(string(out), "\n") {
		if name, _, ok := strings.Cut(line, "|"); ok {
			offered[strings.TrimSpace(name)] += line + "\n"
		}
	}
	return missing(ctx, want, offered, a.opts.Lock.Suites()), nil
}

// missing picks from madison's lines; packages without a suite are not taken
// from the foreign suites, which are there for pins only.
func missing(ctx context.Context, want []Wanted, offered map[string]string, foreign []string) []Wanted {
	var out []Wanted
	for _, w := range want {
		best := ""
		for _, line := range strings.Split(offered[w.Name], "\n") {
			f := strings.Split(line, "|")
			if len(f) != 3 {
				continue
			}
			is := func(suite string) bool { return strings.Contains(f[2], " "+suite+"/") }
			if w.Suite != "" && !is(w.Suite) || w.Suite == "" && slices.ContainsFunc(foreign, is) {
				continue
			}
			if v := strings.TrimSpace(f[1]); best == "" || atLeast(ctx, v, best) {
				best = v
			}
		}
		if best == "" || w.Floor != "" && !atLeast(ctx, best, w.Floor) {
			w.Offered = best
			out = append(out, w)
		}
	}
	return out
}

// LockedFrom returns the packages of a set exactly as the package lock names
// them, or none where one of them is neither offered by the suite nor cached.
func (a *Archive) LockedFrom(suite, set string) []Deb {
	got := a.locked(set, []string{suite})
	if len(got) != len(a.opts.Locked.Set(set)) {
		return nil
	}
	return got
}

// CheckSet is checkFloors where names carry the version, as a kernel's do: it
// also refuses packages of other names that are older than every package that
// the lock has of the set.
func (a *Archive) CheckSet(ctx context.Context, set string, got []Deb) error {
	if err := a.checkFloors(ctx, set, got); err != nil {
		return err
	}
	locked := a.opts.Locked.Set(set)
	for _, d := range got {
		newer := func(p lock.Locked) bool { return atLeast(ctx, d.Version, p.Version) }
		if len(locked) > 0 && !slices.ContainsFunc(locked, newer) {
			return fmt.Errorf("choosing %s: offered %s, locked %s %s: %w", d.Name, d.Version, locked[0].Name, locked[0].Version, ErrBelowFloor)
		}
	}
	return nil
}

// ResolveFrom returns a package of a foreign suite with all that it depends
// on, from that suite where the release has no version that fits.
func (a *Archive) ResolveFrom(ctx context.Context, suite, name string) ([]Deb, error) {
	if err := a.setPreferences(nil, 100); err != nil {
		return nil, err
	}
	solved, err := a.solve(ctx, []string{"-t", suite, name})
	if err != nil {
		return nil, err
	}
	return a.merge(ctx, solved, nil)
}

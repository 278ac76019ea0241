// Package debs resolves, downloads and unpacks Debian packages without
// installing anything on the host.
//
// In go the mirror of the machine's own apt configuration, a lock of pinned
// packages and a list of wanted names; out come .deb files in a cache that is
// keyed by SHA-256, and directory trees unpacked from them. apt resolves the
// dependencies and checks signatures, with a private state directory; no
// maintainer script ever runs.
package debs

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sort"
	"strconv"
	"strings"

	"cocoon/image/lock"
)

// How a package came to be chosen.
const (
	FromRelease  = "release"  // its suite's own version, not locked
	FromPin      = "pin"      // exactly what tools.lock names
	FromLock     = "lock"     // exactly what the package lock names
	FromFallback = "fallback" // the pin is gone: newest at or above the floor
	FromNewer    = "newer"    // the locked version is gone: the release's newest
)

// ErrBelowFloor reports that no version at or above a pin's floor is offered.
var ErrBelowFloor = errors.New("no version at or above the floor")

// Deb is one chosen binary package.
type Deb struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`   // amd64 or all
	SHA256  string `json:"sha256"` // of the .deb file, lower-case hex
	Size    int64  `json:"size"`   // of the .deb file in bytes
	Source  string `json:"source"` // FromRelease to FromNewer
	Pinned  string `json:"pinned"` // the version that tools.lock or the package lock names, or empty
}

// Options says where an Archive keeps its state.
type Options struct {
	Dir     string        // private apt state
	Cache   string        // .deb files, by SHA-256
	Mirror  Mirror        // from MachineMirror
	Proxies string        // from MachineProxies
	Lock    lock.Lock     // pins
	Locked  lock.Packages // versions of the release's own packages; may be empty
	Keyring string        // archive keyring; DefaultKeyring if empty
	Log     io.Writer     // one line per noteworthy step

	// Extra are sources files (sources.list(5)) of further archives, by name.
	Extra map[string]string

	// Components of the stable release beside main, such as "non-free".
	Components []string
}

// DefaultKeyring is where Debian keeps its archive keys.
const DefaultKeyring = "/usr/share/keyrings/debian-archive-keyring.gpg"

// Archive answers questions about, and fetches from, the Debian archive.
type Archive struct {
	opts    Options
	conf    string
	offered map[string]string // madison lines of the pinned packages, by name
	records map[string]Deb    // index records of their versions, by name=version
}

// Open writes a private apt configuration and brings its package lists up to
// date. Signatures are checked; the age of an index is not, because suites
// that have stopped moving keep old dates and every pinned file has its hash.
func Open(ctx context.Context, opts Options) (*Archive, error) {
	if opts.Keyring == "" {
		opts.Keyring = DefaultKeyring
	}
	a := &Archive{opts: opts, conf: filepath.Join(opts.Dir, "apt.conf")}
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc"} {
		if err := os.MkdirAll(filepath.Join(opts.Dir, d), 0o755); err != nil {
			return nil, fmt.Errorf("preparing the apt state: %w", err)
		}
	}
	if err := os.RemoveAll(filepath.Join(opts.Dir, "etc/sources.d")); err != nil {
		return nil, fmt.Errorf("preparing the apt state: %w", err)
	}
	if err := os.MkdirAll(opts.Cache, 0o755); err != nil {
		return nil, fmt.Errorf("preparing the package cache: %w", err)
	}
	files := map[string]string{
		a.conf:                                   a.config(),
		filepath.Join(opts.Dir, "etc/sources"):   a.sources(),
		filepath.Join(opts.Dir, "state/status"):  "",
		filepath.Join(opts.Dir, "etc/prefs"):     a.preferences(nil, 1),
		filepath.Join(opts.Dir, "etc/sources.d"): "",
	}
	for path, text := range files {
		if strings.HasSuffix(path, ".d") {
			if err := os.MkdirAll(path, 0o755); err != nil {
				return nil, fmt.Errorf("preparing the apt state: %w", err)
			}
			continue
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("writing the apt configuration: %w", err)
		}
	}
	for name, text := range opts.Extra {
		if err := os.WriteFile(filepath.Join(opts.Dir, "etc/sources.d", filepath.Base(name)), []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("writing the apt configuration: %w", err)
		}
	}
	if _, err := a.run(ctx, "", "apt-get", "update", "-q", "--error-on=any"); err != nil {
		return nil, fmt.Errorf("updating the package lists: %w", err)
	}
	if err := a.readPinned(ctx); err != nil {
		return nil, err
	}
	return a, nil
}

// readPinned looks up all versions of the pinned packages at once, because
// every start of apt-cache costs a good part of a second.
func (a *Archive) readPinned(ctx context.Context) error {
	var names []string
	for _, p := range a.opts.Lock.Packages {
		names = append(names, p.Name)
	}
	for _, p := range a.opts.Locked.Packages {
		names = append(names, p.Name)
	}
	slices.Sort(names)
	names = slices.Compact(names)
	if len(names) == 0 {
		return nil
	}
	out, err := a.run(ctx, "", "apt-cache", append([]string{"madison"}, names...)...)
	if err != nil {
		return fmt.Errorf("listing versions: %w", err)
	}
	a.offered = make(map[string]string)
	for _, line := range strings.Split(string(out), "\n") {
		if name, _, ok := strings.Cut(line, "|"); ok {
			a.offered[strings.TrimSpace(name)] += line + "\n"
		}
	}
	known := make([]string, 0, len(a.offered))
	for name := range a.offered {
		known = append(known, name)
	}
	sort.Strings(known)
	a.records, err = a.show(ctx, known)
	return err
}

func (a *Archive) config() string {
	d := a.opts.Dir
	// The machine's own apt settings are left out, but for its proxies: some
	// switch off the caches that make repeated calls fast.
	return a.opts.Proxies + fmt.Sprintf(`Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::State %q;
Dir::State::status %q;
Dir::Cache %q;
Dir::Etc::sourcelist %q;
Dir::Etc::sourceparts %q;
Dir::Etc::preferences %q;
Dir::Etc::preferencesparts %q;
APT::Architecture "amd64";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
pkgCacheGen::ForceEssential ":";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::IndexTargets::deb::DEP-11::DefaultEnabled "false";
Acquire::Retries "3";
`, d+"/state", d+"/state/status", d+"/cache", d+"/etc/sources", d+"/etc/sources.d", d+"/etc/prefs", d+"/etc/sources.d")
}

func (a *Archive) sources() string {
	var b strings.Builder
	components := strings.Join(append([]string{"main"}, a.opts.Components...), " ")
	for _, line := range a.opts.Mirror.lines(a.opts.Lock.Release) {
		fmt.Fprintf(&b, "deb [signed-by=%s] %s %s\n", a.opts.Keyring, line, components)
	}
	for _, s := range a.opts.Lock.Suites() {
		fmt.Fprintf(&b, "deb [signed-by=%s] %s %s main\n", a.opts.Keyring, a.opts.Mirror.Main, s)
	}
	return b.String()
}

// preferences keeps foreign suites out (priority of 1 or less is never chosen
// over the release) except for the pinned versions.
func (a *Archive) preferences(pins map[string]string, foreign int) string {
	var b strings.Builder
	for _, s := range a.opts.Lock.Suites() {
		fmt.Fprintf(&b, "Package: *\nPin: release n=%s\nPin-Priority: %d\n\n", s, foreign)
	}
	names := make([]string, 0, len(pins))
	for n := range pins {
		names = append(names, n)
	}
	sort.Strings(names)
	for _, n := range names {
		fmt.Fprintf(&b, "Package: %s\nPin: version %s\nPin-Priority: 1001\n\n", n, pins[n])
	}
	return b.String()
}

func (a *Archive) setPreferences(pins map[string]string, foreign int) error {
	path := filepath.Join(a.opts.Dir, "etc/prefs")
	if err := os.WriteFile(path, []byte(a.preferences(pins, foreign)), 0o644); err != nil {
		return fmt.Errorf("writing the apt preferences: %w", err)
	}
	return nil
}

// run executes an apt program with the private configuration and returns its
// standard output; errors carry the tail of standard error.
func (a *Archive) run(ctx context.Context, dir, name string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "APT_CONFIG="+a.conf, "LC_ALL=C", "DEBIAN_FRONTEND=noninteractive")
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("running %s %s: %w\n%s", name, args[0], err, tail(errs.Bytes(), 2000))
	}
	return out.Bytes(), nil
}

func tail(b []byte, n int) []byte {
	if len(b) > n {
		return b[len(b)-n:]
	}
	return b
}

// Path returns where a package's file is in the cache.
func (a *Archive) Path(d Deb) string { return filepath.Join(a.opts.Cache, d.SHA256+".deb") }

// Fetch downloads the packages that the cache lacks. A file enters the cache
// only under the SHA-256 of its own bytes.
func (a *Archive) Fetch(ctx context.Context, debs []Deb) error {
	var want []string
	var size int64
	for _, d := range debs {
		if _, err := os.Stat(a.Path(d)); err == nil {
			continue
		}
		want = append(want, d.Name+"="+d.Version)
		size += d.Size
	}
	if len(want) == 0 {
		return nil
	}
	fmt.Fprintf(a.opts.Log, "downloading %d packages, %.1f MB\n", len(want), float64(size)/1e6)
	tmp, err := os.MkdirTemp(a.opts.Cache, ".download-")
	if err != nil {
		return fmt.Errorf("downloading packages: %w", err)
	}
	defer os.RemoveAll(tmp)
	if _, err := a.run(ctx, tmp, "apt-get", append([]string{"download", "-q"}, want...)...); err != nil {
		return fmt.Errorf("downloading packages: %w", err)
	}
	files, err := filepath.Glob(filepath.Join(tmp, "*.deb"))
	if err != nil {
		return fmt.Errorf("listing downloads: %w", err)
	}
	for _, f := range files {
		sum, err := fileSHA256(f)
		if err != nil {
			return err
		}
		if err := os.Rename(f, filepath.Join(a.opts.Cache, sum+".deb")); err != nil {
			return fmt.Errorf("storing a download: %w", err)
		}
	}
	for _, d := range debs {
		if _, err := os.Stat(a.Path(d)); err != nil {
			return fmt.Errorf("downloading %s %s: the file with sha256 %s did not arrive", d.Name, d.Version, d.SHA256)
		}
	}
	return nil
}

// Verify re-hashes the cached file of every package.
func (a *Archive) Verify(debs []Deb) error {
	for _, d := range debs {
		sum, err := fileSHA256(a.Path(d))
		if err != nil {
			return err
		}
		if sum != d.SHA256 {
			os.Remove(a.Path(d))
			return fmt.Errorf("cached file of %s has sha256 %s, want %s; it was removed", d.Name, sum, d.SHA256)
		}
	}
	return nil
}

func fileSHA256(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", fmt.Errorf("hashing a package: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", fmt.Errorf("hashing %s: %w", path, err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// Unpack extracts the packages' files, from a cache that Fetch filled, into
// dir, which it creates.
func Unpack(ctx context.Context, cache string, debs []Deb, dir string) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("unpacking packages: %w", err)
	}
	for _, d := range debs {
		cmd := exec.CommandContext(ctx, "dpkg-deb", "-x", filepath.Join(cache, d.SHA256+".deb"), dir)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("unpacking %s: %w\n%s", d.Name, err, tail(out, 1000))
		}
	}
	return nil
}

// show returns the index's record of each name=version.
func (a *Archive) show(ctx context.Context, specs []string) (map[string]Deb, error) {
	if len(specs) == 0 {
		return nil, nil
	}
	out, err := a.run(ctx, "", "apt-cache", append([]string{"show"}, specs...)...)
	if err != nil {
		return nil, fmt.Errorf("reading package records: %w", err)
	}
	return parseRecords(out)
}

// parseRecords reads apt-cache show's stanzas into name=version -> Deb.
func parseRecords(out []byte) (map[string]Deb, error) {
	recs := make(map[string]Deb)
	var d Deb
	flush := func() {
		if d.Name != "" && d.Version != "" && d.SHA256 != "" {
			recs[d.Name+"="+d.Version] = d
		}
		d = Deb{}
	}
	sc := bufio.NewScanner(bytes.NewReader(out))
	sc.Buffer(nil, 1<<20)
	for sc.Scan() {
		key, val, ok := strings.Cut(sc.Text(), ": ")
		if sc.Text() == "" {
			flush()
			continue
		}
		if !ok {
			continue
		}
		switch key {
		case "Package":
			d.Name = val
		case "Version":
			d.Version = val
		case "Architecture":
			d.Arch = val
		case "SHA256":
			d.SHA256 = val
		case "Size":
			n, err := strconv.ParseInt(val, 10, 64)
			if err != nil {
				return nil, fmt.Errorf("reading the size of %s: %w", d.Name, err)
			}
			d.Size = n
		}
	}
	flush()
	if err := sc.Err(); err != nil {
		return nil, fmt.Errorf("reading package records: %w", err)
	}
	return recs, nil
}

package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cocoon/image/debs"
	"cocoon/image/info"
	"cocoon/image/lock"
	"cocoon/internal/fault"
)

// packagesLock is the list of every package of the stable release, and of the
// kernel's, that the build uses, by hash.
const packagesLock = "image/packages.lock"

// essentialRoots are what mkosi installs before anything else.
var essentialRoots = []string{"?essential", "base-files"}

// packageLock reads image/packages.lock. A clone without it builds from what
// the archive offers, and says so.
func (b *builder) packageLock() (doc []byte, l lock.Packages, err error) {
	doc, err = os.ReadFile(filepath.Join(b.root, packagesLock))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, lock.Packages{}, nil
	}
	if err != nil {
		return nil, l, fmt.Errorf("reading the package lock: %w", err)
	}
	if l, err = lock.ParsePackages(doc); err != nil {
		return nil, l, fault.New(fault.ExitParse, "image.packages_lock", "restore "+packagesLock+" from version control, or run: sudo make lock", "reading %s: %w", packagesLock, err)
	}
	return doc, l, nil
}

// rootPackages returns the packages that mkosi.conf asks for.
func (b *builder) rootPackages() ([]string, error) {
	doc, err := os.ReadFile(filepath.Join(b.root, "mkosi.conf"))
	if err != nil {
		return nil, fmt.Errorf("reading mkosi.conf: %w", err)
	}
	return confPackages(string(doc))
}

// confPackages reads the list under "Packages=" of a mkosi configuration: the
// indented lines that follow.
func confPackages(conf string) ([]string, error) {
	var out []string
	in := false
	for _, line := range strings.Split(conf, "\n") {
		switch rest, start := strings.CutPrefix(line, "Packages="); {
		case start:
			in = true
			out = append(out, strings.Fields(rest)...)
		case in && strings.HasPrefix(line, " "):
			out = append(out, strings.Fields(line)...)
		default:
			in = false
		}
	}
	if len(out) == 0 {
		return nil, errors.New("mkosi.conf names no packages")
	}
	return out, nil
}

// resolve chooses every package of the build.
func (b *builder) resolve(ctx context.Context, a *debs.Archive, lockDoc []byte, locked lock.Packages) (used, error) {
	sum := sha256.Sum256(lockDoc)
	u := used{Format: usedFormat, Lock: hex.EncodeToString(sum[:]), Exact: true, Warnings: []string{}}
	roots, err := b.rootPackages()
	if err != nil {
		return used{}, err
	}
	if u.Tools, err = a.Resolve(ctx, lock.SetTools, toolRoots); err != nil {
		return used{}, resolveFault("tools", err)
	}
	if u.Engine, err = a.ResolveClosed(ctx, lock.SetEngine, engineRoots); err != nil {
		return used{}, resolveFault("engine", err)
	}
	if u.Root, err = a.Resolve(ctx, lock.SetRoot, slices.Concat(essentialRoots, roots)); err != nil {
		return used{}, resolveFault("root file system", err)
	}
	if u.Kernel, err = resolveKernel(ctx, a); err != nil {
		return used{}, resolveFault("kernel", err)
	}
	for _, d := range slices.Concat(u.Tools, u.Engine) {
		if d.Source == debs.FromFallback && d.Pinned != "" {
			u.Warnings = append(u.Warnings, fmt.Sprintf("tools.pin_unavailable: %s %s is replaced by %s", d.Name, d.Pinned, d.Version))
		}
	}
	u.Warnings = append(u.Warnings, moved(locked, map[string][]debs.Deb{lock.SetTools: u.Tools, lock.SetRoot: u.Root, lock.SetKernel: u.Kernel})...)
	u.Exact = len(u.Warnings) == 0
	return u, nil
}

// resolveKernel takes the locked kernel where it can be had, for its packages
// carry the version in their name, else what the metapackage brings today.
func resolveKernel(ctx context.Context, a *debs.Archive) ([]debs.Deb, error) {
	if ds := a.LockedFrom(kernelSuite, lock.SetKernel); len(ds) > 0 {
		return ds, nil
	}
	ds, err := a.ResolveFrom(ctx, kernelSuite, kernelRoot)
	if err != nil {
		return nil, err
	}
	out := kernelFiles(ds)
	if len(out) == 0 {
		return nil, fmt.Errorf("%s of %s brings no kernel package", kernelRoot, kernelSuite)
	}
	return out, a.CheckSet(ctx, lock.SetKernel, out)
}

// kernelFiles keeps the packages that hold a kernel's files. The metapackage
// has no digit after the prefix and no files.
func kernelFiles(ds []debs.Deb) []debs.Deb {
	var out []debs.Deb
	for _, d := range ds {
		for _, prefix := range kernelParts {
			if rest, ok := strings.CutPrefix(d.Name, prefix); ok && rest[0] >= '0' && rest[0] <= '9' {
				out = append(out, d)
			}
		}
	}
	return out
}

// moved says, in one line a set, what is used instead of what the package
// lock names.
func moved(l lock.Packages, got map[string][]debs.Deb) []string {
	if len(l.Packages) == 0 {
		return []string{"tools.pin_unavailable: " + packagesLock + " is absent: the archive's newest packages are taken, and measurements follow from them; run: sudo make lock"}
	}
	var out []string
	for _, set := range []string{lock.SetRoot, lock.SetKernel, lock.SetTools} {
		want := make(map[string]string)
		for _, p := range l.Set(set) {
			want[p.Name] = p.Version
		}
		var lines []string
		for _, d := range got[set] {
			v, ok := want[d.Name]
			switch {
			case d.Source == debs.FromPin || d.Source == debs.FromFallback: // tools.lock's
			case !ok:
				lines = append(lines, d.Name+" "+d.Version+" is new")
			case d.Source == debs.FromNewer:
				lines = append(lines, d.Name+" "+v+" is replaced by "+d.Version)
			}
		}
		if len(lines) > 0 {
			out = append(out, fmt.Sprintf("tools.pin_unavailable: %s: %s; measurements are recomputed and differ from those of the lock; to take the new versions for good run: sudo make lock", set, strings.Join(lines, ", ")))
		}
	}
	return out
}

// lockPackages writes image/packages.lock anew from what the archive offers
// today, and says what changed.
func (b *builder) lockPackages(ctx context.Context) error {
	l, err := lock.Load(filepath.Join(b.root, "tools.lock"))
	if err != nil {
		return err
	}
	_, old, err := b.packageLock()
	if err != nil {
		b.say("lock: the present lock cannot be read and is replaced: %v", err)
		old = lock.Packages{}
	}
	a, err := b.openArchive(ctx, l, lock.Packages{}, nil)
	if err != nil {
		return err
	}
	u, err := b.resolve(ctx, a, nil, lock.Packages{})
	if err != nil {
		return err
	}
	next := lock.Packages{Format: lock.PackagesFormat, Release: l.Release}
	for set, ds := range map[string][]debs.Deb{lock.SetTools: u.Tools, lock.SetRoot: u.Root, lock.SetKernel: u.Kernel} {
		for _, d := range ds {
			if d.Source == debs.FromRelease {
				next.Packages = append(next.Packages, lock.Locked{Set: set, Name: d.Name, Version: d.Version, Arch: d.Arch, SHA256: d.SHA256})
			}
		}
	}
	doc, err := next.Encode()
	if err != nil {
		return err
	}
	if _, err := lock.ParsePackages(doc); err != nil {
		return fmt.Errorf("checking the new package lock: %w", err)
	}
	for _, line := range lockChanges(old, next) {
		b.say("lock: %s", line)
	}
	path := filepath.Join(b.root, packagesLock)
	if before, err := os.ReadFile(path); err == nil && bytes.Equal(before, doc) {
		b.say("lock: %s is up to date (%d packages)", packagesLock, len(next.Packages))
		return nil
	}
	b.say("lock: %s now has %d packages; review and commit it, and publish new measurements", packagesLock, len(next.Packages))
	return writeFiles(path, doc)
}

// lockChanges lists what differs between two locks.
func lockChanges(old, next lock.Packages) []string {
	key := func(p lock.Locked) string { return p.Set + "/" + p.Name }
	was := make(map[string]lock.Locked)
	for _, p := range old.Packages {
		was[key(p)] = p
	}
	var out []string
	for _, p := range next.Packages {
		if q, ok := was[key(p)]; ok && q != p {
			out = append(out, fmt.Sprintf("%s %s became %s", key(p), q.Version, p.Version))
		} else if !ok && len(old.Packages) > 0 {
			out = append(out, fmt.Sprintf("%s %s is new", key(p), p.Version))
		}
		delete(was, key(p))
	}
	for k, p := range was {
		out = append(out, k+" "+p.Version+" is gone")
	}
	slices.Sort(out)
	return out
}

// checkInstalled holds what mkosi installed against what was chosen: the lock
// gates the build, and nothing may come in beside it.
func checkInstalled(got []info.Package, chosen []debs.Deb) ([]info.Package, error) {
	have := make(map[string]debs.Deb)
	for _, d := range chosen {
		have[d.Name+"="+d.Version] = d
	}
	out := make([]info.Package, 0, len(got))
	var errs []error
	for _, p := range got {
		d, ok := have[p.Name+"="+p.Version]
		if !ok {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, info.CodePackages, "package "+p.Name+" of the root file system", "a version that was chosen by hash", p.Version,
				"run: sudo make clean image; report it if it stays"))
			continue
		}
		p.Arch, p.SHA256 = d.Arch, d.SHA256
		out = append(out, p)
	}
	return out, errors.Join(errs...)
}

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/image/debs"
	"cocoon/image/info"
	"cocoon/internal/fault"
	"cocoon/measurements/audit"
	"cocoon/measurements/release"
)

// keptDebs is the directory of a release that holds every .deb its build
// used, named by SHA-256: no dated archive is always there.
const keptDebs = release.PackagesDir

// rebuildReport is what a rebuild says of each artefact, below build/.
const rebuildReport = "rebuild.json"

// release collects into build/release what a release is made of: artefacts,
// their descriptions, firmware, locks and all packages, so that anyone can
// build it again. "cocoon release" measures, signs and logs it.
func (b *builder) release(ctx context.Context) error {
	if err := b.image(ctx); err != nil {
		return err
	}
	if err := b.packs(ctx); err != nil {
		return err
	}
	u, err := b.readUsed()
	if err != nil {
		return err
	}
	if u, err = b.resolveProfile(ctx, u); err != nil {
		return err
	}
	dir := b.path("release")
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("preparing %s: %w", dir, err)
	}
	files := map[string][]string{
		release.ImageDir:    under(b.path(b.imageDir()), append(slices.Clone(imageFiles), info.ImageFile)...),
		release.PacksDir:    under(b.path("packs"), "engine.img", "model.img", info.PacksFile),
		release.FirmwareDir: {b.tree().OVMF(), b.tree().SEVOVMF()},
		release.LocksDir:    {filepath.Join(b.root, "tools.lock")},
	}
	if _, err := os.Stat(filepath.Join(b.root, packagesLock)); err == nil {
		files[release.LocksDir] = append(files[release.LocksDir], filepath.Join(b.root, packagesLock))
	}
	for sub, names := range files {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return fmt.Errorf("preparing %s: %w", dir, err)
		}
		for _, from := range names {
			if err := copyFile(from, filepath.Join(dir, sub, filepath.Base(from))); err != nil {
				return err
			}
		}
	}
	// The packages in use are the profile's, which build/ does not record.
	if err := writeUsed(filepath.Join(dir, release.LocksDir), u); err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(dir, keptDebs), 0o755); err != nil {
		return fmt.Errorf("preparing %s: %w", dir, err)
	}
	for _, d := range slices.Concat(u.Tools, u.Engine, u.Kernel, u.Root) {
		if err := copyFile(b.debPath(d), filepath.Join(dir, keptDebs, d.SHA256+".deb")); err != nil {
			return err
		}
	}
	b.say("release: %s", dir)
	return nil
}

func under(dir string, names ...string) []string {
	out := make([]string, len(names))
	for i, n := range names {
		out[i] = filepath.Join(dir, n)
	}
	return out
}

// rebuild builds the image of the release in $RELEASE again, from the
// release's own packages and this repository's sources, and compares.
func (b *builder) rebuild(ctx context.Context) error {
	dir, err := filepath.Abs(os.Getenv("RELEASE"))
	if os.Getenv("RELEASE") == "" || err != nil {
		return fault.New(fault.ExitInternal, "build.usage", "run: sudo make rebuild RELEASE=DIR", "rebuilding: no release directory was given")
	}
	again := *b
	again.kept, again.out = dir, b.path("rebuild")
	again.deps, again.cache = again.out, again.path("cache")
	again.goenv = []string{"GOCACHE=" + again.path("gocache")}
	if err := os.Remove(b.path(rebuildReport)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("preparing the rebuild: %w", err)
	}
	released, err := info.LoadImage(filepath.Join(dir, release.ImageDir))
	if err != nil {
		return fault.New(fault.ExitParse, "build.release", "give the directory that make release wrote", "reading the release: %w", err)
	}
	if released.Name != b.profile.Image {
		return fault.Mismatch(fault.ExitInternal, "build.usage", "image of the release", b.profile.Image, released.Name, "name its profile: make rebuild PROFILE=NAME RELEASE=DIR")
	}
	if err := errors.Join(os.RemoveAll(again.out), os.MkdirAll(again.cache, 0o755)); err != nil {
		return fmt.Errorf("preparing the rebuild: %w", err)
	}
	if err := copyFile(filepath.Join(dir, release.LocksDir, usedFile), filepath.Join(again.deps, usedFile)); err != nil {
		return err
	}
	u, err := again.readUsed()
	if err != nil {
		return err
	}
	var errs []error
	for _, d := range slices.Concat(u.Tools, u.Engine, u.Kernel, u.Root) {
		errs = append(errs, checkDeb(again.debPath(d), d.SHA256))
	}
	for _, p := range released.Packages {
		errs = append(errs, checkDeb(filepath.Join(again.debDir(), p.SHA256+".deb"), p.SHA256))
	}
	if err := errors.Join(errs...); err != nil {
		return fault.New(fault.ExitRefused, "build.release_corrupt", "fetch the release again", "checking the release's packages: %w", err)
	}
	if err := again.makeTree(ctx, u, "release"); err != nil {
		return err
	}
	if err := again.image(ctx); err != nil {
		return err
	}
	rebuilt, err := info.LoadImage(again.path(again.imageDir()))
	if err != nil {
		return err
	}
	differ := info.Compare(released, rebuilt)
	if err := info.Write(b.path(rebuildReport), compared(released, rebuilt, differ)); err != nil {
		return err
	}
	if differ != nil {
		return differ
	}
	b.say("rebuild: every artefact of %s %d is the released one, byte for byte", released.Name, released.Version)
	return os.RemoveAll(again.out)
}

// compared sets the artefacts of two builds side by side, named as a manifest
// names them. Every difference has the causes that are known.
func compared(released, rebuilt info.Image, differ error) []audit.Compared {
	var causes []string
	for _, f := range fault.All(differ) {
		if f.Code != "image.artefact_differs" {
			causes = append(causes, f.Error())
		}
	}
	sums := map[string]string{}
	for _, a := range rebuilt.Artefacts {
		sums[a.File] = a.SHA256
	}
	out := []audit.Compared{}
	for _, a := range released.Artefacts {
		c := audit.Compared{File: release.ImageDir + "/" + a.File, Released: a.SHA256, Rebuilt: sums[a.File]}
		if c.Rebuilt != c.Released {
			c.Because = strings.Join(causes, "; ")
		}
		out = append(out, c)
	}
	return out
}

func checkDeb(path, want string) error {
	a, err := artefact(path)
	if err != nil {
		return err
	}
	if a.SHA256 != want {
		return fmt.Errorf("%s has sha256 %s", path, a.SHA256)
	}
	return nil
}

// serveDebs offers the chosen packages to mkosi's apt as a flat repository on
// the loopback, until stop is called. mkosi sees no other: what is not in the
// list cannot get into the image. It needs no signature: every file is hashed
// here, and the index has those hashes.
func serveDebs(ctx context.Context, dir string, ds []debs.Deb) (sources string, stop func(), err error) {
	var index bytes.Buffer
	for _, d := range ds {
		file := filepath.Join(dir, d.SHA256+".deb")
		if err := checkDeb(file, d.SHA256); err != nil {
			return "", nil, fault.New(fault.ExitRefused, "build.cache_corrupt", "remove the file and run make deps again", "checking a package: %w", err)
		}
		control, err := exec.CommandContext(ctx, "dpkg-deb", "-f", file).Output()
		if err != nil {
			return "", nil, fmt.Errorf("reading %s: %w", file, err)
		}
		st, err := os.Stat(file)
		if err != nil {
			return "", nil, fmt.Errorf("reading a package: %w", err)
		}
		fmt.Fprintf(&index, "%s\nFilename: ./%s.deb\nSize: %d\nSHA256: %s\n\n", bytes.TrimSpace(control), d.SHA256, st.Size(), d.SHA256)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, fmt.Errorf("serving packages: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /Packages", func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "Packages", time.Unix(imageEpoch, 0), bytes.NewReader(index.Bytes()))
	})
	mux.Handle("GET /", http.FileServer(http.Dir(dir)))
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(l)
	text := fmt.Sprintf("Types: deb\nURIs: http://%s/\nSuites: ./\nTrusted: yes\n", l.Addr())
	return text, func() { srv.Close() }, nil
}

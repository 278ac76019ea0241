package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"cocoon/image/debs"
	"cocoon/image/info"
	"cocoon/image/lock"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

// toolRoots are the packages asked for in build/tools; apt adds what they
// depend on. The second line is what a shell and mkosi take for granted.
var toolRoots = []string{
	"qemu-system-x86", "ovmf-generic", "ovmf-amdsev", "swtpm", "swtpm-tools", "mkosi", "erofs-utils", "cryptsetup-bin", "vhost-device-vsock", "virtiofsd", "libfaketime", "systemd-boot-efi", "systemd-ukify", "systemd-repart",
	"base-files", "bash", "ca-certificates", "coreutils", "dash", "diffutils", "findutils", "grep", "gzip", "hostname", "libc-bin", "sed", "util-linux",
}

// engineRoots is what the engine pack is resolved from if a pin is gone.
var engineRoots = []string{"llama.cpp-tools"}

// wrapped are the programs that others call by name.
var wrapped = []string{"swtpm", "swtpm_setup", "swtpm_localca", "swtpm_cert", "swtpm_ioctl", "certtool", "qemu-system-x86_64", "mkfs.erofs", "fsck.erofs", "dump.erofs", "veritysetup"}

// Space that unpacking and downloading take, with room to spare, in bytes.
const (
	treeSpace  = 1_000_000_000
	cacheSpace = 600_000_000
	imageSpace = 1_500_000_000
)

// usedFile records every package in use and how it was chosen.
const usedFile = "tools.used.json"

// used is the content of build/tools.used.json.
type used struct {
	Format   string     `json:"format"`
	Lock     string     `json:"lock_sha256"` // of tools.lock
	Exact    bool       `json:"exact"`       // every pin was available
	Tools    []debs.Deb `json:"tools"`
	Engine   []debs.Deb `json:"engine"`
	Kernel   []debs.Deb `json:"kernel"`
	Root     []debs.Deb `json:"root"`     // what may go into the root file system
	Warnings []string   `json:"warnings"` // tools.pin_unavailable lines
}

const usedFormat = "cocoon-tools-used/3"

// makeDeps makes build/tools, fetches the engine's packages and installs what the
// JavaScript and Go builds need.
func (b *builder) makeDeps(ctx context.Context) error {
	if err := b.hostPackages(ctx); err != nil {
		return err
	}
	if err := b.toolsTree(ctx); err != nil {
		return err
	}
	if err := b.contracts(ctx); err != nil {
		return err
	}
	b.say("deps: Go modules")
	return b.command(ctx, b.root, "go", "mod", "download")
}

// hostPrograms maps the programs that must be on the host to their packages.
var hostPrograms = map[string]string{"dpkg-deb": "dpkg", "apt-get": "apt", "apt-cache": "apt"}

// hostPackages checks the few programs that come from the host itself.
func (b *builder) hostPackages(ctx context.Context) error {
	for prog, pkg := range hostPrograms {
		if _, err := exec.LookPath(prog); err != nil {
			return fault.New(fault.ExitNotReady, "build.not_debian", "build on Debian 12 or newer", "looking for %s of package %s: %w", prog, pkg, err)
		}
	}
	if _, err := os.Stat(debs.DefaultKeyring); err == nil {
		return nil
	}
	b.say("deps: apt-get install debian-archive-keyring")
	return b.command(ctx, b.root, "apt-get", "install", "-y", "-q", "debian-archive-keyring")
}

// toolsTree makes build/tools unless it is already what the lock asks for.
func (b *builder) toolsTree(ctx context.Context) error {
	lockDoc, err := os.ReadFile(filepath.Join(b.root, "tools.lock"))
	if err != nil {
		return fmt.Errorf("reading the lock: %w", err)
	}
	l, err := lock.Parse(lockDoc)
	if err != nil {
		return fault.New(fault.ExitParse, "tools.lock", "restore tools.lock from version control", "reading tools.lock: %w", err)
	}
	packagesDoc, locked, err := b.packageLock()
	if err != nil {
		return err
	}
	roots, err := b.rootPackages()
	if err != nil {
		return err
	}
	sum := sha256.Sum256(slices.Concat(lockDoc, packagesDoc, []byte(usedFormat+strings.Join(slices.Concat(toolRoots, roots), " ")+kernelRoot+kernelSuite)))
	want := hex.EncodeToString(sum[:])
	dir := b.tree().Dir
	if got, err := os.ReadFile(filepath.Join(dir, toolstree.StampFile)); err == nil && string(got) == want {
		if u, err := b.readUsed(); err == nil && b.haveDebs(slices.Concat(u.Engine, u.Kernel, u.Root)) {
			b.say("deps: tools tree is up to date (%s)", dir)
			return nil
		}
	}
	if err := errors.Join(requireSpace(b.out, treeSpace), requireSpace(b.cache, cacheSpace)); err != nil {
		return err
	}
	a, err := b.openArchive(ctx, l, locked, nil)
	if err != nil {
		return err
	}
	u, err := b.resolve(ctx, a, lockDoc, locked)
	if err != nil {
		return err
	}
	all := slices.Concat(u.Tools, u.Engine, u.Kernel, u.Root)
	if err := a.Fetch(ctx, all); err != nil {
		return fault.New(fault.ExitNetwork, "build.fetch", "run make deps again; what arrived is kept", "fetching packages: %w", err)
	}
	if err := a.Verify(all); err != nil {
		return fault.New(fault.ExitRefused, "build.cache_corrupt", "run make deps again", "checking the package cache: %w", err)
	}
	return b.makeTree(ctx, u, want)
}

// openArchive brings the package lists of all suites in use up to date; extra
// are sources of further archives, components those of the release beside main.
func (b *builder) openArchive(ctx context.Context, l lock.Lock, locked lock.Packages, extra map[string]string, components ...string) (*debs.Archive, error) {
	mirror, err := debs.MachineMirror(ctx)
	if err != nil {
		b.say("deps: apt-get update")
		if err := b.command(ctx, b.root, "apt-get", "update", "-q"); err != nil {
			return nil, fault.New(fault.ExitNetwork, "build.apt", "check the machine's apt sources", "updating the machine's package lists: %w", err)
		}
		if mirror, err = debs.MachineMirror(ctx); err != nil {
			return nil, fault.New(fault.ExitNotReady, "build.apt", "check the machine's apt sources", "finding the Debian mirror: %w", err)
		}
	}
	proxies, err := debs.MachineProxies(ctx)
	if err != nil {
		return nil, err
	}
	b.say("deps: reading package lists of %s and %s", l.Release, strings.Join(l.Suites(), ", "))
	a, err := debs.Open(ctx, debs.Options{Dir: filepath.Join(b.cache, "apt"), Cache: b.debDir(), Mirror: mirror, Proxies: proxies, Lock: l, Locked: locked, Extra: extra, Components: components, Log: os.Stdout})
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "build.apt", "check the network and the machine's apt sources", "opening the Debian archive: %w", err)
	}
	return a, nil
}

// makeTree unpacks the tools into place and records what they are.
func (b *builder) makeTree(ctx context.Context, u used, stamp string) error {
	dir := b.tree().Dir
	b.say("deps: unpacking %d packages into %s", len(u.Tools), dir)
	tmp, old := dir+".new", dir+".old"
	if err := errors.Join(os.RemoveAll(tmp), os.RemoveAll(old)); err != nil {
		return fmt.Errorf("clearing the tools tree: %w", err)
	}
	if err := debs.Unpack(ctx, b.debDir(), u.Tools, tmp); err != nil {
		return err
	}
	if err := finishTree(tmp, dir); err != nil {
		return err
	}
	if err := writeUsed(b.deps, u); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(tmp, toolstree.StampFile), []byte(stamp), 0o644); err != nil {
		return fmt.Errorf("stamping the tools tree: %w", err)
	}
	if err := os.Rename(dir, old); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("placing the tools tree: %w", err)
	}
	if err := os.Rename(tmp, dir); err != nil {
		return fmt.Errorf("placing the tools tree: %w", err)
	}
	if err := os.RemoveAll(old); err != nil {
		return fmt.Errorf("removing the old tools tree: %w", err)
	}
	return nil
}

// resolveFault says what can be done about packages that cannot be had.
func resolveFault(what string, err error) error {
	if errors.Is(err, debs.ErrBelowFloor) {
		return fault.New(fault.ExitNotReady, "tools.below_floor", "point COCOON_CACHE to a cache that still has the pinned package, or review a lower floor in tools.lock",
			"resolving the %s: %w", what, err)
	}
	return fault.New(fault.ExitNotReady, "build.resolve", "check that the machine's mirror is complete, then run it again", "resolving the %s: %w", what, err)
}

func (b *builder) haveDebs(ds []debs.Deb) bool {
	for _, d := range ds {
		if _, err := os.Stat(b.debPath(d)); err != nil {
			return false
		}
	}
	return len(ds) > 0
}

// debDir holds the .deb files, named by SHA-256.
func (b *builder) debDir() string {
	if b.kept != "" {
		return filepath.Join(b.kept, keptDebs)
	}
	return filepath.Join(b.cache, "debs")
}

// foreign lists what is in use from outside the stable release.
func (u used) foreign() []info.Package {
	var out []debs.Deb
	for _, d := range slices.Concat(u.Tools, u.Engine) {
		if d.Source == debs.FromPin || d.Source == debs.FromFallback {
			out = append(out, d)
		}
	}
	return packages(out)
}

func (b *builder) debPath(d debs.Deb) string {
	return filepath.Join(b.debDir(), d.SHA256+".deb")
}

func writeUsed(dir string, u used) error {
	doc, err := json.MarshalIndent(u, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", usedFile, err)
	}
	if err := os.WriteFile(filepath.Join(dir, usedFile), append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing %s: %w", usedFile, err)
	}
	return nil
}

func (b *builder) readUsed() (used, error) {
	var u used
	doc, err := os.ReadFile(filepath.Join(b.deps, usedFile))
	if err != nil {
		return used{}, fmt.Errorf("reading %s: %w", usedFile, err)
	}
	if err := json.Unmarshal(doc, &u); err != nil {
		return used{}, fmt.Errorf("decoding %s: %w", usedFile, err)
	}
	if u.Format != usedFormat {
		return used{}, fmt.Errorf("%s has format %q, want %q", usedFile, u.Format, usedFormat)
	}
	return u, nil
}

// finishTree does the little that maintainer scripts would have done, and
// writes the wrappers for the tree's final place.
func finishTree(tmp, final string) error {
	files := map[string]string{
		"etc/passwd":      "root:x:0:0:root:/root:/bin/sh\n_apt:x:42:65534::/nonexistent:/usr/sbin/nologin\nnobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin\n",
		"etc/group":       "root:x:0:\ntty:x:5:\nnogroup:x:65534:\n",
		"etc/hosts":       "127.0.0.1 localhost\n",
		"etc/resolv.conf": "",
	}
	// Mount points of the sandbox, which has no place to make them later.
	for _, d := range []string{"src", "build", "cache"} {
		if err := os.MkdirAll(filepath.Join(tmp, d), 0o755); err != nil {
			return fmt.Errorf("finishing the tools tree: %w", err)
		}
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(tmp, name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("finishing the tools tree: %w", err)
		}
	}
	links := map[string]string{"usr/bin/awk": "mawk"}
	for name, target := range links {
		p := filepath.Join(tmp, name)
		if _, err := os.Lstat(p); errors.Is(err, fs.ErrNotExist) {
			if err := os.Symlink(target, p); err != nil {
				return fmt.Errorf("finishing the tools tree: %w", err)
			}
		}
	}
	if err := bundleCertificates(tmp); err != nil {
		return err
	}
	return writeWrappers(tmp, final)
}

// bundleCertificates concatenates the CA certificates for mirrors on https.
func bundleCertificates(tree string) error {
	certs, err := filepath.Glob(filepath.Join(tree, "usr/share/ca-certificates/mozilla/*.crt"))
	if err != nil {
		return fmt.Errorf("bundling certificates: %w", err)
	}
	var all []byte
	for _, c := range certs {
		pem, err := os.ReadFile(c)
		if err != nil {
			return fmt.Errorf("bundling certificates: %w", err)
		}
		all = append(all, pem...)
	}
	dir := filepath.Join(tree, "etc/ssl/certs")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("bundling certificates: %w", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca-certificates.crt"), all, 0o644); err != nil {
		return fmt.Errorf("bundling certificates: %w", err)
	}
	return nil
}

func writeWrappers(tmp, final string) error {
	at, to := toolstree.Tree{Dir: tmp}, toolstree.Tree{Dir: final}
	if err := os.MkdirAll(at.WrapperDir(), 0o755); err != nil {
		return fmt.Errorf("writing wrappers: %w", err)
	}
	for _, name := range wrapped {
		path, err := at.Path(name)
		if err != nil {
			return fmt.Errorf("writing wrappers: %w", err)
		}
		rel, err := filepath.Rel(tmp, path)
		if err != nil {
			return fmt.Errorf("writing wrappers: %w", err)
		}
		argv := to.LoaderArgs(filepath.Join(final, rel))
		for i, a := range argv {
			argv[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		script := "#!/bin/sh\nexec " + strings.Join(argv, " ") + ` "$@"` + "\n"
		if err := os.WriteFile(filepath.Join(at.WrapperDir(), name), []byte(script), 0o755); err != nil {
			return fmt.Errorf("writing wrappers: %w", err)
		}
	}
	return nil
}

// contracts installs the contract compiler and extracts the TVM from it.
func (b *builder) contracts(ctx context.Context) error {
	dir := filepath.Join(b.root, "contracts")
	lockFile := filepath.Join(dir, "package-lock.json")
	doc, err := os.ReadFile(lockFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("reading %s: %w", lockFile, err)
	}
	script := filepath.Join(dir, "scripts", "extract-tvm.mjs")
	if s, err := os.ReadFile(script); err == nil {
		doc = append(doc, s...)
	}
	sum := sha256.Sum256(doc)
	stamp := filepath.Join(dir, "node_modules", ".cocoon-deps")
	if got, err := os.ReadFile(stamp); err == nil && string(got) == hex.EncodeToString(sum[:]) {
		if _, err := os.Stat(b.path("tvm")); err == nil {
			b.say("deps: npm packages are up to date")
			return nil
		}
	}
	b.say("deps: npm ci in contracts/")
	if err := b.command(ctx, dir, "npm", "ci", "--no-audit", "--no-fund", "--cache", filepath.Join(b.cache, "npm")); err != nil {
		return fault.New(fault.ExitNetwork, "build.npm", "check that node and npm are installed and the npm registry is reachable", "installing npm packages: %w", err)
	}
	if _, err := os.Stat(script); err == nil {
		if err := b.command(ctx, b.root, "node", script); err != nil {
			return fault.New(fault.ExitNotReady, "build.tvm", "see the message above", "extracting the TVM: %w", err)
		}
	}
	if err := os.WriteFile(stamp, []byte(hex.EncodeToString(sum[:])), 0o644); err != nil {
		return fmt.Errorf("stamping the npm packages: %w", err)
	}
	return nil
}

// command runs a host program with its output shown.
func (b *builder) command(ctx context.Context, dir, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("running %s: %w", name, err)
	}
	return nil
}

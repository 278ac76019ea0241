package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"sort"
	"strings"
	"time"

	"cocoon/image/debs"
	"cocoon/image/info"
	"cocoon/image/uki"
	"cocoon/internal/bootargs"
	"cocoon/internal/fault"
	"cocoon/internal/kmod"
	"cocoon/internal/toolstree"
	"cocoon/measurements/verity"
)

// The version grows with every release; a verifier refuses to go back. The
// image's name is the profile's.
const (
	imageVersion = 1
	imageEpoch   = 1767225600 // SourceDateEpoch of mkosi.conf
)

// supervisorPkg is process 1 of the root file system.
const supervisorPkg = "./cmd/cocoon-enclave"

// image makes build/image unless its inputs are unchanged.
func (b *builder) image(ctx context.Context) error {
	u, err := b.tools(ctx)
	if err != nil {
		return err
	}
	dir := b.path(b.imageDir())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("creating %s: %w", dir, err)
	}
	extra := b.path("mkosi", "extra", "usr", "bin")
	if err := os.MkdirAll(extra, 0o755); err != nil {
		return fmt.Errorf("creating %s: %w", extra, err)
	}
	b.say("image: compiling supervisor and init")
	enclave, err := b.goBuild(ctx, supervisorPkg, filepath.Join(extra, "cocoon-enclave"), b.profile.Tags...)
	if err != nil {
		return err
	}
	nvml, err := b.nvml(ctx, filepath.Join(extra, "cocoon-nvml"))
	if err != nil {
		return err
	}
	init, err := b.goBuild(ctx, "./image/initrd", b.path("mkosi", "init"))
	if err != nil {
		return err
	}
	if b.tamper {
		if enclave, init, err = b.tamperWith(enclave, init); err != nil {
			return err
		}
	}
	if u, err = b.resolveProfile(ctx, u); err != nil {
		return err
	}
	inputs, err := b.inputs(u, enclave, init, nvml, []byte(b.profile.Name))
	if err != nil {
		return err
	}
	stamp := filepath.Join(dir, ".inputs")
	if got, err := os.ReadFile(stamp); err == nil && string(got) == inputs && b.complete(dir) {
		b.say("image: up to date (%s)", dir)
		return nil
	}
	os.Remove(stamp)
	k, err := b.unpackKernel(ctx, u)
	if err != nil {
		return err
	}
	if err := copyFile(k.vmlinuz, filepath.Join(dir, info.Kernel)); err != nil {
		return err
	}
	if err := b.initrd(ctx, k, init, filepath.Join(dir, info.Initrd)); err != nil {
		return err
	}
	if err := b.installModules(ctx, k, b.path("mkosi", "extra", kmod.Dir)); err != nil {
		return err
	}
	pkgs, err := b.runMkosi(ctx, u)
	if err != nil {
		return err
	}
	im := info.Image{
		Format: info.ImageFormat, Name: b.profile.Image, Debug: b.profile.Debug, Version: imageVersion, Epoch: imageEpoch,
		Go: runtime.Version(), KernelName: k.release, ToolsExact: u.Exact, PinsReplaced: u.Warnings,
		Packages: append(pkgs, packages(u.Kernel)...), ToolsUsed: u.foreign(),
	}
	if err := b.rootDisk(dir, &im); err != nil {
		return err
	}
	if err := b.unifiedImage(dir, im); err != nil {
		return err
	}
	if im.Artefacts, err = artefacts(dir, imageFiles...); err != nil {
		return err
	}
	if err := info.Write(filepath.Join(dir, info.ImageFile), im); err != nil {
		return err
	}
	for _, a := range im.Artefacts {
		b.say("image: %-9s %10d bytes  sha256 %s", a.File, a.Size, a.SHA256)
	}
	b.say("image: verity root %s", im.Root.Root)
	if b.profile.Name == defaultProfile {
		if err := info.CheckSizes(im); err != nil {
			return err
		}
	}
	if err := os.WriteFile(stamp, []byte(inputs), 0o644); err != nil {
		return fmt.Errorf("stamping the image: %w", err)
	}
	return nil
}

// nvml compiles the program that loads NVIDIA's libraries, for the profiles
// that keep it. In the others nothing of an earlier build is left.
func (b *builder) nvml(ctx context.Context, dest string) ([]byte, error) {
	if !slices.Contains(b.profile.Keep, "usr/bin/cocoon-nvml") {
		if err := os.RemoveAll(dest); err != nil {
			return nil, fmt.Errorf("removing %s: %w", dest, err)
		}
		return nil, nil
	}
	return b.goBuild(ctx, "./cmd/cocoon-nvml", dest)
}

// imageFiles are the artefacts of an image, in the order of image.json.
var imageFiles = []string{info.Cmdline, info.Initrd, info.RootDisk, info.UKI, info.Kernel}

// unifiedImage writes the second form of the same boot: kernel, initrd and
// command line as one EFI application behind the tools tree's systemd-stub.
func (b *builder) unifiedImage(dir string, im info.Image) error {
	stub, err := os.ReadFile(filepath.Join(b.tree().Dir, stubPath))
	if err != nil {
		return fault.New(fault.ExitNotReady, "tools.program", "run: sudo make deps", "reading the EFI stub: %w", err)
	}
	kernel, err := os.ReadFile(filepath.Join(dir, info.Kernel))
	if err != nil {
		return fmt.Errorf("reading the kernel: %w", err)
	}
	initrd, err := os.ReadFile(filepath.Join(dir, info.Initrd))
	if err != nil {
		return fmt.Errorf("reading the initrd: %w", err)
	}
	out, err := uki.Assemble(stub, uki.Contents{
		Cmdline: im.Cmdline, Uname: im.KernelName, Initrd: initrd, Kernel: kernel,
	})
	if err != nil {
		return fault.New(fault.ExitInternal, "build.uki", "report this with the version of systemd-boot-efi in build/tools.used.json", "%w", err)
	}
	return writeFiles(filepath.Join(dir, info.UKI), out)
}

// stubPath is systemd's UEFI stub in the tools tree.
const stubPath = "usr/lib/systemd/boot/efi/linuxx64.efi.stub"

// tools makes sure that the tools tree is what the lock asks for.
func (b *builder) tools(ctx context.Context) (used, error) {
	if b.kept == "" {
		if err := b.toolsTree(ctx); err != nil {
			return used{}, err
		}
	}
	u, err := b.readUsed()
	if err != nil {
		return used{}, fault.New(fault.ExitNotReady, "tools.missing", "run: sudo make deps", "reading the list of tools: %w", err)
	}
	for _, w := range u.Warnings {
		b.say("%s", w)
	}
	return u, nil
}

// inputs hashes all that the image is made from: programs, packages, and the
// files of the repository that say how.
func (b *builder) inputs(u used, bins ...[]byte) (string, error) {
	h := sha256.New()
	for _, bin := range bins {
		s := sha256.Sum256(bin)
		h.Write(s[:])
	}
	doc, err := json.Marshal(u)
	if err != nil {
		return "", fmt.Errorf("hashing the inputs: %w", err)
	}
	h.Write(doc)
	for _, top := range []string{"mkosi.conf", "mkosi.finalize", "mkosi.repart", "image/build", "image/cpio", "image/modules", "image/packs", "image/models", "image/profiles", "image/uki", "internal/erofs", "internal/kmod", "measurements/modelpack", "measurements/verity"} {
		err := filepath.WalkDir(filepath.Join(b.root, top), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() || strings.HasSuffix(path, "_test.go") {
				return err
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			s := sha256.Sum256(data)
			fmt.Fprintf(h, "%s %x\n", path[len(b.root):], s)
			return nil
		})
		if err != nil {
			return "", fmt.Errorf("hashing the inputs: %w", err)
		}
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// complete reports whether every artefact that image.json names is there
// with its size.
func (b *builder) complete(dir string) bool {
	im, err := info.LoadImage(dir)
	if err != nil {
		return false
	}
	for _, a := range im.Artefacts {
		if st, err := os.Stat(filepath.Join(dir, a.File)); err != nil || st.Size() != a.Size {
			return false
		}
	}
	return len(im.Artefacts) > 0
}

// mkosiDir is where mkosi works; logs stay there.
func (b *builder) mkosiDir(elem ...string) string {
	return b.path(append([]string{"mkosi"}, elem...)...)
}

// runMkosi builds the root file system inside the tools tree and returns the
// packages in it with the hashes of their .deb files.
func (b *builder) runMkosi(ctx context.Context, u used) ([]info.Package, error) {
	if b.lent {
		return installed(b.mkosiDir("out", rootManifest), u)
	}
	if err := requireSpace(b.out, imageSpace); err != nil {
		return nil, err
	}
	sources, stop, err := serveDebs(ctx, b.debDir(), u.Root)
	if err != nil {
		return nil, err
	}
	defer stop()
	// mkosi keeps an installed root of its own between builds; it must not
	// outlive a change of packages.
	cache := "/build/cache/" + debsHash(u.Root)[:16]
	apt := b.mkosiDir("sandbox", "etc", "apt")
	for _, d := range []string{filepath.Join(apt, "sources.list.d"), filepath.Join(apt, "apt.conf.d"), b.mkosiDir("out"), b.mkosiDir("work"), b.mkosiDir(cache[len("/build/"):]), b.mkosiDir("debs")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("preparing mkosi: %w", err)
		}
	}
	for path, text := range map[string]string{
		filepath.Join(apt, "sources.list.d", "mkosi.sources"): sources,
		filepath.Join(apt, "apt.conf.d", "90loopback"):        "Acquire::http::Proxy \"DIRECT\";\n",
	} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			return nil, fmt.Errorf("preparing mkosi: %w", err)
		}
	}
	logPath := b.mkosiDir("mkosi.log")
	log, err := os.Create(logPath)
	if err != nil {
		return nil, fmt.Errorf("preparing mkosi: %w", err)
	}
	defer log.Close()
	b.say("image: mkosi builds the root file system (log: %s)", logPath)
	start := time.Now()
	args := []string{"--directory=/src", "--force", "--incremental=yes",
		"--sandbox-tree=/build/sandbox", "--extra-tree=/build/extra", "--output-directory=/build/out",
		"--environment=COCOON_KEEP=" + strings.Join(b.profile.Keep, " "), "--workspace-directory=/build/work", "--cache-directory=" + cache, "--package-cache-dir=/cache"}
	for _, k := range b.profile.Packages {
		args = append(args, "--package="+k.Name)
	}
	binds := []bind{
		{from: b.root, to: "/src", readOnly: true},
		{from: b.mkosiDir(), to: "/build"},
		{from: b.mkosiDir("debs"), to: "/cache"},
	}
	if b.again {
		clock, err := b.clockBind()
		if err != nil {
			return nil, err
		}
		binds = append(binds, clock)
	}
	cmd := b.sandbox(ctx, binds, "/usr/bin/mkosi", append(args, "build")...)
	cmd.Stdout, cmd.Stderr = log, log
	if err := cmd.Run(); err != nil {
		return nil, fault.New(fault.ExitInternal, "build.mkosi", "see "+logPath, "running mkosi: %w\n%s", err, lastLines(logPath, 15))
	}
	b.say("image: mkosi took %.1f s", time.Since(start).Seconds())
	if b.again {
		if err := b.requireClock(logPath); err != nil {
			return nil, err
		}
	}
	return installed(b.mkosiDir("out", rootManifest), u)
}

// What mkosi writes.
const (
	rootPartition = "root.root-x86-64.raw"
	hashPartition = "root.root-x86-64-verity.raw"
	rootManifest  = "root.manifest"
)

// installed returns the packages in the root file system, with their hashes.
func installed(manifest string, u used) ([]info.Package, error) {
	got, err := readManifest(manifest)
	if err != nil {
		return nil, err
	}
	return checkInstalled(got, u.Root)
}

// tamperWith changes one byte of what goes into the root file system and one
// of what goes into the initrd.
func (b *builder) tamperWith(enclave, init []byte) ([]byte, []byte, error) {
	b.say("reproduce: %s=1: one byte is added to /usr/bin/cocoon-enclave in the root file system and to /init in the initrd", envTamper)
	enclave, init = append(enclave, 0), append(init, 0)
	return enclave, init, errors.Join(
		os.WriteFile(b.path("mkosi", "extra", "usr", "bin", "cocoon-enclave"), enclave, 0o755),
		os.WriteFile(b.path("mkosi", "init"), init, 0o755))
}

// readManifest reads mkosi's list of the packages that it installed.
func readManifest(path string) ([]info.Package, error) {
	doc, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading mkosi's manifest: %w", err)
	}
	var m struct {
		Packages []struct {
			Name         string `json:"name"`
			Version      string `json:"version"`
			Architecture string `json:"architecture"`
		} `json:"packages"`
	}
	if err := json.Unmarshal(doc, &m); err != nil {
		return nil, fmt.Errorf("decoding mkosi's manifest: %w", err)
	}
	var out []info.Package
	for _, p := range m.Packages {
		out = append(out, info.Package{Name: p.Name, Version: p.Version, Arch: p.Architecture})
	}
	if len(out) == 0 {
		return nil, errors.New("mkosi's manifest lists no packages")
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Name < out[j].Name })
	return out, nil
}

// debsHash names a list of packages by their hashes.
func debsHash(ds []debs.Deb) string {
	h := sha256.New()
	for _, d := range ds {
		io.WriteString(h, d.SHA256+"\n")
	}
	return hex.EncodeToString(h.Sum(nil))
}

// rootDisk joins mkosi's root partition and a hash tree of our own into one
// disk, and requires the tree to be, byte for byte, the one that
// systemd-repart wrote: two implementations must agree on what is measured.
func (b *builder) rootDisk(dir string, im *info.Image) error {
	data, err := os.ReadFile(b.mkosiDir("out", rootPartition))
	if err != nil {
		return fmt.Errorf("reading the root file system: %w", err)
	}
	hashes, err := os.ReadFile(b.mkosiDir("out", hashPartition))
	if err != nil {
		return fmt.Errorf("reading the hash partition: %w", err)
	}
	sb, err := verity.ParseSuperblock(hashes)
	if err != nil {
		return fmt.Errorf("reading the hash partition: %w", err)
	}
	if sb.DataBlocks*verity.BlockSize > uint64(len(data)) {
		return fmt.Errorf("root partition has %d bytes, its superblock says %d blocks", len(data), sb.DataBlocks)
	}
	data = data[:sb.DataBlocks*verity.BlockSize]
	tree, root, err := verity.Build(bytes.NewReader(data), sb.DataBlocks, sb.Salt)
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(hashes[verity.BlockSize:], tree) {
		return fault.New(fault.ExitInternal, "build.verity_disagree", "report this with the version of systemd-repart",
			"comparing hash trees: systemd-repart's differs from ours")
	}
	disk := filepath.Join(dir, info.RootDisk)
	if err := writeFiles(disk, data, tree); err != nil {
		return err
	}
	args := bootargs.Root{Hash: root, Salt: sb.Salt, Blocks: sb.DataBlocks, Debug: im.Debug}
	im.Cmdline = args.String()
	im.Root = info.Verity{Root: hex.EncodeToString(root[:]), Salt: hex.EncodeToString(sb.Salt), DataBlocks: sb.DataBlocks}
	return writeFiles(filepath.Join(dir, info.Cmdline), []byte(im.Cmdline))
}

func lastLines(path string, n int) string {
	doc, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimRight(string(doc), "\n"), "\n")
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

// tree is the tools tree that make deps left.
func (b *builder) tree() toolstree.Tree { return toolstree.Tree{Dir: filepath.Join(b.deps, "tools")} }

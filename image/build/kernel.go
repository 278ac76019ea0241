package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"

	"cocoon/image/cpio"
	"cocoon/image/debs"
	"cocoon/image/modules"
	"cocoon/internal/kmod"
)

// kernelRoot is the metapackage of the kernel flavour for cpu images. The
// stable release's kernel extends no RTMR (Linux has the interface since 6.16),
// so it comes from the backports.
const (
	kernelRoot  = "linux-image-cloud-amd64"
	kernelSuite = "trixie-backports"
)

// kernelParts are the packages that hold a kernel's files; newer releases
// split them.
var kernelParts = []string{"linux-image-", "linux-modules-", "linux-binary-", "linux-base-"}

// rootModules make the root file system reachable; the boot stops if one does
// not load. They are in the initrd.
var rootModules = []string{"virtio_pci", "virtio_blk", "dm_mod", "dm_verity", "erofs"}

// supervisorModules are in the root file system, from which the supervisor
// loads them: a list for every machine, and one for each thing that not every
// machine has, since the kernel checks a signature for each. They may find no
// hardware, but they must exist, under one of the names that kernels gave them.
var supervisorModules = map[string][]string{
	kmod.Base: {
		"virtio_net", "virtio_console", "virtio_rng",
		"tpm_crb", "tpm_tis", "qemu_fw_cfg", "overlay", "configfs", "button", "evdev",
		"nf_tables", "nft_ct",
		"tsm_report|tsm", "tdx_guest", "sev_guest",
		"softdog",
	},
	kmod.Vsock:   {"vmw_vsock_virtio_transport"},
	kmod.Ciphers: {"dm_crypt", "dm_integrity", "authenc", "xts", "ecb", "aesni_intel"},
}

// moduleArgs are the arguments of modules that take some. The watchdog panics,
// which leaves a line on the console, and cannot be stopped once it runs.
var moduleArgs = map[string]string{"softdog": "soft_panic=1 nowayout=1"}

// kernel is an unpacked kernel package.
type kernel struct {
	release string // uname -r
	vmlinuz string // path
	modDir  string // .../lib/modules/RELEASE
}

// unpackKernel extracts the kernel's packages and indexes its modules.
func (b *builder) unpackKernel(ctx context.Context, u used) (kernel, error) {
	dir := b.path("kernel")
	stamp := filepath.Join(dir, ".stamp")
	var want strings.Builder
	for _, d := range u.Kernel {
		want.WriteString(d.SHA256 + "\n")
	}
	if got, err := os.ReadFile(stamp); err != nil || string(got) != want.String() {
		if err := os.RemoveAll(dir); err != nil {
			return kernel{}, fmt.Errorf("clearing the kernel: %w", err)
		}
		if err := debs.Unpack(ctx, b.debDir(), u.Kernel, dir); err != nil {
			return kernel{}, err
		}
	}
	k, err := findKernel(dir)
	if err != nil {
		return kernel{}, err
	}
	k.modDir = filepath.Join(dir, "usr/lib/modules", k.release)
	if _, err := os.Stat(k.modDir); errors.Is(err, os.ErrNotExist) {
		k.modDir = filepath.Join(dir, "lib/modules", k.release)
	}
	base := strings.TrimSuffix(k.modDir, "/lib/modules/"+k.release)
	if out, err := b.tree().Command(ctx, "depmod", "-b", base, k.release).CombinedOutput(); err != nil {
		return kernel{}, fmt.Errorf("indexing kernel modules: %w\n%s", err, out)
	}
	if err := os.WriteFile(stamp, []byte(want.String()), 0o644); err != nil {
		return kernel{}, fmt.Errorf("stamping the kernel: %w", err)
	}
	return k, nil
}

// findKernel looks where Debian has its kernels: boot/vmlinuz-RELEASE, or
// beside the modules since 7.0.
func findKernel(dir string) (kernel, error) {
	var all []kernel
	for _, pattern := range []string{"boot/vmlinuz-*", "usr/lib/modules/*/vmlinuz"} {
		found, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil {
			return kernel{}, fmt.Errorf("looking for the kernel: %w", err)
		}
		for _, f := range found {
			release, ok := strings.CutPrefix(filepath.Base(f), "vmlinuz-")
			if !ok {
				release = filepath.Base(filepath.Dir(f))
			}
			all = append(all, kernel{vmlinuz: f, release: release})
		}
	}
	if len(all) != 1 {
		return kernel{}, fmt.Errorf("looking for the kernel in %s: found %d", dir, len(all))
	}
	return all[0], nil
}

// initrd writes the initramfs: the init program, the kernel's console node,
// mount points and the modules that lead to the root file system.
func (b *builder) initrd(ctx context.Context, k kernel, init []byte, dest string) error {
	a := cpio.New()
	add := []error{
		a.Dir("proc", 0o555), a.Dir("sys", 0o555), a.Dir("dev", 0o755), a.Dir("root", 0o700),
		a.Char("dev/console", 0o600, 5, 1),
		a.File("init", 0o755, init),
	}
	if err := errors.Join(add...); err != nil {
		return fmt.Errorf("filling the initrd: %w", err)
	}
	x, err := k.index()
	if err != nil {
		return err
	}
	required, err := x.Order(rootModules)
	if err != nil {
		return fmt.Errorf("ordering modules: %w", err)
	}
	var list strings.Builder
	for _, file := range required {
		m, data, err := b.module(ctx, k, file)
		if err != nil {
			return err
		}
		list.WriteString(m.Line())
		if err := a.File("modules/"+m.File, 0o400, data); err != nil {
			return fmt.Errorf("filling the initrd: %w", err)
		}
	}
	if err := a.File("modules/"+kmod.Root, 0o400, []byte(list.String())); err != nil {
		return fmt.Errorf("filling the initrd: %w", err)
	}
	f, err := os.Create(dest)
	if err != nil {
		return fmt.Errorf("writing the initrd: %w", err)
	}
	defer f.Close()
	// One encoder thread, and no checksum the kernel would not look at: the
	// bytes depend on the library's version alone, which go.sum pins.
	z, err := zstd.NewWriter(f, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(1<<22))
	if err != nil {
		return fmt.Errorf("compressing the initrd: %w", err)
	}
	if _, err := a.WriteTo(z); err != nil {
		return fmt.Errorf("writing the initrd: %w", err)
	}
	if err := z.Close(); err != nil {
		return fmt.Errorf("compressing the initrd: %w", err)
	}
	return f.Close()
}

// index reads which modules the kernel has and what each needs.
func (k kernel) index() (*modules.Index, error) {
	dep, err := os.ReadFile(filepath.Join(k.modDir, "modules.dep"))
	if err != nil {
		return nil, fmt.Errorf("reading modules.dep: %w", err)
	}
	builtin, err := os.ReadFile(filepath.Join(k.modDir, "modules.builtin"))
	if err != nil {
		return nil, fmt.Errorf("reading modules.builtin: %w", err)
	}
	x, err := modules.Parse(string(dep), string(builtin))
	if err != nil {
		return nil, fmt.Errorf("reading the module index: %w", err)
	}
	return x, nil
}

// module returns a module's line in a list, and its bytes.
func (b *builder) module(ctx context.Context, k kernel, file string) (kmod.Module, []byte, error) {
	data, err := b.readModule(ctx, filepath.Join(k.modDir, file))
	name := modules.Name(file)
	return kmod.Module{File: name + ".ko", Args: moduleArgs[name]}, data, err
}

// installModules writes the supervisor's modules and their lists to dir, which
// becomes kmod.Dir of the root file system.
func (b *builder) installModules(ctx context.Context, k kernel, dir string) error {
	x, err := k.index()
	if err != nil {
		return err
	}
	loaded, err := x.Order(rootModules) // by the initrd
	if err != nil {
		return fmt.Errorf("ordering modules: %w", err)
	}
	if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
		return fmt.Errorf("clearing the modules: %w", err)
	}
	for name, want := range supervisorModules {
		files, err := x.Order(want)
		if err != nil {
			return fmt.Errorf("ordering modules: %w", err)
		}
		var list strings.Builder
		for _, file := range files {
			if slices.Contains(loaded, file) {
				continue
			}
			m, data, err := b.module(ctx, k, file)
			if err != nil {
				return err
			}
			m.Optional = true
			list.WriteString(m.Line())
			if err := os.WriteFile(filepath.Join(dir, m.File), data, 0o644); err != nil {
				return fmt.Errorf("writing a kernel module: %w", err)
			}
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(list.String()), 0o644); err != nil {
			return fmt.Errorf("writing a list of modules: %w", err)
		}
	}
	return nil
}

// readModule returns a module's bytes, uncompressed.
func (b *builder) readModule(ctx context.Context, path string) ([]byte, error) {
	if !strings.HasSuffix(path, ".xz") {
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, fmt.Errorf("reading a kernel module: %w", err)
		}
		return data, nil
	}
	cmd := b.tree().Command(ctx, "xz", "-dc", path)
	data, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("unpacking kernel module %s: %w", filepath.Base(path), err)
	}
	return data, nil
}

// goBuild compiles a static, reproducible program: no cgo, no paths, no build
// identifiers, no version-control stamp, the base instruction set.
func (b *builder) goBuild(ctx context.Context, pkg, dest string, tags ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w -buildid=", "-tags="+strings.Join(tags, ","), "-o", dest, pkg)
	cmd.Dir = b.root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64", "GOAMD64=v1", "GOFLAGS=-mod=readonly", "GOEXPERIMENT=", "GOTOOLCHAIN=local")
	cmd.Env = append(cmd.Env, b.goenv...)
	if b.again { // as another user, who owns the same files
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: secondUser, HostID: 0, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: secondUser, HostID: 0, Size: 1}},
		}
	}
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Run(); err != nil {
		return nil, fmt.Errorf("compiling %s: %w", pkg, err)
	}
	bin, err := os.ReadFile(dest)
	if err != nil {
		return nil, fmt.Errorf("compiling %s: %w", pkg, err)
	}
	return bin, nil
}

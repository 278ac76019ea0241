// Package toolstree finds and runs the programs of build/tools: QEMU, the
// software TPM, firmware and file-system tools unpacked from pinned Debian
// packages by "make deps".
//
// The programs run on the host without chroot and without privileges, through
// the tree's own dynamic loader, so that every machine runs the same bytes
// whatever its distribution is.
package toolstree

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"cocoon/internal/fault"
)

// EnvDir names the variable that overrides where the tree is.
const EnvDir = "COCOON_TOOLS"

// StampFile, in the tree's root, is written last by "make deps"; a tree
// without it is not complete.
const StampFile = ".cocoon-tools"

// Paths inside the tree.
const (
	loader    = "usr/lib64/ld-linux-x86-64.so.2"
	moduleDir = "usr/lib/x86_64-linux-gnu/qemu"
)

// libDirs are searched for shared libraries, in this order; programs with
// private libraries name them by absolute path, which only the tree has.
var libDirs = []string{
	"usr/lib/x86_64-linux-gnu",
	"usr/lib/x86_64-linux-gnu/swtpm",
	"usr/lib/x86_64-linux-gnu/systemd",
	"usr/lib64",
}

// dataDirs hold QEMU's firmware files and option ROMs.
var dataDirs = []string{"usr/share/qemu", "usr/share/seabios", "usr/lib/ipxe/qemu"}

// ErrNoProgram reports a program that the tree does not hold.
var ErrNoProgram = errors.New("no such program in the tools tree")

// Tree is a complete tools tree.
type Tree struct {
	Dir string // absolute
}

// At returns the tree at dir; it must be complete.
func At(dir string) (Tree, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return Tree{}, fmt.Errorf("locating the tools tree: %w", err)
	}
	if _, err := os.Stat(filepath.Join(abs, StampFile)); err != nil {
		return Tree{}, fault.New(fault.ExitNotReady, "tools.missing", "run: sudo make deps",
			"opening the tools tree at %s: %w", abs, err)
	}
	return Tree{Dir: abs}, nil
}

// Find returns the tree named by COCOON_TOOLS, or build/tools of the
// repository that the working directory lies in.
func Find() (Tree, error) {
	if dir := os.Getenv(EnvDir); dir != "" {
		return At(dir)
	}
	root, err := RepoRoot()
	if err != nil {
		return Tree{}, fault.New(fault.ExitNotReady, "tools.missing",
			"run inside the repository, or set "+EnvDir, "locating the tools tree: %w", err)
	}
	return At(filepath.Join(root, "build", "tools"))
}

// RepoRoot returns the nearest directory at or above the working directory
// that holds tools.lock.
func RepoRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", fmt.Errorf("locating the repository: %w", err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "tools.lock")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", errors.New("no tools.lock in this directory or above it")
		}
		dir = up
	}
}

// Path returns the absolute path of a program by its base name.
func (t Tree) Path(name string) (string, error) {
	if name != filepath.Base(name) {
		return "", fmt.Errorf("looking for %q: not a base name: %w", name, ErrNoProgram)
	}
	for _, d := range []string{"usr/bin", "usr/sbin", "usr/libexec"} {
		p := filepath.Join(t.Dir, d, name)
		if st, err := os.Stat(p); err == nil && st.Mode().IsRegular() && st.Mode()&0o111 != 0 {
			return p, nil
		}
	}
	return "", fmt.Errorf("looking for %s in %s: %w", name, t.Dir, ErrNoProgram)
}

// OVMF returns the firmware image that measures direct boots; it carries an
// empty variable store and is used read-only (-bios or pflash).
func (t Tree) OVMF() string { return filepath.Join(t.Dir, "usr/share/ovmf/OVMF.fd") }

// SEVFile is the base name of OVMF's AmdSev build, as Debian calls it.
const SEVFile = "OVMF.amdsev.fd"

// SEVOVMF returns the firmware image for SEV-SNP guests: the one that holds
// kernel, initrd and command line against the hashes in the launch digest.
func (t Tree) SEVOVMF() string { return filepath.Join(t.Dir, "usr/share/ovmf", SEVFile) }

// LoaderArgs returns the argument vector, loader first, that runs program
// (an absolute path in the tree) with args.
func (t Tree) LoaderArgs(program string, args ...string) []string {
	return append([]string{
		filepath.Join(t.Dir, loader), "--inhibit-cache",
		"--library-path", t.libraryPath(),
		"--argv0", filepath.Base(program), program,
	}, args...)
}

func (t Tree) libraryPath() string {
	dirs := make([]string, len(libDirs))
	for i, d := range libDirs {
		dirs[i] = filepath.Join(t.Dir, d)
	}
	return strings.Join(dirs, ":")
}

// WrapperDir holds one shell script per program for programs that call each
// other by name (swtpm_setup calls swtpm_localca, which calls certtool).
func (t Tree) WrapperDir() string { return filepath.Join(t.Dir, "wrappers") }

// Env returns the environment that the tree's programs need besides a plain
// one: modules, and wrappers first on the path.
func (t Tree) Env() []string {
	return []string{
		"PATH=" + t.WrapperDir() + ":/usr/sbin:/usr/bin:/sbin:/bin",
		"QEMU_MODULE_DIR=" + filepath.Join(t.Dir, moduleDir),
		"LC_ALL=C.UTF-8",
	}
}

// Command prepares a program of the tree. A program that is not there shows
// as the returned command's Err. QEMU gets -L options for the tree's own
// firmware files. Callers set Stdin, Stdout, SysProcAttr and so on as usual.
func (t Tree) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	path, err := t.Path(name)
	if err != nil {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Err = fault.New(fault.ExitNotReady, "tools.program", "run: sudo make deps", "running a tool: %w", err)
		return cmd
	}
	if strings.HasPrefix(name, "qemu-system-") {
		var data []string
		for _, d := range dataDirs {
			data = append(data, "-L", filepath.Join(t.Dir, d))
		}
		args = append(data, args...)
	}
	argv := t.LoaderArgs(path, args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(os.Environ(), t.Env()...)
	return cmd
}

// Command is Tree.Command on the tree that Find returns.
func Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	t, err := Find()
	if err != nil {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Err = err
		return cmd
	}
	return t.Command(ctx, name, args...)
}

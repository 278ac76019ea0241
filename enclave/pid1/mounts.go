// Package pid1 has the duties of process 1 in the confidential VM: the mount
// set, cgroups, kernel modules, reaping, child services, devices and power.
// System calls sit behind Kernel, so that the logic is tested without a VM.
package pid1

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// Kernel is what this package asks of the system.
type Kernel interface {
	Mount(source, target, fstype string, flags uintptr, data string) error
	MkdirAll(path string, perm fs.FileMode) error
	WriteFile(path string, data []byte) error
	Symlink(oldname, newname string) error
}

// Linux is the running kernel.
type Linux struct{}

// Mount calls mount(2).
func (Linux) Mount(source, target, fstype string, flags uintptr, data string) error {
	return unix.Mount(source, target, fstype, flags, data)
}

// MkdirAll makes a directory and its parents.
func (Linux) MkdirAll(path string, perm fs.FileMode) error { return os.MkdirAll(path, perm) }

// WriteFile writes an existing kernel file; it never creates one.
func (Linux) WriteFile(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// Symlink makes a symbolic link.
func (Linux) Symlink(oldname, newname string) error { return os.Symlink(oldname, newname) }

// Mount is one entry of the mount set.
type Mount struct {
	Source, Target, FSType string
	Flags                  uintptr
	Data                   string
	MayExist               bool // the initrd may have mounted it
}

const hard = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC

// Mounts is the mount set, in order. The root is a read-only verity device,
// so everything that is written lives in these tmpfs and dies with the VM.
// Sizes bound what a component that runs wild can take from the engine.
func Mounts() []Mount {
	return []Mount{
		{"proc", "/proc", "proc", hard, "", true},
		{"sysfs", "/sys", "sysfs", hard, "", true},
		{"devtmpfs", "/dev", "devtmpfs", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0755", true},
		{"devpts", "/dev/pts", "devpts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666", true},
		{"tmpfs", "/dev/shm", "tmpfs", hard, "mode=1777,size=25%", false},
		// Packs are mounted below /run; programs run from those mounts only.
		{"tmpfs", "/run", "tmpfs", hard, "mode=0755,size=64m", false},
		{"tmpfs", "/run/containerd", "tmpfs", hard, "mode=0711,size=64m", false},
		{"tmpfs", "/tmp", "tmpfs", hard, "mode=1777,size=64m", false},
		{"cgroup2", "/sys/fs/cgroup", "cgroup2", hard, "nsdelegate", true},
		{"securityfs", "/sys/kernel/security", "securityfs", hard | unix.MS_RDONLY, "", true},
		// Where TEEs are asked for quotes.
		{"configfs", "/sys/kernel/config", "configfs", hard, "", true},
	}
}

// MountAll makes the mount set. A target that is mounted already is fine
// where the entry says so.
func MountAll(k Kernel, mounts []Mount) error {
	for _, m := range mounts {
		if inTmpfs(m.Target) {
			if err := k.MkdirAll(m.Target, 0o755); err != nil {
				return fmt.Errorf("making mount point %s: %w", m.Target, err)
			}
		}
		err := k.Mount(m.Source, m.Target, m.FSType, m.Flags, m.Data)
		if m.MayExist && errors.Is(err, unix.EBUSY) {
			// Same file system there already; only its flags are ours to set.
			err = k.Mount(m.Source, m.Target, m.FSType, m.Flags|unix.MS_REMOUNT|unix.MS_BIND, "")
		}
		if err != nil {
			return fmt.Errorf("mounting %s on %s: %w", m.FSType, m.Target, err)
		}
	}
	return nil
}

// inTmpfs reports whether the mount point is not part of the read-only root.
func inTmpfs(target string) bool {
	return strings.HasPrefix(target, "/dev/") || strings.HasPrefix(target, "/run/")
}

// deviceLinks are the links below /dev that programs expect and udev would
// make.
var deviceLinks = [][2]string{
	{"/proc/self/fd", "/dev/fd"},
	{"fd/0", "/dev/stdin"},
	{"fd/1", "/dev/stdout"},
	{"fd/2", "/dev/stderr"},
}

// LinkDevices makes the standard links below /dev.
func LinkDevices(k Kernel) error {
	for _, l := range deviceLinks {
		if err := k.Symlink(l[0], l[1]); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("linking %s: %w", l[1], err)
		}
	}
	return nil
}

// CgroupRoot is where the unified hierarchy is mounted.
const CgroupRoot = "/sys/fs/cgroup"

// Cgroup is a control group made for a child service.
type Cgroup struct {
	Name   string
	Limits map[string]string // control file: value
}

// Cgroups hands the controllers down and makes the groups.
func Cgroups(k Kernel, groups []Cgroup) error {
	control := filepath.Join(CgroupRoot, "cgroup.subtree_control")
	if err := k.WriteFile(control, []byte("+cpu +memory +pids")); err != nil {
		return fmt.Errorf("delegating cgroup controllers: %w", err)
	}
	for _, g := range groups {
		dir := filepath.Join(CgroupRoot, g.Name)
		if err := k.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("making cgroup %s: %w", g.Name, err)
		}
		for file, value := range g.Limits {
			if err := k.WriteFile(filepath.Join(dir, file), []byte(value)); err != nil {
				return fmt.Errorf("setting %s of cgroup %s: %w", file, g.Name, err)
			}
		}
	}
	return nil
}

package datadisk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"cocoon/enclave/pid1"
	"cocoon/internal/devmapper"
)

// mkfs is the image's only program for it.
const mkfs = "/usr/sbin/mke2fs"

// Linux is the running machine.
type Linux struct {
	Reaper *pid1.Reaper
	Self   string // path of this program, for pid1.StartService
	Log    *slog.Logger
}

// Disk finds a virtio disk.
func (Linux) Disk(serial string) (string, error) {
	name, err := pid1.DiskBySerial(os.DirFS("/sys"), serial)
	if err != nil {
		return "", err
	}
	return "/dev/" + name, nil
}

type device struct{ *os.File }

// Size is the device's in bytes.
func (d device) Size() (int64, error) { return d.Seek(0, io.SeekEnd) }

// Sync writes what is cached and forgets it: the layers above write to the
// device past this cache.
func (d device) Sync() error {
	if err := d.File.Sync(); err != nil {
		return err
	}
	err := unix.IoctlSetInt(int(d.Fd()), unix.BLKFLSBUF, 0)
	if errors.Is(err, unix.ENOTTY) {
		return nil // a plain file has one cache only
	}
	return err
}

// Open opens a device for reading and writing.
func (Linux) Open(path string) (File, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	return device{f}, nil
}

// Map makes a device-mapper device.
func (Linux) Map(t devmapper.Target) (string, error) { return devmapper.Create(t) }

// Unmap removes it.
func (Linux) Unmap(name string) error { return devmapper.Remove(name) }

// Mkfs makes an ext4 file system, in a process that may do nothing else.
func (l Linux) Mkfs(ctx context.Context, device string) error {
	c, err := pid1.StartService(ctx, l.Reaper, l.Self, pid1.Service{
		Name: pid1.RowMkfs, Path: mkfs, Env: []string{"PATH="},
		Args:   []string{"-q", "-F", "-t", "ext4", "-b", fmt.Sprint(blockSize), "-m", "0", "-E", "nodiscard,lazy_itable_init=0,lazy_journal_init=0", device},
		Harden: pid1.Table()[pid1.RowMkfs],
	}, l.Log)
	if err != nil {
		return err
	}
	select {
	case <-c.Done:
	case <-ctx.Done():
		c.Stop(0)
		return ctx.Err()
	}
	if err := c.Err(); err != nil {
		return fmt.Errorf("running mke2fs: %w", err)
	}
	return nil
}

// Mount mounts ext4, making the directory. The first error of the file system
// makes it read-only.
func (Linux) Mount(device, dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	if err := unix.Mount(device, dir, "ext4", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOATIME, "errors=remount-ro"); err != nil {
		return err
	}
	return os.Chmod(dir, 0o700)
}

// Close unmounts the file system and removes the devices, so that nothing is
// left to replay at the next boot.
func Close() error {
	if err := unix.Unmount(Dir, 0); err != nil {
		return fmt.Errorf("unmounting the data disk: %w", err)
	}
	for _, name := range []string{nameCrypt, nameIntegrity} {
		if err := devmapper.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

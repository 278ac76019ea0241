package machine

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// makeDataDisk makes the file of a data disk where it does not exist: zeros,
// with its space reserved, complete on the disk before the name is. An
// existing file is left alone, whatever its size.
func makeDataDisk(path string, size int64) (err error) {
	fi, err := os.Lstat(path)
	if err == nil {
		if !fi.Mode().IsRegular() {
			return fault.New(fault.ExitParse, "vm.data_disk.irregular", "name a regular file", "opening the data disk: %s is not a regular file", path)
		}
		return nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return fault.New(fault.ExitNotReady, "vm.data_disk.failed", "check path and rights of data_disk", "opening the data disk: %w", err)
	}
	failed := func(err error) error {
		remedy := "check path and rights of data_disk"
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EFBIG) {
			remedy = "make room, or choose a smaller size_mib"
		}
		return fault.New(fault.ExitNotReady, "vm.data_disk.failed", remedy, "making the data disk: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return failed(err)
	}
	defer os.Remove(f.Name()) // gone under its last name by then
	if err := errors.Join(unix.Fallocate(int(f.Fd()), 0, 0, size), f.Sync()); err != nil {
		return errors.Join(failed(err), f.Close())
	}
	if err := f.Close(); err != nil {
		return failed(err)
	}
	// Linked and not renamed: a file that somebody made meanwhile stays.
	if err := os.Link(f.Name(), path); err != nil && !errors.Is(err, fs.ErrExist) {
		return failed(err)
	}
	d, err := os.Open(filepath.Dir(path))
	if err != nil {
		return failed(err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return failed(fmt.Errorf("syncing the directory: %w", err))
	}
	return nil
}

// Package durable replaces files so that a crash or a power cut leaves the old
// one or the new one, whole. In come a path and bytes; what is returned without
// an error is on the disk, name included (fsync(2): the directory has a sync of
// its own).
package durable

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// Write replaces a file. Its mode is mode, whatever the umask says. What a run
// that was cut short leaves begins with ".new-".
func Write(path string, b []byte, mode os.FileMode) (err error) {
	dir := filepath.Dir(path)
	f, err := os.CreateTemp(dir, ".new-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err = errors.Join(err, f.Chmod(mode), f.Sync(), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, errors.Join(err, os.Remove(f.Name())))
	}
	return SyncDir(dir)
}

// SyncDir puts the names in a directory on the disk.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("syncing directory: %w", err)
	}
	if err := errors.Join(d.Sync(), d.Close()); err != nil {
		return fmt.Errorf("syncing directory %s: %w", dir, err)
	}
	return nil
}

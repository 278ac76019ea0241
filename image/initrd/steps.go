package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// mountKernel mounts the kernel's own file systems.
func mountKernel() error {
	for _, m := range []struct {
		fs, dir string
		flags   uintptr
	}{
		{"proc", "/proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"sysfs", "/sys", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC},
		{"devtmpfs", "/dev", unix.MS_NOSUID | unix.MS_NOEXEC},
	} {
		if err := unix.Mount(m.fs, m.dir, m.fs, m.flags, ""); err != nil {
			return fmt.Errorf("mounting %s: %w", m.dir, err)
		}
	}
	return nil
}

// errNoDisk is returned when no disk with the wanted serial shows up.
var errNoDisk = errors.New("no disk with that serial")

// findDisk waits for the block device with a serial and returns its path.
// Two disks with one serial are refused: the host is not to choose by order.
func findDisk(sysBlock, serial string, timeout time.Duration) (string, error) {
	deadline := time.Now().Add(timeout)
	for {
		found, err := disksWithSerial(sysBlock, serial)
		switch {
		case err != nil:
			return "", err
		case len(found) == 1:
			return "/dev/" + found[0], nil
		case len(found) > 1:
			return "", fmt.Errorf("looking for disk %s: %d disks have this serial", serial, len(found))
		case time.Now().After(deadline):
			return "", fmt.Errorf("looking for disk %s: %w", serial, errNoDisk)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

func disksWithSerial(sysBlock, serial string) ([]string, error) {
	disks, err := os.ReadDir(sysBlock)
	if err != nil {
		return nil, fmt.Errorf("listing disks: %w", err)
	}
	var found []string
	for _, d := range disks {
		got, err := readLimited(filepath.Join(sysBlock, d.Name(), "serial"), 256)
		if err != nil {
			continue // not a virtio disk
		}
		if string(bytes.TrimRight(got, "\n\x00")) == serial {
			found = append(found, d.Name())
		}
	}
	return found, nil
}

// switchRoot makes /root the root directory and runs the supervisor.
//
// MS_MOVE over / before chroot leaves no initramfs above the new root, which
// pivot_root(2), as container runtimes call it, would refuse.
func switchRoot() error {
	for _, dir := range []string{"/proc", "/sys", "/dev"} {
		if err := unix.Mount(dir, "/root"+dir, "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("moving %s: %w", dir, err)
		}
	}
	if err := unix.Chdir("/root"); err != nil {
		return fmt.Errorf("entering the new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("moving the new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("changing the root: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("entering /: %w", err)
	}
	env := []string{"PATH=/usr/sbin:/usr/bin", "HOME=/", "TERM=dumb"}
	if err := unix.Exec(supervisor, []string{supervisor}, env); err != nil {
		return fmt.Errorf("starting %s: %w", supervisor, err)
	}
	return nil
}

// readLimited reads a file of at most limit bytes.
func readLimited(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading a file: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", path, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("reading %s: more than %d bytes", path, limit)
	}
	return b, nil
}

package pid1

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// ErrNoDevice is returned for a device that does not appear in time.
var ErrNoDevice = errors.New("device not found")

// PortByName returns the device name (such as vport0p1) of the virtio-serial
// port that the host gave this name. sys is os.DirFS("/sys").
func PortByName(sys fs.FS, name string) (string, error) {
	return byAttribute(sys, "class/virtio-ports", "name", name)
}

// DiskBySerial returns the device name (such as vdb) of the virtio disk with
// this serial. The serial is the host's word and only finds the disk: what is
// on it is decided by dm-verity.
func DiskBySerial(sys fs.FS, serial string) (string, error) {
	return byAttribute(sys, "class/block", "serial", serial)
}

func byAttribute(sys fs.FS, class, attr, want string) (string, error) {
	entries, err := fs.ReadDir(sys, class)
	if err != nil {
		return "", fmt.Errorf("listing %s: %w", class, err)
	}
	var found []string
	for _, e := range entries {
		b, err := fs.ReadFile(sys, path.Join(class, e.Name(), attr))
		if err == nil && strings.Trim(string(b), "\n\x00") == want {
			found = append(found, e.Name())
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return "", fmt.Errorf("looking for %s=%s in %s: %w", attr, want, class, ErrNoDevice)
	default:
		// The host is not to choose by order.
		return "", fmt.Errorf("looking for %s=%s in %s: %d devices have it", attr, want, class, len(found))
	}
}

// WaitFor calls find until it succeeds, fails otherwise than with ErrNoDevice
// or a missing directory, or ctx ends. Drivers probe in parallel with boot.
func WaitFor(ctx context.Context, find func() (string, error)) (string, error) {
	for {
		name, err := find()
		if err == nil {
			return name, nil
		}
		if !errors.Is(err, ErrNoDevice) && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		select {
		case <-ctx.Done():
			return "", err
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// OpenPort opens the virtio-serial port, which carries lines both ways.
func OpenPort(name string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join("/dev", name), os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening port: %w", err)
	}
	return f, nil
}

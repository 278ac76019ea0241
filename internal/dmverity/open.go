package dmverity

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"cocoon/internal/devmapper"
)

// ErrTooSmall is returned for a device that cannot hold the data blocks and
// their hash tree.
var ErrTooSmall = errors.New("device is smaller than what it must hold")

// Open maps the device and returns its path, /dev/dm-N. The caller mounts it
// read-only; the mapping lasts until Close or the end of the machine.
func Open(s Spec) (string, error) {
	table, err := s.Table()
	if err != nil {
		return "", err
	}
	dev, err := devmapper.Create(devmapper.Target{Name: s.Name, Type: "verity", Sectors: s.Sectors(), Table: table, ReadOnly: true})
	if errors.Is(err, unix.E2BIG) {
		// The kernel's answer to a device without room for the hash tree.
		return "", fmt.Errorf("mapping %s: %w", s.Name, errors.Join(ErrTooSmall, err))
	}
	return dev, err
}

// Close removes a mapping by name; it must not be mounted.
func Close(name string) error { return devmapper.Remove(name) }

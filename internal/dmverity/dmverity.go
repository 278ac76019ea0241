// Package dmverity sets up dm-verity devices inside the VM through the
// device-mapper's ioctl interface (linux/dm-ioctl.h).
//
// In go a block device that holds data blocks followed by their hash tree,
// and the tree's root, salt and size from a measured source; out comes the
// path of a read-only device whose every read is checked. The disk itself is
// never asked for its parameters.
package dmverity

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"cocoon/internal/devmapper"
	"cocoon/internal/lazyre"
	"cocoon/measurements/verity"
)

// OnCorruption says what the kernel does at the first block that is wrong.
type OnCorruption int

const (
	// Panic stops the machine: nothing more is computed on bad data.
	Panic OnCorruption = iota
	// Fail makes the read fail with EIO, so that the caller can say what is
	// wrong and stop in an orderly way.
	Fail
)

// Spec names a device and what it must hold.
type Spec struct {
	Name         string                // device-mapper name, [a-z0-9-], at most 32 bytes
	Device       string                // block device, as /dev/vda or /dev/dm-3
	Root         [verity.HashSize]byte // root of the hash tree
	Salt         []byte                // 1 to verity.MaxSalt bytes
	DataBlocks   uint64                // data blocks; the hash tree follows them
	OnCorruption OnCorruption
}

// A disk, or a mapped device below this one: dm-crypt's.
var deviceRE = lazyre.New(`^/dev/([a-z0-9]+(/[a-z0-9-]+)?|dm-[0-9]{1,4})$`)

// sectorsPerBlock converts blocks into the device-mapper's 512-byte sectors.
const sectorsPerBlock = verity.BlockSize / 512

// check refuses specs that would be ambiguous in a table line.
func (s Spec) check() error {
	var errs []error
	if !devmapper.ValidName(s.Name) {
		errs = append(errs, fmt.Errorf("name %q", s.Name))
	}
	if !deviceRE().MatchString(s.Device) {
		errs = append(errs, fmt.Errorf("device %q", s.Device))
	}
	if len(s.Salt) == 0 || len(s.Salt) > verity.MaxSalt {
		errs = append(errs, fmt.Errorf("salt of %d bytes", len(s.Salt)))
	}
	if s.DataBlocks == 0 || s.DataBlocks > verity.MaxDataBlocks {
		errs = append(errs, fmt.Errorf("%d data blocks", s.DataBlocks))
	}
	if s.OnCorruption != Panic && s.OnCorruption != Fail {
		errs = append(errs, fmt.Errorf("corruption mode %d", s.OnCorruption))
	}
	if len(errs) > 0 {
		return fmt.Errorf("checking the verity device: %w", errors.Join(errs...))
	}
	return nil
}

// Table returns the target's parameters as admin-guide/device-mapper/verity
// orders them: version, data and hash device, block sizes, data blocks, first
// hash block, algorithm, root, salt, options.
func (s Spec) Table() (string, error) {
	if err := s.check(); err != nil {
		return "", err
	}
	f := []string{
		"1", s.Device, s.Device,
		strconv.Itoa(verity.BlockSize), strconv.Itoa(verity.BlockSize),
		strconv.FormatUint(s.DataBlocks, 10), strconv.FormatUint(s.DataBlocks, 10),
		"sha256", fmt.Sprintf("%x", s.Root), fmt.Sprintf("%x", s.Salt),
	}
	if s.OnCorruption == Panic {
		f = append(f, "1", "panic_on_corruption")
	}
	return strings.Join(f, " "), nil
}

// Sectors returns the size of the mapped device in 512-byte sectors.
func (s Spec) Sectors() uint64 { return s.DataBlocks * sectorsPerBlock }

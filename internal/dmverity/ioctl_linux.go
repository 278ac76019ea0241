package dmverity

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// linux/dm-ioctl.h: struct dm_ioctl and its command numbers on x86-64.
const (
	control    = "/dev/mapper/control"
	headerSize = 312
	targetSize = 40

	cmdCreate  = 0xc138fd03
	cmdRemove  = 0xc138fd04
	cmdSuspend = 0xc138fd06 // without the suspend flag: resume
	cmdLoad    = 0xc138fd09

	flagReadOnly = 1 << 0

	offFlags = 28
	offDev   = 40
	offName  = 48
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
	ctl, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("opening the device-mapper: %w", err)
	}
	defer ctl.Close()
	created, err := call(ctl, cmdCreate, header(s.Name, 0, 0, nil))
	if err != nil {
		return "", fmt.Errorf("creating device %s: %w", s.Name, err)
	}
	undo := func(err error) error {
		_, rmErr := call(ctl, cmdRemove, header(s.Name, 0, 0, nil))
		return errors.Join(err, rmErr)
	}
	if _, err := call(ctl, cmdLoad, header(s.Name, flagReadOnly, 1, target(s.Sectors(), table))); err != nil {
		if errors.Is(err, unix.E2BIG) {
			err = ErrTooSmall // the kernel's answer to a device without room for the hash tree
		}
		return "", undo(fmt.Errorf("loading the verity table of %s: %w", s.Name, err))
	}
	if _, err := call(ctl, cmdSuspend, header(s.Name, flagReadOnly, 0, nil)); err != nil {
		return "", undo(fmt.Errorf("activating device %s: %w", s.Name, err))
	}
	dev := binary.LittleEndian.Uint64(created[offDev:])
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(dev)), nil
}

// Close removes a mapping by name; it must not be mounted.
func Close(name string) error {
	if !nameRE.MatchString(name) {
		return fmt.Errorf("removing device %q: not a name", name)
	}
	ctl, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("opening the device-mapper: %w", err)
	}
	defer ctl.Close()
	if _, err := call(ctl, cmdRemove, header(name, 0, 0, nil)); err != nil {
		return fmt.Errorf("removing device %s: %w", name, err)
	}
	return nil
}

// header builds struct dm_ioctl for a named device, followed by payload.
func header(name string, flags, targets uint32, payload []byte) []byte {
	b := make([]byte, headerSize+max(len(payload), 1024))
	le := binary.LittleEndian
	le.PutUint32(b[0:], 4) // interface version 4.0.0
	le.PutUint32(b[12:], uint32(len(b)))
	le.PutUint32(b[16:], headerSize)
	le.PutUint32(b[20:], targets)
	le.PutUint32(b[offFlags:], flags)
	copy(b[offName:offName+127], name)
	copy(b[headerSize:], payload)
	return b
}

// target builds struct dm_target_spec with its parameter string, padded to 8.
func target(sectors uint64, table string) []byte {
	size := (targetSize + len(table) + 1 + 7) &^ 7
	b := make([]byte, size)
	le := binary.LittleEndian
	le.PutUint64(b[8:], sectors)
	le.PutUint32(b[20:], uint32(size))
	copy(b[24:39], "verity")
	copy(b[targetSize:], table)
	return b
}

// call runs one device-mapper command; the kernel answers in the buffer.
func call(ctl *os.File, cmd uintptr, buf []byte) ([]byte, error) {
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, ctl.Fd(), cmd, uintptr(unsafe.Pointer(&buf[0])))
	if errno != 0 {
		return nil, os.NewSyscallError("ioctl", errno)
	}
	return buf, nil
}

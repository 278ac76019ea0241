// Package devmapper makes and removes device-mapper devices of one target
// through the kernel's ioctl interface (linux/dm-ioctl.h), which the guest has
// no dmsetup for.
//
// In go a name, a target with its table and a size; out comes the device's
// path. What a table means is the caller's business.
package devmapper

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"cocoon/internal/lazyre"
)

// linux/dm-ioctl.h: struct dm_ioctl and its command numbers on x86-64.
const (
	control    = "/dev/mapper/control"
	headerSize = 312
	targetSize = 40
	maxType    = 15

	cmdCreate  = 0xc138fd03
	cmdRemove  = 0xc138fd04
	cmdSuspend = 0xc138fd06 // without the suspend flag: resume
	cmdLoad    = 0xc138fd09

	flagReadOnly = 1 << 0
	flagSecure   = 1 << 15 // the kernel wipes its copy of the buffer

	offFlags = 28
	offDev   = 40
	offName  = 48
)

// Target is a device to make.
type Target struct {
	Name     string // [a-z0-9-], at most 32 bytes
	Type     string // verity, crypt, integrity
	Sectors  uint64 // of 512 bytes
	Table    string // the target's parameters
	ReadOnly bool
	// Key is written in hex where Table says KeyMark, and no copy of it is left
	// behind: not in a string, which cannot be wiped, nor in the kernel's buffer.
	Key []byte
}

// KeyMark stands for the key in a table.
const KeyMark = "{key}"

var nameRE = lazyre.New(`^[a-z0-9][a-z0-9-]{0,31}$`)

// ValidName reports whether s can be a device's name.
func ValidName(s string) bool { return nameRE().MatchString(s) }

// Create maps the device and returns its path, /dev/dm-N. It lasts until
// Remove or the end of the machine. The kernel's refusal of the table is
// wrapped.
func Create(t Target) (string, error) {
	if !ValidName(t.Name) || t.Type == "" || len(t.Type) > maxType || t.Sectors == 0 {
		return "", fmt.Errorf("creating device %.40q: not a name, a target and a size", t.Name)
	}
	if marks := strings.Count(t.Table, KeyMark); marks > 1 || (marks == 1) != (len(t.Key) > 0) {
		return "", fmt.Errorf("creating device %s: %d keys of %d bytes", t.Name, marks, len(t.Key))
	}
	ctl, err := os.OpenFile(control, os.O_RDWR, 0)
	if err != nil {
		return "", fmt.Errorf("opening the device-mapper: %w", err)
	}
	defer ctl.Close()
	created, err := call(ctl, cmdCreate, header(t.Name, 0, 0, nil))
	if err != nil {
		return "", fmt.Errorf("creating device %s: %w", t.Name, err)
	}
	undo := func(err error) error {
		_, rmErr := call(ctl, cmdRemove, header(t.Name, 0, 0, nil))
		return errors.Join(err, rmErr)
	}
	var flags uint32
	if t.ReadOnly {
		flags |= flagReadOnly
	}
	load := flags
	if t.Key != nil {
		load |= flagSecure
	}
	spec := target(t)
	buf := header(t.Name, load, 1, spec)
	_, err = call(ctl, cmdLoad, buf)
	if t.Key != nil {
		clear(spec)
		clear(buf)
	}
	if err != nil {
		return "", undo(fmt.Errorf("loading the %s table of %s: %w", t.Type, t.Name, err))
	}
	if _, err := call(ctl, cmdSuspend, header(t.Name, flags, 0, nil)); err != nil {
		return "", undo(fmt.Errorf("activating device %s: %w", t.Name, err))
	}
	dev := binary.LittleEndian.Uint64(created[offDev:])
	return fmt.Sprintf("/dev/dm-%d", unix.Minor(dev)), nil
}

// Remove removes a device by name; it must not be in use.
func Remove(name string) error {
	if !ValidName(name) {
		return fmt.Errorf("removing device %.40q: not a name", name)
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
func target(t Target) []byte {
	before, after, keyed := strings.Cut(t.Table, KeyMark)
	n := len(before) + len(after)
	if keyed {
		n += hex.EncodedLen(len(t.Key))
	}
	size := (targetSize + n + 1 + 7) &^ 7
	b := make([]byte, size)
	le := binary.LittleEndian
	le.PutUint64(b[8:], t.Sectors)
	le.PutUint32(b[20:], uint32(size))
	copy(b[24:24+maxType], t.Type)
	at := targetSize + copy(b[targetSize:], before)
	if keyed {
		at += hex.Encode(b[at:], t.Key)
	}
	copy(b[at:], after)
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

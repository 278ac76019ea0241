package tdx

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"unsafe"

	"github.com/google/go-tdx-guest/client/linuxabi"
	"golang.org/x/sys/unix"
)

// Device is the kernel's TDX guest device.
type Device interface {
	// Report returns the TD's own report (1024 bytes) over data.
	Report(data [64]byte) ([]byte, error)
}

// Registers are the TD's runtime measurement registers.
type Registers interface {
	// Extend makes SHA-384(register ‖ digest) of a register's value. It is
	// ErrNoRegisters where the kernel offers no such thing.
	Extend(register int, digest [48]byte) error
}

// ErrNoRegisters is returned by a kernel that cannot extend registers.
var ErrNoRegisters = errors.New("the kernel offers no extension of RTMRs")

// Linux is the running kernel's device. Path is that of the device.
type Linux struct{ Path string }

// Report calls TDX_CMD_GET_REPORT0.
func (l Linux) Report(data [64]byte) ([]byte, error) {
	f, err := os.OpenFile(l.Path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("opening TDX device: %w", err)
	}
	defer f.Close()
	req := linuxabi.TdxReportReq{ReportData: data}
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(linuxabi.IocTdxGetReport), uintptr(unsafe.Pointer(&req))); errno != 0 {
		return nil, os.NewSyscallError("TDX_CMD_GET_REPORT0", errno)
	}
	return req.TdReport[:], nil
}

// MeasurementsDir is where Linux 6.16 and later have the registers: one file
// each, a read is the value and a write of 48 bytes extends it.
const MeasurementsDir = "/sys/devices/virtual/misc/tdx_guest/measurements"

// Sysfs are the registers of Linux 6.16 and later.
type Sysfs struct{ Dir string }

// Extend writes the digest in one call.
func (s Sysfs) Extend(register int, digest [48]byte) error {
	f, err := os.OpenFile(fmt.Sprintf("%s/rtmr%d:sha384", s.Dir, register), os.O_WRONLY, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("extending RTMR%d: %w", register, ErrNoRegisters)
	}
	if err != nil {
		return fmt.Errorf("extending RTMR%d: %w", register, err)
	}
	_, err = f.Write(digest[:])
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("extending RTMR%d: %w", register, err)
	}
	return nil
}

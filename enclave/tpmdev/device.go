package tpmdev

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// maxResponse is the kernel's buffer of one answer (TPM_BUFSIZE).
const maxResponse = 4096

// device is a TPM's character device. It is open for blocking: there a write
// runs the command and the answer is there to be read. Go would open it for its
// poller, where a read before the answer is an end of file, and poll(2), which
// would tell, is interrupted by the signals that Go's scheduler sends.
type device struct{ f *os.File }

func openDevice(path string) (device, error) {
	fd, err := unix.Open(path, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return device{}, &os.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	fi, err := f.Stat()
	if err == nil && fi.Mode()&os.ModeCharDevice == 0 {
		err = fmt.Errorf("%s is no character device", path)
	}
	if err != nil {
		f.Close()
		return device{}, err
	}
	return device{f}, nil
}

// Send implements transport.TPM.
func (d device) Send(command []byte) ([]byte, error) {
	if _, err := d.f.Write(command); err != nil {
		return nil, err
	}
	b := make([]byte, maxResponse)
	n, err := d.f.Read(b)
	if err != nil {
		return nil, err
	}
	return b[:n], nil
}

// Close implements io.Closer.
func (d device) Close() error { return d.f.Close() }

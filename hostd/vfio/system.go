// Package vfio prepares NVIDIA GPUs and NVSwitches for being given to a VM:
// PCI addresses come in; out go devices that are bound to vfio-pci, powered,
// reset, and in the confidential-computing mode that was asked for, or a fault
// and the host as it was before.
//
// What a device says here is hygiene on an untrusted host; the guest attests
// the GPU itself and believes nothing of this.
//
// Definitions: Linux Documentation/ABI/testing/sysfs-bus-pci and
// sysfs-kernel-iommu_groups, Documentation/driver-api/vfio.rst; the mode
// registers as NVIDIA's gpu-admin-tools (2025.10.20) read them.
package vfio

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// Reader is what is read of a host. Names are io/fs names under "/".
type Reader interface {
	fs.ReadLinkFS
	// Register reads 4 bytes, little endian, at an offset of a PCI resource
	// file (D/resource0).
	Register(name string, offset int64) (uint32, error)
}

// System is a host that can be changed.
type System interface {
	Reader
	// Write writes data to a file of sysfs and returns at the latest when ctx
	// ends, also where the kernel does not.
	Write(ctx context.Context, name, data string) error
}

// Linux is the running host.
type Linux struct{ fs.ReadLinkFS }

// NewLinux returns the running host.
func NewLinux() (Linux, error) {
	root, ok := os.DirFS("/").(fs.ReadLinkFS)
	if !ok {
		return Linux{}, errors.New("opening /: its file system reads no links")
	}
	return Linux{root}, nil
}

// Register maps the page of the resource file that holds the register.
// Memory decoding of the device must be on.
func (Linux) Register(name string, offset int64) (uint32, error) {
	f, err := os.OpenFile("/"+name, os.O_RDONLY, 0)
	if err != nil {
		return 0, fmt.Errorf("reading a register: %w", err)
	}
	defer f.Close()
	page := int64(os.Getpagesize())
	if st, err := f.Stat(); err != nil || offset < 0 || offset%4 != 0 || offset+4 > st.Size() {
		return 0, fmt.Errorf("reading a register: %#x is outside %s: %w", offset, name, errors.Join(err, fs.ErrInvalid))
	}
	m, err := unix.Mmap(int(f.Fd()), offset/page*page, int(page), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return 0, fmt.Errorf("mapping %s: %w", name, err)
	}
	v := binary.LittleEndian.Uint32(m[offset%page:])
	return v, errors.Join(unix.Munmap(m))
}

// Write lets a child write. A write to "unbind" or "reset" can hang in the
// kernel where not even SIGKILL ends it; then the child is left behind and
// this process goes on.
func (Linux) Write(ctx context.Context, name, data string) error {
	cmd := exec.Command("tee", "/"+name)
	var stderr bytes.Buffer
	cmd.Stdin, cmd.Stderr = strings.NewReader(data), &stderr
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("writing %s: %w", name, err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("writing %s: %w: %s", name, err, strings.TrimSpace(stderr.String()))
		}
		return nil
	case <-ctx.Done():
		return errors.Join(fmt.Errorf("writing %s: %w", name, ctx.Err()), cmd.Process.Kill())
	}
}

// Package vsock is the host's end of the channel between a host and one of its
// guests: status lines come out of the guest, the guest's connections go to
// the targets of its spec, and the host reads the guest's status document.
//
// Three transports exist. The kernel's vhost (drivers/vhost/vsock.c) is used
// where the host has it. The user-space device vhost-device-vsock of the tools
// tree does the same over UNIX sockets, without a kernel module. Where neither
// is wanted, the status goes over a virtio-serial port and connections through
// QEMU's restricted user network. The guest trusts none of them.
package vsock

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"

	"cocoon/internal/fault"
)

// Transports.
const (
	Auto   = "auto"
	Kernel = "vhost-vsock"
	User   = "vhost-user-vsock"
	Serial = "virtio-serial"
)

// DevicePath is the kernel's device.
const DevicePath = "/dev/vhost-vsock"

// Host is one guest's vsock device.
type Host interface {
	// CID is the guest's context identifier.
	CID() uint32
	// QEMU is what QEMU inherits: the kernel's device, or the control channel
	// of the user-space one. The caller closes it after QEMU's start.
	QEMU() *os.File
	// Listen takes the guest's connections to a port of the host.
	Listen(port uint32) (net.Listener, error)
	// Dial opens a connection to a port of the guest.
	Dial(ctx context.Context, port uint32) (net.Conn, error)
	io.Closer
}

// Known reports whether s names a transport or Auto.
func Known(s string) bool {
	switch s {
	case Auto, Kernel, User, Serial:
		return true
	}
	return false
}

// Probe decides on a transport and says why. Only opening the device shows
// that it is there and may be used.
func Probe(want, device string) (transport, why string, err error) {
	switch want {
	case Serial, User:
		return want, "asked for", nil
	case Kernel, Auto, "":
	default:
		return "", "", fault.New(fault.ExitParse, "hostd.config.malformed", "use auto, vhost-vsock, vhost-user-vsock or virtio-serial",
			"choosing a transport: %.32q is unknown", want)
	}
	f, err := os.OpenFile(device, os.O_RDWR, 0)
	switch {
	case err == nil:
		f.Close()
		return Kernel, device + " can be opened", nil
	case want == Kernel:
		return "", "", fault.New(fault.ExitNotReady, "vm.vsock.absent", "load the module vhost_vsock and give hostd the device, or use another transport",
			"choosing a transport: %w", err)
	default:
		return Serial, fmt.Sprintf("no vsock: %v", err), nil
	}
}

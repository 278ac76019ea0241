package vsock

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
	"cocoon/internal/vsockport"
)

// kernel is a guest of the kernel's vhost. The listener on its status port is
// what reserves its CID among the guests of this host.
type kernel struct {
	cid    uint32
	device *os.File
	status *vsock.Listener
}

// NewKernel reserves a CID and opens the device.
func NewKernel(device string) (Host, error) {
	for cid := uint32(vsockport.MinCID); cid <= vsockport.MaxCID; cid++ {
		l, err := vsock.ListenContextID(vsock.Host, vsockport.Status(cid), nil)
		if errors.Is(err, unix.EADDRINUSE) {
			continue
		}
		if err != nil {
			return nil, fault.New(fault.ExitNotReady, "vm.vsock.failed", "use the transport virtio-serial", "listening on vsock: %w", err)
		}
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("opening vsock device: %w", err), l.Close())
		}
		return &kernel{cid: cid, device: f, status: l}, nil
	}
	return nil, fault.New(fault.ExitNotReady, "vm.vsock.full", "stop a VM first", "reserving a CID: all are taken")
}

// CID implements Host.
func (k *kernel) CID() uint32 { return k.cid }

// QEMU implements Host.
func (k *kernel) QEMU() *os.File { return k.device }

// Listen implements Host.
func (k *kernel) Listen(port uint32) (net.Listener, error) {
	if port == vsockport.Status(k.cid) {
		return only{k.status, k.cid}, nil
	}
	l, err := vsock.ListenContextID(vsock.Host, port, nil)
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %#x: %w", port, err)
	}
	return only{l, k.cid}, nil
}

// Dial implements Host.
func (k *kernel) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	type result struct {
		c   net.Conn
		err error
	}
	done := make(chan result, 1)
	go func() {
		c, err := vsock.Dial(k.cid, port, nil)
		if err != nil {
			done <- result{nil, fmt.Errorf("dialling vsock port %d: %w", port, err)}
			return
		}
		done <- result{c, nil}
	}()
	select {
	case r := <-done:
		return r.c, r.err
	case <-ctx.Done():
		go func() {
			if r := <-done; r.c != nil {
				r.c.Close()
			}
		}()
		return nil, ctx.Err()
	}
}

// Close implements Host.
func (k *kernel) Close() error {
	k.device.Close() // may be closed already
	if err := k.status.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return err
	}
	return nil
}

// only takes connections of one guest: the host's ports are open to all.
type only struct {
	net.Listener
	cid uint32
}

// Accept returns the next connection of the one machine.
func (o only) Accept() (net.Conn, error) {
	for {
		c, err := o.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if a, ok := c.RemoteAddr().(*vsock.Addr); ok && a.ContextID == o.cid {
			return c, nil
		}
		c.Close()
	}
}

// Package vsock is the guest's end of a vsock device (virtio 1.2, section
// 5.10). The host is at the other end of everything here: what comes in is
// bytes that nobody vouches for, and nothing secret goes out in the clear.
package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"

	"cocoon/internal/vsockport"
)

// driverDir lists the devices of the driver in sysfs.
const driverDir = "bus/virtio/drivers/vmw_vsock_virtio_transport"

// deviceID is a vsock device's (virtio 1.2, section 5.10.1).
const deviceID = "0x0013"

// Attached reports whether the host gave the guest a vsock device, with or
// without a driver. sys is os.DirFS("/sys").
func Attached(sys fs.FS) bool {
	found, err := fs.Glob(sys, "bus/virtio/devices/*/device")
	if err != nil {
		return false
	}
	return slices.ContainsFunc(found, func(name string) bool {
		id, err := fs.ReadFile(sys, name)
		return err == nil && strings.TrimSpace(string(id)) == deviceID
	})
}

// Present reports whether such a device has its driver. sys is
// os.DirFS("/sys").
func Present(sys fs.FS) bool {
	found, err := fs.Glob(sys, driverDir+"/virtio*")
	return err == nil && len(found) > 0
}

// Host is the host, as the guest reaches it.
type Host struct {
	cid  uint32
	dial func(port uint32) (net.Conn, error)
}

// Open returns the host. The CID is the host's word and numbers ports only.
func Open() (*Host, error) {
	cid, err := vsock.ContextID()
	if err != nil {
		return nil, fmt.Errorf("opening vsock: %w", err)
	}
	return &Host{cid: cid, dial: func(port uint32) (net.Conn, error) { return DialHost(context.Background(), port) }}, nil
}

// DialHost opens a connection to a port of the host.
func DialHost(_ context.Context, port uint32) (net.Conn, error) {
	c, err := vsock.Dial(vsockport.Host, port, nil)
	if err != nil {
		return nil, fmt.Errorf("dialling the host: %w", err)
	}
	return c, nil
}

// Status opens the channel for status lines.
func (h *Host) Status() (net.Conn, error) { return h.dial(vsockport.Status(h.cid)) }

// MaxConns bounds the connections of all forwards; beyond it they wait.
const MaxConns = 256

// Forward takes TCP connections to an address, which must be the loopback
// device's, and carries each to the host's port for that address. It returns
// once it listens; ctx ends it.
func (h *Host) Forward(ctx context.Context, to netip.AddrPort, failed func(error)) error {
	port, err := vsockport.Forward(h.cid, to)
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp4", to.String())
	if err != nil {
		return fmt.Errorf("forwarding %s: %w", to, err)
	}
	context.AfterFunc(ctx, func() { l.Close() })
	slots := make(chan struct{}, MaxConns)
	go func() {
		for {
			c, err := l.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err != nil {
				failed(fmt.Errorf("forwarding %s: %w", to, err))
				time.Sleep(100 * time.Millisecond) // out of files, perhaps
				continue
			}
			slots <- struct{}{}
			go func() {
				defer func() { <-slots }()
				defer c.Close()
				host, err := h.dial(port)
				if ctx.Err() != nil { // what came as the forward ended is nobody's failure
					if err == nil {
						host.Close()
					}
					return
				}
				if err != nil {
					failed(fmt.Errorf("forwarding %s: %w", to, err))
					return
				}
				defer host.Close()
				stop := context.AfterFunc(ctx, func() { c.Close(); host.Close() })
				defer stop()
				Join(c.(half), host.(half))
			}()
		}
	}()
	return nil
}

// half is a connection whose directions end separately.
type half interface {
	net.Conn
	CloseWrite() error
}

// Join carries bytes both ways until both directions have ended.
func Join(a, b half) {
	var wg sync.WaitGroup
	carry := func(dst, src half) {
		// Whatever ends a direction shows as its end at the other side.
		_, err := io.Copy(dst, src)
		if err != nil {
			src.Close()
			dst.Close()
			return
		}
		_ = dst.CloseWrite()
	}
	wg.Go(func() { carry(a, b) })
	carry(b, a)
	wg.Wait()
}

// ServeDocument gives the file at path to whoever connects from the host, one
// at a time, and reads nothing. It returns once it listens; ctx ends it.
func ServeDocument(ctx context.Context, path string) error {
	l, err := vsock.Listen(vsockport.Document, nil)
	if err != nil {
		return fmt.Errorf("serving the status document: %w", err)
	}
	serve(ctx, l, path)
	return nil
}

func serve(ctx context.Context, l net.Listener, path string) {
	context.AfterFunc(ctx, func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				if ctx.Err() != nil || errors.Is(err, net.ErrClosed) || errors.Is(err, unix.EBADF) {
					return
				}
				time.Sleep(100 * time.Millisecond)
				continue
			}
			b, err := os.ReadFile(path)
			if err == nil {
				// A host that does not read has only itself to blame.
				_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
				_, _ = c.Write(b)
			}
			c.Close()
		}
	}()
}

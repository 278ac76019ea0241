package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"time"

	"cocoon/hostd/relay"
	"cocoon/hostd/vsock"
	"cocoon/internal/fault"
	"cocoon/internal/undo"
	"cocoon/internal/vsockport"
)

// openVsock makes the guest's vsock device, where the transport is one, and
// listens on the ports of status and forwards. Everything that arrives is the
// guest's: it is kept or carried and decides nothing.
func (m *Machine) openVsock(ctx context.Context, u *undo.Stack) error {
	var err error
	switch m.o.Transport {
	case vsock.Kernel:
		m.vsock, err = vsock.NewKernel(vsock.DevicePath)
	case vsock.User:
		m.vsock, err = vsock.NewUser(ctx, m.o.Tools)
	default:
		return nil
	}
	if err != nil {
		return err
	}
	run, cancel := context.WithCancel(context.Background())
	m.stopVsock = cancel
	u.Push("closing vsock", func() error { cancel(); return m.vsock.Close() })
	status, err := m.vsock.Listen(vsockport.Status(m.vsock.CID()))
	if err != nil {
		return err
	}
	// One connection at a time; a guest that opens a second one waits.
	m.accept(run, status, 1, func(c net.Conn) { m.pumpStatus(c) })
	for _, f := range m.o.Spec.Forwards {
		to, err := netip.ParseAddrPort(f.Guest)
		if err != nil {
			return fmt.Errorf("forwarding: %w", err)
		}
		port, err := vsockport.Forward(m.vsock.CID(), to)
		if err != nil {
			return err
		}
		l, err := m.vsock.Listen(port)
		if err != nil {
			return err
		}
		m.accept(run, l, relay.DefaultMax, func(c net.Conn) {
			if err := relay.Serve(run, c, f.Target); err != nil {
				m.o.Logger.Debug("relay ended", "vm", m.o.Spec.Name, "target", f.Target, "err", err)
			}
		})
	}
	return nil
}

// accept serves at most limit connections at a time until ctx ends; each ends
// then, too.
func (m *Machine) accept(ctx context.Context, l net.Listener, limit int, serve func(net.Conn)) {
	context.AfterFunc(ctx, func() { l.Close() })
	slots := make(chan struct{}, limit)
	m.pumps.Go(func() {
		for {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			c, err := l.Accept()
			if err != nil {
				if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
					return
				}
				<-slots
				time.Sleep(50 * time.Millisecond) // out of files, perhaps
				continue
			}
			m.pumps.Go(func() {
				defer func() { <-slots }()
				stop := context.AfterFunc(ctx, func() { c.Close() })
				defer stop()
				serve(c)
			})
		}
	})
}

// drainVsock is how long the last status lines have after QEMU's end.
const drainVsock = 500 * time.Millisecond

// closeVsock ends the device; what it already holds still arrives.
func (m *Machine) closeVsock() {
	time.AfterFunc(drainVsock, m.stopVsock)
	if err := m.vsock.Close(); err != nil {
		m.o.Logger.Error("ending vsock device", "vm", m.o.Spec.Name, "err", err)
	}
}

// maxDocument bounds the guest's status document, in bytes.
const maxDocument = 1 << 20

// Document asks the guest for its status document over vsock. It is the
// guest's word, like every status line.
func (m *Machine) Document(ctx context.Context) ([]byte, error) {
	if m.vsock == nil {
		return nil, fault.New(fault.ExitNotReady, "vm.vsock.absent", "start the VM with a vsock transport", "asking for the status document: the transport is %s", m.o.Transport)
	}
	c, err := m.vsock.Dial(ctx, vsockport.Document)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	b, err := io.ReadAll(io.LimitReader(c, maxDocument+1))
	if err != nil {
		return nil, fmt.Errorf("reading the status document: %w", err)
	}
	if len(b) > maxDocument {
		return nil, fmt.Errorf("reading the status document: more than %d bytes", maxDocument)
	}
	return b, nil
}

// Package relay carries one connection of a guest to its host target. QEMU's
// user-mode network starts one relay process for each connection that the
// guest opens to a forwarded address, with that connection as standard input
// and output.
//
// The bytes are the guest's: a relay looks at none of them. It writes nothing
// of its own anywhere, since standard error is the guest's connection too.
package relay

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/spec"
)

// DefaultMax bounds the relays of one VM, so that a guest cannot fill the
// host's process table.
const DefaultMax = 128

// dialTimeout bounds the connection to the target.
const dialTimeout = 10 * time.Second

// ErrBusy is returned when all slots are taken.
var ErrBusy = errors.New("too many connections of this guest")

// half is a connection whose directions end separately.
type half interface {
	net.Conn
	CloseWrite() error
}

// Slot takes one of max slots in dir, a directory of lock files; the kernel
// gives it back when the process ends, however it ends.
func Slot(dir string, max int) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("taking relay slot: %w", err)
	}
	for i := range max {
		f, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(i)), os.O_CREATE|os.O_RDWR, 0o600)
		if err != nil {
			return nil, fmt.Errorf("taking relay slot: %w", err)
		}
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("taking relay slot: %w", err)
		}
	}
	return nil, fmt.Errorf("taking relay slot: %w", ErrBusy)
}

// Guest returns the connection that the process inherited as standard input.
func Guest() (net.Conn, error) {
	c, err := net.FileConn(os.Stdin)
	if err != nil {
		return nil, fmt.Errorf("opening the guest's connection: %w", err)
	}
	return c, nil
}

// Serve dials the target and carries bytes both ways until both directions
// have ended, or the guest's side is gone altogether: QEMU's death must end a
// relay even while its target is silent.
func Serve(ctx context.Context, guest net.Conn, target string) error {
	g, ok := guest.(half)
	if !ok {
		return errors.New("relaying: the guest's connection is not a stream socket")
	}
	defer g.Close()
	if err := spec.ValidTarget(target); err != nil {
		return fmt.Errorf("relaying: %w", err)
	}
	network, addr := "tcp", target
	if path, ok := strings.CutPrefix(target, "unix:"); ok {
		network, addr = "unix", path
	}
	d := net.Dialer{Timeout: dialTimeout}
	c, err := d.DialContext(ctx, network, addr)
	if err != nil {
		return fmt.Errorf("relaying: %w", err)
	}
	defer c.Close()
	t, ok := c.(half)
	if !ok {
		return errors.New("relaying: the target's connection is not a stream socket")
	}
	stop := context.AfterFunc(ctx, func() { g.Close(); t.Close() })
	defer stop()
	go func() {
		if !waitHangUp(guest) {
			return // the context ends this relay
		}
		// Only the silent direction still runs then, if any.
		time.Sleep(time.Second)
		t.Close()
	}()
	back := make(chan error, 1)
	go func() { back <- carry(g, t) }()
	there := carry(t, g)
	return errors.Join(there, <-back)
}

// carry copies src to dst and passes on the end of the stream.
func carry(dst, src half) error {
	_, err := io.Copy(dst, src)
	if cerr := dst.CloseWrite(); err == nil && cerr != nil && !errors.Is(cerr, net.ErrClosed) && !errors.Is(cerr, unix.ENOTCONN) {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("carrying bytes: %w", err)
	}
	return nil
}

// waitHangUp returns true once the other end of a socket is closed in both
// directions, and false for a connection that cannot be watched.
func waitHangUp(c net.Conn) bool {
	sc, ok := c.(interface {
		File() (*os.File, error)
	})
	if !ok {
		return false
	}
	f, err := sc.File()
	if err != nil {
		return false
	}
	defer f.Close()
	fds := []unix.PollFd{{Fd: int32(f.Fd())}}
	for {
		n, err := unix.Poll(fds, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n > 0 {
			return true
		}
	}
}

package vsock

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cocoon/hostd/proc"
	"cocoon/internal/fault"
	"cocoon/internal/vsockport"
)

// Tools runs programs of the tools tree.
type Tools interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
}

// userStart bounds the start of the device on a busy machine.
const userStart = 30 * time.Second

// user is a vhost-device-vsock process. Its sockets live in a directory of
// their own, since their paths must be short (unix(7): 107 bytes).
type user struct {
	dir   string
	child *proc.Child
	qemu  *os.File
	out   *tail
}

// NewUser starts the user-space device.
func NewUser(ctx context.Context, tools Tools) (h Host, err error) {
	dir, err := os.MkdirTemp("", "cocoon-vsock-")
	if err != nil {
		return nil, fmt.Errorf("starting vsock device: %w", err)
	}
	u := &user{dir: dir, out: &tail{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, u.Close())
		}
	}()
	control := filepath.Join(dir, "c")
	cmd := tools.Command(context.Background(), "vhost-device-vsock",
		"--guest-cid", fmt.Sprint(vsockport.MinCID), "--socket", control, "--uds-path", u.path())
	cmd.Stdout, cmd.Stderr = u.out, u.out
	if u.child, err = proc.Start(cmd); err != nil {
		return nil, fmt.Errorf("starting vsock device: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, userStart)
	defer cancel()
	for {
		c, err := net.Dial("unix", control)
		if err == nil {
			u.qemu, err = c.(*net.UnixConn).File()
			c.Close()
			if err != nil {
				return nil, fmt.Errorf("connecting to vsock device: %w", err)
			}
			return u, nil
		}
		select {
		case <-u.child.Done():
		case <-ctx.Done():
		case <-time.After(10 * time.Millisecond):
			continue
		}
		return nil, fault.New(fault.ExitNotReady, "vm.vsock.failed", "correct what the device names, or use the transport virtio-serial",
			"starting vsock device: %s: %w", u.out, err)
	}
}

func (u *user) path() string { return filepath.Join(u.dir, "v") }

// CID implements Host.
func (u *user) CID() uint32 { return vsockport.MinCID }

// QEMU implements Host.
func (u *user) QEMU() *os.File { return u.qemu }

// Listen: the device connects to the socket whose name ends in the port.
func (u *user) Listen(port uint32) (net.Listener, error) {
	l, err := net.Listen("unix", fmt.Sprintf("%s_%d", u.path(), port))
	if err != nil {
		return nil, fmt.Errorf("listening on vsock port %#x: %w", port, err)
	}
	return l, nil
}

// Dial asks the device for a connection: a line with the port out, a line
// that begins with OK back.
func (u *user) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", u.path())
	if err != nil {
		return nil, fmt.Errorf("dialling vsock port %d: %w", port, err)
	}
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	line, err := "", error(nil)
	if _, err = fmt.Fprintf(c, "CONNECT %d\n", port); err == nil {
		line, err = readLine(c)
	}
	if err == nil && !strings.HasPrefix(line, "OK ") {
		err = fmt.Errorf("answer %.32q", line)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("dialling vsock port %d: %w", port, err), c.Close())
	}
	return c, nil
}

// readLine reads byte by byte: what follows the line is the guest's.
func readLine(r io.Reader) (string, error) {
	br := bufio.NewReaderSize(io.LimitReader(oneByte{r}, 32), 16)
	line, err := br.ReadString('\n')
	return strings.TrimSuffix(line, "\n"), err
}

// oneByte hands out one byte a read.
type oneByte struct{ r io.Reader }

// Read implements io.Reader.
func (o oneByte) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	return o.r.Read(p[:1])
}

// Close ends the device and removes its sockets.
func (u *user) Close() error {
	var errs []error
	if u.qemu != nil {
		u.qemu.Close() // may be closed already
	}
	if u.child != nil {
		errs = append(errs, u.child.Kill())
	}
	return errors.Join(append(errs, os.RemoveAll(u.dir))...)
}

// tail keeps the end of what the device writes.
type tail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - 1024; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

// String implements fmt.Stringer.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(bytes.TrimSpace(t.b)), "?")
}

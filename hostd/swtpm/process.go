package swtpm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/proc"
)

// Tools prepares programs of the pinned tools tree.
type Tools interface {
	Command(ctx context.Context, name string, args ...string) *exec.Cmd
}

// Process is a running swtpm.
type Process struct {
	child *proc.Child
	out   *tail
}

// childFD is the descriptor under which swtpm inherits its socket.
const childFD = 3

// startDirect runs swtpm with the TPM's own commands on the returned
// connection, without a control channel. swtpm ends with the connection.
func startDirect(ctx context.Context, tools Tools, dir string) (*Process, net.Conn, error) {
	ours, theirs, err := SocketPair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	p, err := start(tools, dir, theirs, "--fd", fmt.Sprint(childFD), "--flags", "not-need-init")
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("connecting to software TPM: %w", err), p.Close())
	}
	return p, conn, nil
}

// Start runs the TPM in dir for QEMU: the returned file is the control
// channel that QEMU inherits. swtpm ends when QEMU closes it, and with the
// calling process.
func Start(tools Tools, dir string) (*Process, *os.File, error) {
	ours, theirs, err := SocketPair()
	if err != nil {
		return nil, nil, err
	}
	defer theirs.Close()
	p, err := start(tools, dir, theirs, "--ctrl", fmt.Sprintf("type=unixio,clientfd=%d", childFD), "--terminate")
	if err != nil {
		ours.Close()
		return nil, nil, err
	}
	return p, ours, nil
}

func start(tools Tools, dir string, fd *os.File, args ...string) (*Process, error) {
	p := &Process{out: &tail{}}
	// The process must outlive the request that started it: it ends by Close,
	// by its channel, or with its parent.
	cmd := tools.Command(context.Background(), "swtpm", append([]string{"socket", "--tpm2", "--tpmstate", "dir=" + dir + ",mode=0600"}, args...)...)
	cmd.Stdout, cmd.Stderr = p.out, p.out
	cmd.ExtraFiles = []*os.File{fd}
	child, err := proc.Start(cmd)
	if err != nil {
		return nil, fmt.Errorf("starting software TPM: %w", err)
	}
	p.child = child
	return p, nil
}

// ID names the process.
func (p *Process) ID() proc.ID { return p.child.ID }

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.child.Done() }

// Output returns the end of what it wrote.
func (p *Process) Output() string { return p.out.String() }

// Close lets the process write its state and end, and kills it after two
// seconds.
func (p *Process) Close() error {
	select {
	case <-p.child.Done():
	case <-time.After(2 * time.Second):
	}
	return p.child.Kill()
}

// explain adds what swtpm wrote to an error, which is where the reason is.
func (p *Process) explain(err error) error {
	if s := strings.TrimSpace(p.Output()); s != "" {
		return fmt.Errorf("%w (swtpm: %s)", err, s)
	}
	return err
}

// SocketPair returns two connected UNIX stream sockets, both closed on exec
// unless passed on.
func SocketPair() (a, b *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("making socket pair: %w", err)
	}
	return os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair"), nil
}

// tail keeps the last bytes written to it.
type tail struct {
	mu sync.Mutex
	b  []byte
}

const tailSize = 4096

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b) - tailSize; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(b), nil
}

// String implements fmt.Stringer.
func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(bytes.ToValidUTF8(t.b, []byte("?")))
}

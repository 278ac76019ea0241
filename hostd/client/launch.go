package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cocoon/hostd/proc"
	"cocoon/internal/fault"
)

// launchTimeout bounds a daemon's own start.
const launchTimeout = 30 * time.Second

// LaunchOptions of an ephemeral daemon.
type LaunchOptions struct {
	Program string // cocoon-hostd
	State   string // its state directory
	Tools   string // the tools tree; empty: as the program finds it
	Accel   string // auto, kvm or tcg; empty: auto
	// Transport is one of package vsock's; empty: auto.
	Transport string
	Log       io.Writer // the daemon's log; may be nil
}

// Launched is an ephemeral daemon: it ends, with all its VMs, when Close is
// called or when the calling process dies, however it dies.
type Launched struct {
	*Client
	child *proc.Child
	stdin io.Closer
	once  sync.Once
	err   error
}

// Launch starts an ephemeral daemon and waits until it answers.
func Launch(ctx context.Context, o LaunchOptions) (*Launched, error) {
	state, err := filepath.Abs(o.State)
	if err != nil {
		return nil, fmt.Errorf("launching host daemon: %w", err)
	}
	args := []string{"serve", "--state", state, "--ephemeral", "--exit-with-stdin"}
	if o.Tools != "" {
		args = append(args, "--tools", o.Tools)
	}
	if o.Accel != "" {
		args = append(args, "--accelerator", o.Accel)
	}
	if o.Transport != "" {
		args = append(args, "--transport", o.Transport)
	}
	cmd := exec.Command(o.Program, args...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("launching host daemon: %w", err)
	}
	var tail tailWriter
	cmd.Stderr = io.Writer(&tail)
	if o.Log != nil {
		cmd.Stderr = io.MultiWriter(o.Log, &tail)
	}
	child, err := proc.Start(cmd)
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, "hostd.launch", "build it: make build", "launching host daemon: %w", err)
	}
	l := &Launched{Client: New(filepath.Join(state, SocketFile)), child: child, stdin: stdin}
	ctx, cancel := context.WithTimeout(ctx, launchTimeout)
	defer cancel()
	for {
		if _, err := l.Status(ctx); err == nil {
			return l, nil
		}
		select {
		case <-child.Done():
			l.Client.Close()
			return nil, fault.New(fault.ExitNotReady, "hostd.launch", "correct what the message names", "launching host daemon: it ended: %s", strings.TrimSpace(tail.String()))
		case <-ctx.Done():
			return nil, errors.Join(fault.New(fault.ExitNotReady, "hostd.launch", "see whether the machine is overloaded", "launching host daemon: %w", ctx.Err()), l.Close())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// SocketFile is the name of the socket in a daemon's state directory.
const SocketFile = "hostd.sock"

// closeTimeout is how long the VMs of an ephemeral daemon have to end.
const closeTimeout = 30 * time.Second

// Close ends the daemon and its VMs and waits until they are gone.
func (l *Launched) Close() error {
	l.once.Do(func() {
		l.Client.Close()
		l.stdin.Close()
		select {
		case <-l.child.Done():
		case <-time.After(closeTimeout):
			l.err = l.child.Kill()
		}
	})
	return l.err
}

// PID is the daemon's process id.
func (l *Launched) PID() int { return l.child.ID.PID }

type tailWriter struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *tailWriter) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b) - 4096; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(b), nil
}

// String implements fmt.Stringer.
func (t *tailWriter) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "?")
}

// DefaultSocket is where the system's daemon listens, unless the environment
// names another socket in COCOON_HOSTD.
func DefaultSocket() string {
	if s := os.Getenv("COCOON_HOSTD"); s != "" {
		return s
	}
	return "/run/cocoon-hostd/hostd.sock"
}

package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/vfio"
	"cocoon/internal/childpipe"
	"cocoon/internal/toolstree"
)

// Limits of one question to the host.
const (
	runTimeout  = 2500 * time.Millisecond
	dialTimeout = 2 * time.Second
	maxOutput   = 4 << 20
)

// Linux is the running host.
type Linux struct {
	vfio.Linux
	// Tools has the pinned QEMU; nil: the host's own is looked for.
	Tools *toolstree.Tree
}

// NewLinux returns the running host.
func NewLinux(tools *toolstree.Tree) (*Linux, error) {
	v, err := vfio.NewLinux()
	if err != nil {
		return nil, err
	}
	return &Linux{Linux: v, Tools: tools}, nil
}

// Run runs a program of the tools tree where that has it, else the host's.
func (l *Linux) Run(ctx context.Context, name string, args ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	if l.Tools != nil {
		if _, err := l.Tools.Path(name); err == nil {
			cmd = l.Tools.Command(ctx, name, args...)
		}
	}
	var out limited
	if err := childpipe.Run(cmd, &out); err != nil {
		return nil, fmt.Errorf("running %s: %w", name, err)
	}
	return out.b, nil
}

// limited keeps the beginning of what is written to it.
type limited struct{ b []byte }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	if n := maxOutput - len(l.b); n > 0 {
		l.b = append(l.b, p[:min(n, len(p))]...)
	}
	return len(p), nil
}

// Dial opens a connection and closes it.
func (l *Linux) Dial(ctx context.Context, addr string) error {
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", addr)
	if err != nil {
		return fmt.Errorf("dialing %s: %w", addr, err)
	}
	return c.Close()
}

// FreeBytes asks statfs.
func (l *Linux) FreeBytes(dir string) (uint64, error) {
	for {
		var st unix.Statfs_t
		err := unix.Statfs(dir, &st)
		if err == nil {
			return st.Bavail * uint64(st.Bsize), nil
		}
		up := filepath.Dir(dir)
		if !errors.Is(err, unix.ENOENT) || up == dir {
			return 0, fmt.Errorf("looking for space in %s: %w", dir, err)
		}
		dir = up
	}
}

// ClockSynchronised asks adjtimex(2), whose STA_UNSYNC bit NTP clears.
func (l *Linux) ClockSynchronised() (bool, error) {
	const staUnsync = 0x0040
	var t unix.Timex
	if _, err := unix.Adjtimex(&t); err != nil {
		return false, fmt.Errorf("reading the clock's state: %w", err)
	}
	return t.Status&staUnsync == 0, nil
}

// Now is the host's time.
func (l *Linux) Now() time.Time { return time.Now() }

// Root says whether this is the superuser.
func (l *Linux) Root() bool { return os.Geteuid() == 0 }

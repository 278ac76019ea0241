package pid1

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Reaper collects orphans without taking the exit status that an exec.Cmd
// waits for. It looks at an exited child with waitid(WNOWAIT), which leaves
// it in place, and collects it only if no command that was started through
// Start owns it.
type Reaper struct {
	mu    sync.Mutex
	owned map[int]bool

	peek    func() (pid int, err error) // an exited child, or 0
	collect func(pid int) error
}

// NewReaper returns a Reaper for this process's children.
func NewReaper() *Reaper {
	return &Reaper{owned: map[int]bool{}, peek: peekChild, collect: collectChild}
}

// Start starts the command and owns its process until the returned wait
// function has been called, which must happen exactly once.
func (r *Reaper) Start(cmd *exec.Cmd) (wait func() error, err error) {
	// Held across the start: a child that exits at once must be owned before
	// anyone can look at it.
	r.mu.Lock()
	defer r.mu.Unlock()
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	pid := cmd.Process.Pid
	r.owned[pid] = true
	return func() error {
		err := cmd.Wait()
		r.mu.Lock()
		delete(r.owned, pid)
		r.mu.Unlock()
		return err
	}, nil
}

// Run collects orphans until ctx ends. SIGCHLD wakes it; since signals merge,
// and since an owned child may stand in front of orphans until its command
// has collected it, it also looks again after a while.
func (r *Reaper) Run(ctx context.Context) {
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGCHLD)
	defer signal.Stop(sig)
	const soon, later = 20 * time.Millisecond, time.Second
	next := time.NewTimer(later)
	defer next.Stop()
	for {
		if blocked := r.sweep(); blocked {
			next.Reset(soon)
		} else {
			next.Reset(later)
		}
		select {
		case <-ctx.Done():
			return
		case <-sig:
		case <-next.C:
		}
	}
}

// sweep collects every orphan in front of the first owned child, and reports
// whether it stopped at one.
func (r *Reaper) sweep() (blocked bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		pid, err := r.peek()
		if err != nil || pid == 0 {
			return false
		}
		if r.owned[pid] {
			return true
		}
		if err := r.collect(pid); err != nil {
			return true
		}
	}
}

func peekChild() (int, error) {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_ALL, 0, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return siginfoPID(&info), nil
	}
}

func collectChild(pid int) error {
	for {
		_, err := unix.Wait4(pid, nil, unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

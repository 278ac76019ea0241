// Package proc starts and identifies processes so that none outlives the one
// that answers for it: children die with their parent, and a process is known
// by its id together with its start time, which Linux never gives twice in
// one boot (proc(5), /proc/pid/stat field 22).
package proc

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ID names one process of this boot.
type ID struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // clock ticks since boot
}

// Self returns the calling process's ID.
func Self() (ID, error) { return Of(os.Getpid()) }

// Of returns the ID of the live process with this pid; a zombie is not live.
func Of(pid int) (ID, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ID{}, fmt.Errorf("reading process %d: %w", pid, err)
	}
	// The command name in parentheses may hold anything, also parentheses.
	i := bytes.LastIndexByte(b, ')')
	if i < 0 {
		return ID{}, fmt.Errorf("reading process %d: malformed stat", pid)
	}
	f := strings.Fields(string(b[i+1:]))
	if len(f) < 20 {
		return ID{}, fmt.Errorf("reading process %d: malformed stat", pid)
	}
	if f[0] == "Z" || f[0] == "X" {
		return ID{}, fmt.Errorf("reading process %d: %w", pid, os.ErrProcessDone)
	}
	start, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return ID{}, fmt.Errorf("reading process %d: %w", pid, err)
	}
	return ID{PID: pid, Start: start}, nil
}

// Alive reports whether exactly this process still runs.
func (id ID) Alive() bool {
	if id.PID <= 0 {
		return false
	}
	now, err := Of(id.PID)
	return err == nil && now == id
}

// Signal sends sig to exactly this process: the pidfd is opened first and the
// start time compared after, so that a recycled pid is never hit. A process
// that is gone is no error.
func (id ID) Signal(sig syscall.Signal) error {
	if id.PID <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(id.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening process %d: %w", id.PID, err)
	}
	defer unix.Close(fd)
	if !id.Alive() {
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.Signal(sig), nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("signalling process %d: %w", id.PID, err)
	}
	return nil
}

// WaitGone waits until the process is gone and reports whether it went within
// the time.
func (id ID) WaitGone(d time.Duration) bool {
	deadline := time.Now().Add(d)
	for id.Alive() {
		if time.Now().After(deadline) {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
	return true
}

// Child is a started process.
type Child struct {
	ID   ID
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts cmd so that the kernel kills it when this process dies, in a
// process group of its own so that a terminal's interrupt reaches only its
// keeper.
//
// The parent-death signal is tied to the thread that starts the child
// (prctl(2), PR_SET_PDEATHSIG), so one thread stays locked until the child is
// reaped.
func Start(cmd *exec.Cmd) (*Child, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr.Setpgid = true
	c := &Child{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		defer close(c.done)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		id, err := Of(cmd.Process.Pid)
		if err != nil {
			// It ended before it could be looked at; the pid stays ours until Wait.
			id = ID{PID: cmd.Process.Pid}
		}
		c.ID = id
		started <- nil
		c.err = cmd.Wait()
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return c, nil
}

// Done is closed once the process has been reaped.
func (c *Child) Done() <-chan struct{} { return c.done }

// Wait waits for the end and returns what os/exec says about it.
func (c *Child) Wait() error { <-c.done; return c.err }

// Kill kills the process and reaps it.
func (c *Child) Kill() error {
	select {
	case <-c.done:
		return nil
	default:
	}
	if err := c.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("killing process %d: %w", c.cmd.Process.Pid, err)
	}
	<-c.done
	return nil
}

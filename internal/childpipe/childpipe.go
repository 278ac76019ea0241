// Package childpipe carries what a child process writes.
//
// exec.Cmd reads a child's output until every process that holds the pipe has
// ended, or until its WaitDelay is over, which on a busy machine may be before
// the output that is there was read. Here the child's end is the end: what it
// had written by then is read, however long that takes, and processes that it
// left behind are not waited for.
package childpipe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// maxRest bounds what is read after the child's end: a pipe's largest size
// (pipe(7), pipe-max-size). A process that is left behind may write for ever.
const maxRest = 1 << 20

// Pipe is a pipe from a child to a writer.
type Pipe struct {
	// Child is what the child gets as its output.
	Child *os.File

	r    *os.File
	w    io.Writer
	done chan struct{}
}

// New returns a pipe whose output goes to w, from one goroutine at a time. An
// error of w ends nothing: the child's output is read on. One of Drain and
// Close must follow.
func New(w io.Writer) (*Pipe, error) {
	r, child, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("making a pipe: %w", err)
	}
	p := &Pipe{Child: child, r: r, w: w, done: make(chan struct{})}
	go p.carry()
	return p, nil
}

// Run runs a command to its end with its standard output going to w.
func Run(cmd *exec.Cmd, w io.Writer) error {
	p, err := New(w)
	if err != nil {
		return err
	}
	cmd.Stdout = p.Child
	if err := cmd.Start(); err != nil {
		p.Close()
		return err
	}
	p.Started()
	err = cmd.Wait()
	p.Drain()
	return err
}

func (p *Pipe) carry() {
	defer close(p.done)
	buf := make([]byte, 32<<10)
	for {
		n, err := p.r.Read(buf)
		if n > 0 {
			_, _ = p.w.Write(buf[:n])
		}
		if err != nil {
			return // the end, or Drain's deadline
		}
	}
}

// Started closes this process's copy of the child's end; call it once the child
// has been started.
func (p *Pipe) Started() { p.Child.Close() }

// Drain returns when all that the child has written is with the writer. Call it
// once the child has ended.
func (p *Pipe) Drain() {
	_ = p.r.SetReadDeadline(time.Unix(1, 0)) // a pipe has deadlines
	<-p.done
	_ = p.r.SetReadDeadline(time.Time{})
	if raw, err := p.r.SyscallConn(); err == nil {
		_ = raw.Read(p.rest) // a closed pipe has no rest
	}
	p.r.Close()
}

// rest reads what is in the pipe, and does not wait for more.
func (p *Pipe) rest(fd uintptr) bool {
	buf := make([]byte, 32<<10)
	for left := maxRest; left > 0; {
		n, err := syscall.Read(int(fd), buf[:min(len(buf), left)])
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || n == 0 {
			break
		}
		_, _ = p.w.Write(buf[:n])
		left -= n
	}
	return true
}

// Close gives the pipe up for a child that was not started.
func (p *Pipe) Close() {
	p.Child.Close()
	<-p.done
	p.r.Close()
}

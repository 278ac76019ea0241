package pid1

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/childpipe"
)

// Service is a child program with what it is allowed.
type Service struct {
	Name   string
	Path   string
	Args   []string
	Env    []string // the whole environment; nothing is inherited
	Harden Hardening
}

// Child is a running service.
type Child struct {
	Name string
	PID  int
	Done <-chan struct{} // closed when it has exited

	cmd *exec.Cmd
	mu  sync.Mutex
	err error
}

// Err returns how the service exited, after Done.
func (c *Child) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Stop sends SIGTERM, waits for grace, then kills.
func (c *Child) Stop(grace time.Duration) {
	// Errors mean that it is gone, which is what is wanted.
	_ = c.cmd.Process.Signal(unix.SIGTERM)
	t := time.NewTimer(grace)
	defer t.Stop()
	select {
	case <-c.Done:
	case <-t.C:
		_ = c.cmd.Process.Kill()
		<-c.Done
	}
}

// ExecName is the first argument with which this program is run again to
// apply a hardening row between fork and exec.
const ExecName = "cocoon-harden-exec"

// StartService starts a service, its output going line by line to the log.
// The hardening is applied in the child by Harden-exec: self is the path of
// this program, run with ExecName.
func StartService(ctx context.Context, r *Reaper, self string, s Service, log *slog.Logger) (*Child, error) {
	out := &lineLog{log: log.With("service", s.Name)}
	return start(r, self, s, nil, out, out)
}

func start(r *Reaper, self string, s Service, stdin io.Reader, stdout, stderr io.Writer) (*Child, error) {
	spec, err := s.Harden.encode()
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	cmd := exec.Command(self, append([]string{spec, s.Path}, s.Args...)...)
	cmd.Args[0] = ExecName
	cmd.Env = s.Env
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Cloneflags: s.Harden.cloneFlags()}
	if s.Harden.Cgroup != "" {
		dir, err := os.Open(filepath.Join(CgroupRoot, s.Harden.Cgroup))
		if err != nil {
			return nil, fmt.Errorf("starting %s: %w", s.Name, err)
		}
		defer dir.Close()
		cmd.SysProcAttr.UseCgroupFD, cmd.SysProcAttr.CgroupFD = true, int(dir.Fd())
	}
	// A grandchild that keeps the output open must not hold up the wait.
	outputs, err := pipes(stdout, stderr)
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, outputs[0].Child, outputs[len(outputs)-1].Child
	cmd.WaitDelay = 10 * time.Second // for a grandchild that keeps the input open
	started, err := r.Start(cmd)
	if err != nil {
		for _, p := range outputs {
			p.Close()
		}
		return nil, fmt.Errorf("starting %s: %w", s.Name, err)
	}
	for _, p := range outputs {
		p.Started()
	}
	wait := func() error {
		err := started()
		for _, p := range outputs {
			p.Drain()
		}
		return err
	}
	done := make(chan struct{})
	c := &Child{Name: s.Name, PID: cmd.Process.Pid, Done: done, cmd: cmd}
	if s.Harden.OOMScoreAdj != 0 {
		path := "/proc/" + strconv.Itoa(cmd.Process.Pid) + "/oom_score_adj"
		if err := os.WriteFile(path, []byte(strconv.Itoa(s.Harden.OOMScoreAdj)), 0); err != nil {
			_ = cmd.Process.Kill()
			_ = wait()
			return nil, fmt.Errorf("starting %s: %w", s.Name, err)
		}
	}
	go func() {
		err := wait()
		c.mu.Lock()
		c.err = err
		c.mu.Unlock()
		close(done)
	}()
	return c, nil
}

// pipes returns a pipe to each writer, or one where both are the same.
func pipes(stdout, stderr io.Writer) ([]*childpipe.Pipe, error) {
	out, err := childpipe.New(stdout)
	if err != nil || stdout == stderr {
		return []*childpipe.Pipe{out}, err
	}
	errs, err := childpipe.New(stderr)
	if err != nil {
		out.Close()
		return nil, err
	}
	return []*childpipe.Pipe{out, errs}, nil
}

// lineLog writes complete lines to a log, each cut at maxLogLine bytes.
type lineLog struct {
	log *slog.Logger
	buf bytes.Buffer
}

const maxLogLine = 1024

// Write implements io.Writer; the pipe calls it from one goroutine at a time.
func (l *lineLog) Write(p []byte) (int, error) {
	for _, c := range p {
		if c == '\n' {
			// logrus, which containerd and its shims write with, names levels
			// so; the chatty ones are for debugging only.
			level := slog.LevelInfo
			if line := l.buf.Bytes(); bytes.Contains(line, []byte("level=info")) || bytes.Contains(line, []byte("level=debug")) {
				level = slog.LevelDebug
			}
			l.log.Log(context.Background(), level, l.buf.String())
			l.buf.Reset()
		} else if l.buf.Len() < maxLogLine {
			l.buf.WriteByte(c)
		}
	}
	return len(p), nil
}

var _ io.Writer = (*lineLog)(nil)

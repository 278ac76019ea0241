package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"cocoon/internal/fault"
)

// service is a program of the project that runs as a child of the demo. The
// kernel kills it when the demo dies, however that happens.
type service struct {
	name string
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
	err  error
}

func startService(logDir, name, bin string, args ...string) (*service, error) {
	log, err := os.Create(filepath.Join(logDir, name+".log"))
	if err != nil {
		return nil, fmt.Errorf("making log of %s: %w", name, err)
	}
	cmd := exec.Command(bin, args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
	s := &service{name: name, cmd: cmd, log: log, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		// Pdeathsig fires when the *thread* that forked ends; this goroutine
		// keeps its thread until the child is gone.
		runtime.LockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		started <- nil
		s.err = cmd.Wait()
		close(s.done)
	}()
	if err := <-started; err != nil {
		log.Close()
		return nil, fault.New(fault.ExitInternal, "demo.service", "run make deps and try again", "starting %s: %w", name, err)
	}
	return s, nil
}

// waitHealthy polls url until it answers 200.
func (s *service) waitHealthy(ctx context.Context, hc *http.Client, url string, limit time.Duration) error {
	return s.waitFor(ctx, limit, func() error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := hc.Do(req)
		if err != nil {
			return err
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusOK {
			return fmt.Errorf("it answers %s", resp.Status)
		}
		return nil
	})
}

// waitFor tries until it works, the service ends, or the time is over.
func (s *service) waitFor(ctx context.Context, limit time.Duration, try func() error) error {
	deadline := time.Now().Add(limit)
	for {
		err := try()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return s.fault("it did not become ready: %w", err)
		}
		select {
		case <-s.done:
			return s.fault("it ended: %w", s.exit())
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func (s *service) exit() error {
	if s.err != nil {
		return s.err
	}
	return errors.New("exit status 0")
}

func (s *service) fault(format string, args ...any) error {
	return fault.New(fault.ExitInternal, "demo.service", "its last words are in "+s.log.Name(), "running "+s.name+": "+format, args...)
}

// stop asks the service to end and kills it if it does not.
func (s *service) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		_ = syscall.Kill(-s.cmd.Process.Pid, syscall.SIGKILL)
		<-s.done
	}
	s.log.Close()
}

// lockDir takes the lock of the output directory, so that two demos cannot
// write into one another. The kernel releases it when the process ends.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fault.New(fault.ExitInternal, "demo.output", "choose another directory with --out", "making %s: %w", dir, err)
	}
	f, err := os.OpenFile(dir+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "demo.output", "choose another directory with --out", "opening lock: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.New(fault.ExitInternal, "demo.busy", "wait for the other demo, or choose another directory with --out",
			"another demo is running in %s", dir)
	}
	return f, nil
}

// checkSpace refuses to begin what the disk cannot hold.
func checkSpace(dir string, need uint64) error {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return fmt.Errorf("looking at free disk space: %w", err)
	}
	if have := st.Bavail * uint64(st.Bsize); have < need {
		return fault.Mismatch(fault.ExitNotReady, "demo.disk_space", "free disk space of "+dir,
			fmt.Sprintf("%d MiB", need>>20), fmt.Sprintf("%d MiB", have>>20), "free space, or clone on a larger disk")
	}
	return nil
}

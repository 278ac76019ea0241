package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/hostd/vsock"
	"cocoon/internal/fault"
	"cocoon/internal/undo"
)

// startTimeout bounds a start until QEMU runs, the TPM's manufacture
// included, on a busy machine.
const startTimeout = 2 * time.Minute

// maxLogQuote is how much of a keeper's log an error quotes, in bytes.
const maxLogQuote = 2048

// Start boots a VM and returns once QEMU runs. A VM of that name that has
// ended is replaced; it keeps its TPM. On failure nothing is left running.
func (d *Daemon) Start(ctx context.Context, s *spec.Spec) (*machine.State, error) {
	if err := s.Validate(); err != nil {
		return nil, fault.New(fault.ExitParse, "vm.spec.invalid", "docs/hostd.md lists every field of a VM spec", "starting VM: %w", err)
	}
	done, err := d.claim(s.Name)
	if err != nil {
		return nil, err
	}
	defer done()
	// Under the claim: a drain that begins later finds this VM and ends it.
	if err := d.open("starting", s.Name); err != nil {
		return nil, err
	}
	if r, err := d.store.Get(s.Name); err == nil && r.Upgrade != nil {
		return nil, unfinished("starting", s.Name)
	}
	return d.start(ctx, s, func(r *store.Record) { r.Restarts, r.Next, r.LastError, r.Revive = 0, nil, "", false })
}

// start boots a VM whose name is claimed. change, where not nil, changes its
// record in the same step in which the spec becomes this one.
func (d *Daemon) start(ctx context.Context, s *spec.Spec, change func(*store.Record)) (st *machine.State, err error) {
	if old, err := d.Get(s.Name); err == nil && !old.Over() && old.Keeper.Alive() {
		return nil, fault.New(fault.ExitNotReady, "vm.running", "stop it first: cocoon vm stop "+s.Name, "starting VM %s: it runs already", s.Name)
	}
	if err := s.CheckFiles(); err != nil {
		return nil, err
	}
	free, err := d.claimGPUs(s, true)
	if err != nil {
		return nil, err
	}
	defer free()
	if err := d.releaseDropped(ctx, s); err != nil {
		return nil, err
	}
	var u undo.Stack
	defer u.UndoInto(&err)
	if s.GPUs != nil {
		if err := d.o.GPUs.Prepare(ctx, s.GPUs); err != nil {
			return nil, err
		}
		if s.GPUs.GiveBack {
			u.Push("giving GPUs back", func() error { return d.o.GPUs.Release(context.WithoutCancel(ctx), s.GPUs) })
		}
	}
	dec, err := d.Accel(ctx, filepath.Join(s.Image, spec.KernelFile))
	if err != nil {
		return nil, err
	}
	transport, why, err := vsock.Probe(d.o.Transport, vsock.DevicePath)
	if err != nil {
		return nil, err
	}
	d.o.Logger.Info("starting vm", "vm", s.Name, "accelerator", dec.Accel, "reason", dec.Reason, "transport", transport, "transport_reason", why)
	dir := d.dir(s.Name)
	req := keeper.Request{Accel: dec.Accel, AccelWhy: dec.Reason, Transport: transport, TransportWhy: why}
	if err := d.prepare(dir, s, req, change, &u); err != nil {
		return nil, err
	}
	child, err := d.spawn(dir)
	if err != nil {
		return nil, err
	}
	u.Push("ending keeper", func() error {
		if err := child.id.Signal(keeper.SignalPowerOff); err != nil {
			return err
		}
		select {
		case <-child.done:
			return nil
		case <-time.After(10 * time.Second):
			return child.id.Signal(unix.SIGKILL)
		}
	})
	st, err = d.awaitQEMU(ctx, s.Name, child)
	if err != nil {
		return nil, err
	}
	u.Keep()
	return st, nil
}

// prepare lays out the VM's directory and remembers it.
func (d *Daemon) prepare(dir string, s *spec.Spec, req keeper.Request, change func(*store.Record), u *undo.Stack) error {
	_, serr := os.Stat(dir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fault.New(fault.ExitInternal, "vm.dir", "check that the state directory is writable and has space", "making VM directory: %w", err)
	}
	r, err := d.store.Get(s.Name)
	switch {
	case errors.Is(err, store.ErrNotFound):
		// What a failed first start leaves is of no use to anyone.
		if errors.Is(serr, os.ErrNotExist) {
			u.Push("removing VM directory", func() error { return os.RemoveAll(dir) })
		}
		u.Push("forgetting VM", func() error { return d.store.Delete(s.Name) })
	case err != nil:
		return err
	default:
		old := r
		u.Push("restoring the VM's record", func() error { return d.put(old) })
		if err := d.keepCrash(s.Name); err != nil {
			return err
		}
	}
	for _, f := range []string{machine.StateFile, machine.ConsoleFile, machine.ConsoleFile + ".1",
		machine.StatusFile, machine.StatusFile + ".1", keeper.LogFile, keeper.LogFile + ".1"} {
		if err := os.Remove(filepath.Join(dir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("clearing VM directory: %w", err)
		}
	}
	ca := s.TPMCA
	if ca == "" {
		ca = DefaultCA
	}
	firmware := s.Firmware
	if firmware == "" {
		firmware = machine.Firmware(d.o.Tools, s.TEE)
	}
	req.Spec, req.Tools, req.Firmware = *s, d.o.Tools.Dir, firmware
	req.Vouchers = filepath.Join(d.o.Dir, vouchersDir, s.Name)
	req.CADir, req.CA, req.Ephemeral = filepath.Join(d.o.Dir, caDir), ca, d.o.Ephemeral
	if err := keeper.WriteRequest(dir, &req); err != nil {
		return err
	}
	r.Spec, r.Created, r.Want, r.GPUsUsed = *s, d.o.Clock().UTC(), store.WantRunning, s.GPUs != nil
	if change != nil {
		change(&r)
	}
	if err := d.halted(s.Name); err != nil {
		return err
	}
	return d.put(r)
}

// child is a keeper that this daemon started.
type child struct {
	id   proc.ID
	done chan struct{}
	err  error // after done
}

var errKeeper = errors.New("no machine came up")

// spawn starts a keeper. It is not bound to this process: it outlives the
// daemon unless it is ephemeral, and then the lifeline ends it.
func (d *Daemon) spawn(dir string) (*child, error) {
	argv := append(append([]string(nil), d.o.Keeper...), dir)
	cmd := exec.Command(argv[0], argv[1:]...)
	// A session of its own: a terminal's interrupt is for the daemon.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	// Into the log file and not through us, who may be gone.
	log, err := os.OpenFile(filepath.Join(dir, keeper.LogFile), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("starting keeper: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	if d.o.Ephemeral {
		cmd.ExtraFiles = []*os.File{d.cord} // keeper.LifelineFD
	}
	if err := cmd.Start(); err != nil {
		return nil, fault.New(fault.ExitInternal, "vm.keeper.start", "check the daemon's installation", "starting keeper: %w", err)
	}
	c := &child{done: make(chan struct{})}
	if c.id, err = proc.Of(cmd.Process.Pid); err != nil {
		c.id = proc.ID{}
	}
	d.wg.Add(1)
	go func() {
		defer d.wg.Done()
		defer close(c.done)
		c.err = cmd.Wait()
	}()
	return c, nil
}

// awaitQEMU waits until the VM runs or its keeper has given up.
func (d *Daemon) awaitQEMU(ctx context.Context, name string, c *child) (*machine.State, error) {
	dir := d.dir(name)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		over := false
		select {
		case <-c.done:
			over = true
		case <-ctx.Done():
			return nil, fault.New(fault.ExitNotReady, "vm.start.timeout", "see whether the machine is overloaded, then start it again", "starting VM: %w", ctx.Err())
		case <-t.C:
		}
		if err := d.halted(name); err != nil {
			return nil, err
		}
		s, err := machine.ReadState(dir)
		switch {
		case err == nil && s.Phase == machine.Failed:
			// Let it finish, so that a new start finds the VM's lock free.
			<-c.done
			return nil, s.Err()
		case err == nil && s.Phase != machine.Starting:
			return s, nil
		case err != nil && !errors.Is(err, os.ErrNotExist):
			return nil, fmt.Errorf("starting VM: %w", err)
		case over:
			return nil, fault.New(fault.ExitInternal, "vm.keeper.start", "correct what the message names", "starting VM: the keeper ended: %w: %s", errors.Join(errKeeper, c.err), quote(filepath.Join(dir, keeper.LogFile)))
		}
	}
}

// quote returns the end of a log.
func quote(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return "no log"
	}
	defer f.Close()
	if fi, err := f.Stat(); err == nil && fi.Size() > maxLogQuote {
		if _, err := f.Seek(-maxLogQuote, io.SeekEnd); err != nil {
			return "no log"
		}
	}
	b, err := io.ReadAll(io.LimitReader(f, maxLogQuote))
	if err != nil {
		return "no log"
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "?")
}

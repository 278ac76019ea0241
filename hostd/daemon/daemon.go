// Package daemon provisions VMs on one host: it starts a keeper process for
// each, finds the keepers again after its own restart, and cleans up behind
// those that died. In go specs; the state of each VM is read from its
// directory.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/accel"
	"cocoon/hostd/gpumode"
	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

// Names in the state directory.
const (
	lockFile = "hostd.lock"
	vmsDir   = "vms"
	// vouchersDir has a directory for each VM, which outlives it: vouchers are
	// money.
	vouchersDir = "vouchers"
	caDir       = "tpmca"
)

// DefaultCA is the software-TPM authority of specs that name none.
const DefaultCA = "default"

// Options of a daemon.
type Options struct {
	Dir       string         // state directory
	Tools     toolstree.Tree // QEMU, swtpm, firmware
	Accel     string         // auto, kvm or tcg
	Transport string         // one of package vsock's; empty: auto
	Keeper    []string       // argument vector of a keeper; the VM's directory is appended
	Carry     Carry          // carries hand-overs; nil: none is
	Ephemeral bool           // VMs end with the daemon, also when it is killed
	// GPUs makes devices ready for a VM and takes them back; nil: this host's,
	// whose mode GPUTool sets where there is one.
	GPUs    GPUHost
	GPUTool *gpumode.Tool
	// Devices opens the host's sysfs; nil: this host's.
	Devices func() (vfio.Reader, error)
	Clock   func() time.Time
	Logger  *slog.Logger
}

// Daemon is a running host daemon.
type Daemon struct {
	o        Options
	lock     *os.File
	store    *store.Store
	lifeline *os.File // write end; nil unless ephemeral
	cord     *os.File // read end, inherited by keepers

	mu   sync.Mutex
	busy map[string]*work // names that are being started or removed
	wg   sync.WaitGroup   // keepers that are our children
	acc  sync.Mutex       // one probe at a time

	released map[string]time.Time // when devices may be released again; guarded by mu

	claims sync.Mutex
	gpus   map[string][]string // devices of VMs that are being started
}

// Open takes the state directory, finds the VMs that run, and cleans up
// behind those that do not.
func Open(o Options) (_ *Daemon, err error) {
	for _, dir := range []string{o.Dir, filepath.Join(o.Dir, vmsDir), filepath.Join(o.Dir, caDir)} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fault.New(fault.ExitInternal, "hostd.state_dir", "choose a directory that this user can write to (--state)", "opening state directory: %w", err)
		}
	}
	d := &Daemon{o: o, busy: map[string]*work{}, gpus: map[string][]string{}, released: map[string]time.Time{}}
	if d.o.GPUs == nil {
		d.o.GPUs = &linuxGPUs{o.GPUTool, o.Clock, o.Logger}
	}
	if d.o.Devices == nil {
		d.o.Devices = func() (vfio.Reader, error) { return vfio.NewLinux() }
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.shut())
		}
	}()
	if d.lock, err = takeLock(o.Dir); err != nil {
		return nil, err
	}
	if d.store, err = store.Open(o.Dir); errors.Is(err, store.ErrDamaged) {
		d.store, err = d.rebuild(err)
	}
	if err != nil {
		return nil, err
	}
	if o.Ephemeral {
		if d.cord, d.lifeline, err = os.Pipe(); err != nil {
			return nil, fmt.Errorf("making lifeline: %w", err)
		}
	}
	states, err := d.List()
	if err != nil {
		return nil, err
	}
	for _, s := range states {
		o.Logger.Info("found vm", "vm", s.Name, "phase", s.Phase)
	}
	return d, nil
}

// takeLock refuses a second daemon on one state directory.
func takeLock(dir string) (*os.File, error) {
	path := filepath.Join(dir, lockFile)
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "hostd.state_dir", "choose a directory that this user can write to (--state)", "locking state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fault.New(fault.ExitNotReady, "hostd.running", "use the daemon that runs, stop it, or give another directory (--state)",
				"locking state directory: another cocoon-hostd has %s", dir)
		}
		return nil, fmt.Errorf("locking state directory: %w", err)
	}
	return f, nil
}

func (d *Daemon) shut() error {
	var errs []error
	if d.store != nil {
		errs = append(errs, d.store.Close())
	}
	for _, f := range []*os.File{d.cord, d.lifeline, d.lock} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	return errors.Join(errs...)
}

// Close ends the daemon. Ephemeral VMs are stopped first; others run on.
func (d *Daemon) Close() error {
	if d.o.Ephemeral {
		d.lifeline.Close()
		d.lifeline = nil
		d.wg.Wait()
	}
	return d.shut()
}

// dir is a VM's directory; names are checked before they get here.
func (d *Daemon) dir(name string) string { return filepath.Join(d.o.Dir, vmsDir, name) }

// CA returns the software-TPM authority called name, which is made where it
// does not exist yet.
func (d *Daemon) CA(name string) (*swtpm.CA, error) {
	if name == "" {
		name = DefaultCA
	}
	if !spec.ValidName(name) {
		return nil, fault.New(fault.ExitParse, "vm.tpm.ca_name", "use 1 to 40 of a-z, 0-9 and -", "opening software TPM CA %.64q", name)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return swtpm.OpenCA(filepath.Join(d.o.Dir, caDir), name, d.o.Clock)
}

// Accel returns the accelerator and why; kernel is part of the probe where it
// is not empty.
func (d *Daemon) Accel(ctx context.Context, kernel string) (accel.Decision, error) {
	d.acc.Lock()
	defer d.acc.Unlock()
	return accel.Decide(ctx, accel.Options{Tools: d.o.Tools, Firmware: d.o.Tools.OVMF(), Kernel: kernel,
		Dir: d.o.Dir, Force: d.o.Accel, Clock: d.o.Clock})
}

// work is what has a name.
type work struct{ stopped bool } // its owner stopped the VM since it began

// claim marks a name as being worked on.
func (d *Daemon) claim(name string) (func(), error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.busy[name] != nil {
		return nil, fault.New(fault.ExitNotReady, "vm.busy", "try again in a moment", "changing VM %s: another request is changing it", name)
	}
	d.busy[name] = &work{}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.busy, name)
	}, nil
}

func notFound(name string) error {
	return fault.New(fault.ExitNotReady, "vm.unknown", "see which there are: cocoon vm list", "looking for VM %.64q: there is none", name)
}

// Get returns a VM's state. One whose keeper has died is cleaned up first.
func (d *Daemon) Get(name string) (*machine.State, error) {
	if !spec.ValidName(name) {
		return nil, notFound(name)
	}
	r, err := d.store.Get(name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, notFound(name)
	}
	if err != nil {
		return nil, err
	}
	return d.state(r), nil
}

// List returns the state of every VM by name.
func (d *Daemon) List() ([]*machine.State, error) {
	rs, err := d.store.List()
	if err != nil {
		return nil, err
	}
	out := make([]*machine.State, 0, len(rs))
	for _, r := range rs {
		out = append(out, d.state(r))
	}
	return out, nil
}

// Paths returns where a VM's console and status lines are kept.
func (d *Daemon) Paths(name string) (console, status string, err error) {
	if _, err := d.Get(name); err != nil {
		return "", "", err
	}
	return filepath.Join(d.dir(name), machine.ConsoleFile), filepath.Join(d.dir(name), machine.StatusFile), nil
}

// Stop stops a VM and waits for its end. With powerOff it gets no time to
// shut down.
func (d *Daemon) Stop(ctx context.Context, name string, powerOff bool) (*machine.State, error) {
	if !spec.ValidName(name) {
		return nil, notFound(name)
	}
	if err := d.want(name, store.WantStopped); err != nil {
		return nil, err
	}
	if err := d.awaitKeeper(ctx, name); err != nil {
		return nil, err
	}
	st, err := d.end(ctx, name, powerOff)
	if err != nil {
		return nil, err
	}
	// Whoever has the name does it, else the supervisor.
	if done, err := d.claim(name); err == nil {
		d.release(ctx, name)
		done()
	}
	return st, nil
}

// want remembers what the owner wants, so that no supervisor does the opposite.
func (d *Daemon) want(name, want string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.busy[name]; w != nil {
		w.stopped = want == store.WantStopped
	}
	r, err := d.store.Get(name)
	if errors.Is(err, store.ErrNotFound) {
		return notFound(name)
	}
	if err != nil || r.Want == want {
		return err
	}
	r.Want, r.Next = want, nil
	if r.Upgrade != nil {
		r.Upgrade.Ran = want == store.WantRunning
	}
	return d.store.Put(r)
}

// put writes the record of a VM whose name is claimed. What its owner wants
// since then stays: nobody starts what he has stopped.
func (d *Daemon) put(r store.Record) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.busy[r.Spec.Name]; w != nil && w.stopped {
		r.Want, r.Next = store.WantStopped, nil
		if r.Upgrade != nil {
			r.Upgrade.Ran = false
		}
	}
	return d.store.Put(r)
}

// halted returns an error where the owner has stopped a VM that is being
// started.
func (d *Daemon) halted(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if w := d.busy[name]; w != nil && w.stopped {
		return fault.New(fault.ExitNotReady, codeStopped, "start it again if it should run", "starting VM %s: it was stopped meanwhile", name)
	}
	return nil
}

const codeStopped = "vm.stopped"

// awaitKeeper waits while a VM is being started that has no process yet: there
// is nothing to signal, and its start sees that it was stopped.
func (d *Daemon) awaitKeeper(ctx context.Context, name string) error {
	t := time.NewTicker(20 * time.Millisecond)
	defer t.Stop()
	for {
		s, err := d.Get(name)
		if fault.Has(err, "vm.unknown") {
			return nil // the start that was taken back was its first
		}
		if err != nil || s.Phase != machine.Starting || s.Keeper.PID != 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stopping VM %s: %w", name, ctx.Err())
		case <-t.C:
		}
	}
}

// end stops a VM and waits for its end.
func (d *Daemon) end(ctx context.Context, name string, powerOff bool) (*machine.State, error) {
	s, err := d.Get(name)
	if err != nil || s.Over() {
		return s, err
	}
	sig := keeper.SignalStop
	if powerOff {
		sig = keeper.SignalPowerOff
	}
	if err := s.Keeper.Signal(sig); err != nil {
		return nil, err
	}
	t := time.NewTicker(50 * time.Millisecond)
	defer t.Stop()
	for s.Keeper.Alive() {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("stopping VM %s: %w", name, ctx.Err())
		case <-t.C:
		}
	}
	return d.Get(name)
}

// Remove forgets a VM that has ended, with its logs and its TPM.
func (d *Daemon) Remove(name string) error {
	done, err := d.claim(name)
	if err != nil {
		return err
	}
	defer done()
	s, err := d.Get(name)
	if err != nil {
		return err
	}
	if !s.Over() {
		return fault.New(fault.ExitNotReady, "vm.running", "stop it first: cocoon vm stop "+name, "removing VM %s: it runs", name)
	}
	// With its record goes what is known of its devices.
	d.release(context.Background(), name)
	if err := os.RemoveAll(d.dir(name)); err != nil {
		return fmt.Errorf("removing VM %s: %w", name, err)
	}
	return d.store.Delete(name)
}

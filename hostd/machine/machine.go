// Package machine runs one virtual machine: its software TPM, QEMU, console
// and status port, from start to end. In goes a spec; out come a directory
// with logs and the state, which anyone may read at any time, and no process
// that outlives the machine.
package machine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/console"
	"cocoon/hostd/proc"
	"cocoon/hostd/qemu"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vsock"
	"cocoon/internal/fault"
	"cocoon/internal/undo"
)

// Bounds on what a guest can make the host keep, in bytes a file; two files
// of each exist at most.
const (
	ConsoleLimit = 4 << 20
	StatusLimit  = 16 << 20
)

// DefaultGrace is how long a guest has between power button and power off.
const DefaultGrace = 10 * time.Second

// qmpTimeout bounds QEMU's own start until it speaks QMP, on a busy machine.
const qmpTimeout = 60 * time.Second

// Options of a machine.
type Options struct {
	Spec     *spec.Spec // valid and resolved
	Dir      string     // of this VM; exists
	Tools    swtpm.Tools
	Firmware string // OVMF.fd
	Accel    string // qemu.AccelKVM or qemu.AccelTCG
	AccelWhy string // how that was decided
	CA       *swtpm.CA
	Relay    []string // argument vector of a relay; the target is appended
	// Transport is one of package vsock's, and how it was chosen; empty means
	// virtio-serial.
	Transport    string
	TransportWhy string
	// Vouchers is where the guest's vouchers are kept; empty: VouchersDir in
	// Dir.
	Vouchers string
	Console  io.Writer           // also gets the console; may be nil
	OnLine   func(*console.Line) // also gets status lines; may be nil
	// TPM, where not nil, stands between QEMU and the software TPM: it gets
	// the control channel and returns the one for QEMU.
	TPM func(ctrl *os.File) (*os.File, error)
	// Probe says whether this host can start a guest with a TEE; nil: the
	// doctor is asked.
	Probe  func(ctx context.Context, tee string) error
	Clock  func() time.Time
	Logger *slog.Logger
}

// Machine is a running VM.
type Machine struct {
	o     Options
	qemu  *proc.Child
	tpm   *swtpm.Process
	qmp   *qemu.QMP
	vsock vsock.Host // nil without
	err   *stderrTail
	pumps sync.WaitGroup

	statusLog *console.Log
	stopVsock context.CancelFunc
	look      time.Duration // how often a guest that drains is looked at
	done      chan struct{}

	mu       sync.Mutex
	state    State
	shutdown string   // reason from QEMU's SHUTDOWN event
	asked    string   // how the end was asked for, or empty
	noted    bool     // a write of the state is under way
	channel  net.Conn // where the guest reads orders; nil without
}

// Start makes the TPM where it does not exist and boots the VM. On failure
// nothing is left running. The state file is written in both cases.
func Start(ctx context.Context, o Options) (m *Machine, err error) {
	self, err := proc.Self()
	if err != nil {
		return nil, err
	}
	if o.Transport == "" {
		o.Transport, o.TransportWhy = vsock.Serial, "the default"
	}
	if o.Vouchers == "" {
		o.Vouchers = filepath.Join(o.Dir, VouchersDir)
	}
	m = &Machine{o: o, look: drainEvery, done: make(chan struct{}), err: &stderrTail{}}
	m.state = State{Name: o.Spec.Name, Phase: Starting, TEE: o.Spec.TEE, Accel: o.Accel, AccelWhy: o.AccelWhy,
		Transport: o.Transport, TransportWhy: o.TransportWhy,
		Keeper: self, Started: o.Clock().UTC(), Guest: Guest{Stages: []Stage{}}}
	if err := m.update(func(*State) {}); err != nil {
		return nil, err
	}
	var u undo.Stack
	defer func() {
		if err == nil {
			return
		}
		if uerr := u.Undo(); uerr != nil {
			err = errors.Join(err, fmt.Errorf("undoing: %w", uerr))
		}
		if werr := m.end(Failed, "could not start", err); werr != nil {
			err = errors.Join(err, werr)
		}
	}()
	if err := preflight(ctx, o); err != nil {
		return nil, err
	}
	if d := o.Spec.DataDisk; d != nil {
		if err := makeDataDisk(d.Path, int64(d.SizeMiB)<<20); err != nil {
			return nil, err
		}
	}
	if err := m.launch(ctx, &u); err != nil {
		return nil, err
	}
	u.Keep()
	go m.wait()
	return m, nil
}

// launch starts swtpm and QEMU and connects to them.
func (m *Machine) launch(ctx context.Context, u *undo.Stack) error {
	o := m.o
	cmdline, err := o.Spec.Cmdline()
	if err != nil {
		return err
	}
	if m.statusLog, err = console.Open(filepath.Join(o.Dir, StatusFile), StatusLimit); err != nil {
		return err
	}
	u.Push("closing status log", m.statusLog.Close)
	if err := m.openVsock(ctx, u); err != nil {
		return err
	}
	qo := qemu.Options{Accel: o.Accel, Firmware: o.Firmware, Cmdline: cmdline, Relay: o.Relay, Transport: o.Transport}
	if m.vsock != nil {
		qo.CID = m.vsock.CID()
	}
	if err := hardware(o.Spec, &qo); err != nil {
		return err
	}
	args, err := qemu.Args(o.Spec, qo)
	if err != nil {
		return err
	}
	ctrl, err := m.makeTPM(ctx, u)
	if err != nil {
		return err
	}
	defer ctrl.Close()

	n := 3
	if m.vsock != nil {
		n = 2 // no status port
	}
	ours, theirs, err := pairs(n)
	if err != nil {
		return err
	}
	closeTheirs := func() {
		for _, f := range theirs {
			f.Close()
		}
	}
	defer closeTheirs()
	u.Push("closing sockets", func() error {
		for _, c := range ours {
			c.Close()
		}
		return nil
	})
	cmd := o.Tools.Command(context.Background(), "qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr = m.err, m.err
	cmd.ExtraFiles = []*os.File{theirs[0], theirs[1], ctrl} // FDQMP, FDConsole, FDTPM, then FDStatus or FDVsock
	if m.vsock != nil {
		cmd.ExtraFiles = append(cmd.ExtraFiles, m.vsock.QEMU())
	} else {
		cmd.ExtraFiles = append(cmd.ExtraFiles, theirs[2])
	}
	o.Logger.Debug("starting qemu", "vm", o.Spec.Name, "argv", cmd.Args)
	if m.qemu, err = proc.Start(cmd); err != nil {
		return fmt.Errorf("starting QEMU: %w", err)
	}
	u.Push("killing QEMU", m.qemu.Kill)
	// Now only QEMU holds its ends, so that its death shows as end of file.
	closeTheirs()
	ctrl.Close()
	if m.vsock != nil {
		m.vsock.QEMU().Close()
	}
	confine(m.qemu.ID.PID, o.Logger)
	if err := m.update(func(s *State) {
		s.QEMU = m.qemu.ID
		if m.tpm != nil {
			s.SWTPM = m.tpm.ID()
		}
	}); err != nil {
		return err
	}
	if err := m.attach(ours[1]); err != nil {
		return err
	}
	if m.vsock == nil {
		m.pumps.Go(func() { m.pumpStatus(ours[2]) })
	}
	qctx, cancel := context.WithTimeout(ctx, qmpTimeout)
	defer cancel()
	if m.qmp, err = qemu.Connect(qctx, ours[0], m.event); err != nil {
		return m.explain(err)
	}
	if err := m.pin(qctx); err != nil {
		return err
	}
	return m.update(func(s *State) { s.Phase = Running })
}

// explain turns a failed start of QEMU into a fault with QEMU's own words.
func (m *Machine) explain(err error) error {
	select {
	case <-m.qemu.Done():
	case <-time.After(time.Second):
	}
	msg := strings.TrimSpace(m.err.String())
	if msg == "" {
		return fault.New(fault.ExitInternal, "vm.qemu.failed", "see whether the machine is overloaded or out of memory", "starting QEMU: %w", err)
	}
	return fault.New(fault.ExitInternal, "vm.qemu.failed", "correct what QEMU names; if it names a file of the tools tree, run: make deps",
		"starting QEMU: %s: %w", msg, err)
}

// attach starts keeping what the guest writes.
func (m *Machine) attach(con net.Conn) error {
	conLog, err := console.Open(filepath.Join(m.o.Dir, ConsoleFile), ConsoleLimit)
	if err != nil {
		return err
	}
	m.pumps.Go(func() {
		defer conLog.Close()
		defer con.Close()
		m.pumpConsole(con, conLog)
	})
	return nil
}

// pumpStatus keeps the status lines of one connection.
func (m *Machine) pumpStatus(status net.Conn) {
	defer status.Close()
	m.openChannel(status)
	defer m.closeChannel(status)
	err := console.Lines(status, func(l *console.Line) { m.line(l, m.statusLog) }, m.badLine)
	if err != nil && !errors.Is(err, net.ErrClosed) {
		m.o.Logger.Warn("status port ended", "vm", m.o.Spec.Name, "err", err)
	}
}

// Done is closed once the machine has ended and its state is written.
func (m *Machine) Done() <-chan struct{} { return m.done }

// State returns a copy of the state.
func (m *Machine) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.state
	s.Guest.Stages = append([]Stage(nil), s.Guest.Stages...)
	return s
}

// QMP returns the connection to QEMU.
func (m *Machine) QMP() *qemu.QMP { return m.qmp }

// powerTaken is how the end of a machine was asked for whose power is taken.
const powerTaken = "power taken away"

// Stop drains the guest, presses the power button, and after the grace period
// takes the power away, which it does at once without one. It returns once the
// machine has ended.
func (m *Machine) Stop(ctx context.Context, grace time.Duration) {
	m.mu.Lock()
	first := m.asked == ""
	if first || grace <= 0 {
		m.asked = "stopped"
		if grace <= 0 {
			m.asked = powerTaken
		}
	}
	m.mu.Unlock()
	if first {
		m.note(func(s *State) {
			if !s.Over() {
				s.Phase = Stopping
			}
		})
	}
	if grace > 0 {
		deadline := DefaultDrain
		if m.o.Spec.Drain > 0 {
			deadline = time.Duration(m.o.Spec.Drain) * time.Second
		}
		if err := m.drain(ctx, deadline); err != nil {
			m.o.Logger.Warn("draining", "vm", m.o.Spec.Name, "err", err)
		}
		// The power button asks the guest to shut down; one that says it is still
		// draining gets the time for it.
		if !m.forced() {
			if err := m.qmp.Do(ctx, "system_powerdown", nil, nil); err == nil && (m.gone(ctx, grace) || m.drained(ctx, grace)) {
				return
			}
		}
	}
	qctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	m.mu.Lock()
	m.asked = powerTaken
	m.mu.Unlock()
	if err := m.qmp.Do(qctx, "quit", nil, nil); err == nil && m.gone(ctx, 3*time.Second) {
		return
	}
	if err := m.qemu.Kill(); err != nil {
		m.o.Logger.Error("killing QEMU", "vm", m.o.Spec.Name, "err", err)
	}
	<-m.done
}

func (m *Machine) gone(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-m.done:
		return true
	case <-t.C:
	case <-ctx.Done():
	}
	return false
}

// wait cleans up behind QEMU and writes the last state.
func (m *Machine) wait() {
	defer close(m.done)
	werr := m.qemu.Wait()
	m.qmp.Close()
	if m.vsock != nil {
		m.closeVsock()
	}
	m.pumps.Wait()
	if err := m.statusLog.Close(); err != nil {
		m.o.Logger.Error("keeping status", "vm", m.o.Spec.Name, "err", err)
	}
	if m.tpm != nil {
		if err := m.tpm.Close(); err != nil {
			m.o.Logger.Error("ending software TPM", "vm", m.o.Spec.Name, "err", err)
		}
	}
	m.mu.Lock()
	asked, shutdown := m.asked, m.shutdown
	m.mu.Unlock()
	phase, reason, cause := outcome(asked, shutdown, werr, strings.TrimSpace(m.err.String()))
	if err := m.end(phase, reason, cause); err != nil {
		m.o.Logger.Error("writing last state", "vm", m.o.Spec.Name, "err", err)
	}
}

// outcome says how a machine ended: as was asked for, by what QEMU says of the
// guest's shutdown, or otherwise. A reset is a failure: no guest of ours asks
// for one, but a kernel that panics and a watchdog do.
func outcome(asked, shutdown string, exit error, stderr string) (phase, reason string, cause error) {
	switch {
	case asked != "":
		return Stopped, asked, nil
	case exit == nil && shutdown == "guest-shutdown":
		return Stopped, "the guest powered off", nil
	case exit == nil && shutdown == "guest-reset":
		return Failed, "the guest reset itself", fault.New(fault.ExitNotReady, "vm.guest.reset", "read the console: its kernel panicked, or its watchdog found it stalled",
			"running the guest: it reset itself, which is an end here")
	case exit == nil && shutdown != "":
		return Stopped, shutdown, nil
	}
	return Failed, "QEMU ended on its own", fault.New(fault.ExitInternal, "vm.qemu.died", "see whether the host ran out of memory: dmesg",
		"running QEMU: %w", errors.Join(exit, errors.New(stderr)))
}

func (m *Machine) end(phase, reason string, cause error) error {
	return m.update(func(s *State) {
		t := m.o.Clock().UTC()
		s.Phase, s.Reason, s.Ended, s.Faults = phase, reason, &t, ProblemsOf(cause)
	})
}

// update changes the state and writes it.
func (m *Machine) update(f func(*State)) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.state)
	return WriteState(m.o.Dir, &m.state)
}

// Rewrite writes the state again, for a reader that found it damaged.
func (m *Machine) Rewrite() error { return m.update(func(*State) {}) }

// noteEvery bounds how often what a guest says reaches the disk.
const noteEvery = 50 * time.Millisecond

// note changes the state and lets it be written soon: the guest decides how
// often this happens, and a failed write must not disturb the machine.
func (m *Machine) note(f func(*State)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.state)
	if m.noted {
		return
	}
	m.noted = true
	time.AfterFunc(noteEvery, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.noted = false
		// The last state is already written then, and the directory may be gone.
		if m.state.Over() {
			return
		}
		if err := WriteState(m.o.Dir, &m.state); err != nil {
			m.o.Logger.Warn("writing state", "vm", m.state.Name, "err", err)
		}
	})
}

func (m *Machine) event(e qemu.Event) {
	m.o.Logger.Debug("qemu event", "vm", m.o.Spec.Name, "event", e.Name, "data", string(e.Data))
	if e.Name == "SHUTDOWN" {
		m.mu.Lock()
		m.shutdown = shutdownReason(e.Data)
		m.mu.Unlock()
	}
}

// confine lowers what QEMU may take from the host. Failures are logged: they
// do not weaken the guest, which trusts nothing of the host.
func confine(pid int, log *slog.Logger) {
	for res, lim := range map[int]uint64{unix.RLIMIT_CORE: 0, unix.RLIMIT_NOFILE: 4096} {
		if err := unix.Prlimit(pid, res, &unix.Rlimit{Cur: lim, Max: lim}, nil); err != nil {
			log.Warn("limiting QEMU", "err", err)
		}
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("500"), 0); err != nil {
		log.Warn("limiting QEMU", "err", err)
	}
}

// pairs makes n socket pairs: connections for us, files for the child.
func pairs(n int) (ours []net.Conn, theirs []*os.File, err error) {
	defer func() {
		if err != nil {
			for _, c := range ours {
				c.Close()
			}
			for _, f := range theirs {
				f.Close()
			}
		}
	}()
	for range n {
		a, b, err := swtpm.SocketPair()
		if err != nil {
			return ours, theirs, err
		}
		theirs = append(theirs, b)
		c, err := net.FileConn(a)
		a.Close()
		if err != nil {
			return ours, theirs, fmt.Errorf("connecting to QEMU: %w", err)
		}
		ours = append(ours, c)
	}
	return ours, theirs, nil
}

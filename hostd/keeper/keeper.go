// Package keeper is the process that answers for one VM. The host daemon
// starts it and may go away: a new daemon finds the keeper by the state file
// in the VM's directory. QEMU and the software TPM die with their keeper, so
// that killing it, however rudely, leaves nothing behind.
package keeper

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/console"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/internal/toolstree"
)

// Names of the files in a VM's directory, beside those of package machine.
const (
	RequestFile = "request.json"
	LockFile    = "lock"
	LogFile     = "keeper.log"
)

// Signals that a keeper understands.
const (
	SignalStop     = syscall.SIGTERM // power button, then power off
	SignalPowerOff = syscall.SIGINT  // at once
	SignalWrite    = syscall.SIGHUP  // write the state again
)

// LifelineFD is the descriptor of an ephemeral keeper's lifeline: a pipe whose
// other end only the daemon holds. Its end is the keeper's.
const LifelineFD = 3

const (
	maxRequest = 1 << 20
	logLimit   = 1 << 20
)

// Request is what a daemon asks a keeper to run.
type Request struct {
	Spec         spec.Spec `json:"spec"`
	Tools        string    `json:"tools"`    // the tools tree's directory
	Firmware     string    `json:"firmware"` // OVMF.fd
	Accel        string    `json:"accelerator"`
	AccelWhy     string    `json:"accelerator_reason"`
	Transport    string    `json:"transport"`
	TransportWhy string    `json:"transport_reason"`
	Vouchers     string    `json:"vouchers,omitempty"` // where the guest's vouchers are kept, beyond the VM's life
	CADir        string    `json:"ca_dir"`
	CA           string    `json:"ca"`
	Ephemeral    bool      `json:"ephemeral"` // ends with the daemon
}

// WriteRequest puts a request into a VM's directory.
func WriteRequest(dir string, r *Request) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return fmt.Errorf("writing request: %w", err)
	}
	if err := durable.Write(filepath.Join(dir, RequestFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing request: %w", err)
	}
	return nil
}

// ReadRequest reads the request in a VM's directory.
func ReadRequest(dir string) (*Request, error) {
	b, err := os.ReadFile(filepath.Join(dir, RequestFile))
	if err != nil {
		return nil, fmt.Errorf("reading request: %w", err)
	}
	var r Request
	if err := jcs.Decode(b, maxRequest, &r); err != nil {
		return nil, fmt.Errorf("reading request: %w", err)
	}
	if err := r.Spec.Validate(); err != nil {
		return nil, fmt.Errorf("reading request: %w", err)
	}
	return &r, nil
}

// Options of a keeper.
type Options struct {
	Dir      string   // the VM's directory
	Relay    []string // argument vector of a relay; the target is appended
	Signals  <-chan os.Signal
	Lifeline func() io.Reader // opens it; called where the request is ephemeral
	Clock    func() time.Time
}

// Run boots the VM that the request in o.Dir describes and returns once it
// has ended. What happened is in the state file.
func Run(ctx context.Context, o Options) error {
	lock, err := lock(o.Dir)
	if err != nil {
		return err
	}
	defer lock.Close()
	log, err := console.Open(filepath.Join(o.Dir, LogFile), logLimit)
	if err != nil {
		return err
	}
	defer log.Close()
	logger := slog.New(slog.NewTextHandler(log, nil))
	r, err := ReadRequest(o.Dir)
	if err != nil {
		return err
	}
	tools, err := toolstree.At(r.Tools)
	if err != nil {
		return err
	}
	ca, err := swtpm.OpenCA(r.CADir, r.CA, o.Clock)
	if err != nil {
		return err
	}
	// An order to stop counts already while the machine starts.
	sctx, cancel := context.WithCancel(ctx)
	defer cancel()
	orders, rewrite := make(chan time.Duration, 4), make(chan struct{}, 1)
	go o.listen(r, orders, rewrite, cancel)
	m, err := machine.Start(sctx, machine.Options{
		Spec: &r.Spec, Dir: o.Dir, Tools: tools, Firmware: r.Firmware, Accel: r.Accel, AccelWhy: r.AccelWhy,
		Transport: r.Transport, TransportWhy: r.TransportWhy, Vouchers: r.Vouchers,
		CA: ca, Relay: o.Relay, Clock: o.Clock, Logger: logger,
	})
	if err != nil {
		logger.Error("could not start", "err", err)
		return err
	}
	for {
		select {
		case <-m.Done():
			logger.Info("ended", "reason", m.State().Reason)
			return nil
		case <-rewrite:
			if err := m.Rewrite(); err != nil {
				logger.Error("writing state again", "err", err)
			}
		case grace := <-orders:
			// In the background, so that a second order can cut the grace short.
			go m.Stop(ctx, grace)
		}
	}
}

// ephemeralGrace is short: the daemon is gone, nobody waits for the guest.
const ephemeralGrace = time.Second

// listen turns signals and the lifeline's end into orders to stop within a
// grace period.
func (o Options) listen(r *Request, orders chan<- time.Duration, rewrite chan<- struct{}, cancel context.CancelFunc) {
	cut := make(chan struct{})
	if r.Ephemeral && o.Lifeline != nil {
		line := o.Lifeline()
		go func() {
			// Nothing is ever written to it.
			_, _ = io.Copy(io.Discard, line)
			close(cut)
		}()
	}
	for {
		grace := machine.DefaultGrace
		if r.Spec.StopGrace > 0 {
			grace = time.Duration(r.Spec.StopGrace) * time.Second
		}
		select {
		case s, ok := <-o.Signals:
			if !ok {
				return
			}
			switch s {
			case SignalPowerOff:
				grace = 0
			case SignalWrite:
				select {
				case rewrite <- struct{}{}:
				default: // it is asked for already
				}
				continue
			}
		case <-cut:
			grace, cut = ephemeralGrace, nil
		}
		cancel()
		select {
		case orders <- grace:
		default: // enough orders are under way
		}
	}
}

// lock makes sure that a VM has one keeper.
func lock(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, LockFile), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking VM: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fault.New(fault.ExitNotReady, "vm.running", "stop it first: cocoon vm stop NAME", "locking VM: another process runs it")
		}
		return nil, fmt.Errorf("locking VM: %w", err)
	}
	if err := sign(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("locking VM: %w", err)
	}
	return f, nil
}

// sign writes into the lock who holds it, for a daemon that cannot read the
// state.
func sign(f *os.File) error {
	id, err := proc.Self()
	if err != nil {
		return err
	}
	b, err := json.Marshal(id)
	if err != nil {
		return err
	}
	if err := f.Truncate(0); err != nil {
		return err
	}
	_, err = f.WriteAt(b, 0)
	return err
}

// maxLock bounds the lock file in bytes.
const maxLock = 256

// Holder returns the live keeper of a VM's directory by its lock, if there is
// one.
func Holder(dir string) (proc.ID, bool) {
	b, err := os.ReadFile(filepath.Join(dir, LockFile))
	var id proc.ID
	if err != nil || jcs.Decode(b, maxLock, &id) != nil || !id.Alive() {
		return proc.ID{}, false
	}
	return id, true
}

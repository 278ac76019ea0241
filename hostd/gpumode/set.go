package gpumode

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/vfio"
	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Times.
const (
	// warnAfter is how long the tool may take before that is said; a switch of
	// the mode takes some ten seconds.
	warnAfter = 2 * time.Minute
	// bootWithin is how long a device's firmware boots after a reset.
	bootWithin = 20 * time.Second
	// look is how often a lock and a booting device are looked at.
	look = 100 * time.Millisecond
)

// maxTail is how much of the tool's output a fault quotes, in bytes; maxJournal
// bounds a journal.
const (
	maxTail    = 2 << 10
	maxJournal = 4 << 10
)

// CodeInProgress is the fault of a device that the tool is working on.
const CodeInProgress = "gpu.mode.in_progress"

// Setter sets modes.
type Setter struct {
	Tool   Tool
	Dir    string // where locks, journals and the tool's output are kept
	System vfio.System
	Clock  func() time.Time
	Logger *slog.Logger
	// Warn overrides warnAfter.
	Warn time.Duration
}

// journal says that the tool was started on a device.
type journal struct {
	BDF   string    `json:"bdf"`
	Want  vfio.Mode `json:"want"`
	Began time.Time `json:"began"`
}

// run is one run of the tool.
type run struct {
	device *vfio.Device
	args   []string
}

// plan returns the runs that bring devices into a mode: CC and protected PCIe
// exclude each other, so the one is off everywhere before the other is on
// anywhere.
func plan(devices []*vfio.Device, want vfio.Mode) []run {
	var off, on []run
	set := func(to *[]run, d *vfio.Device, what, value string) {
		*to = append(*to, run{d, []string{"--devices", d.BDF, "--set-" + what + "-mode=" + value, "--reset-after-" + what + "-mode-switch"}})
	}
	for _, d := range devices {
		gpu := d.Kind == vfio.KindGPU
		switch want {
		case vfio.ModeCC:
			if d.Arch == vfio.Hopper {
				set(&off, d, "ppcie", "off")
			}
			set(&on, d, "cc", "on")
		case vfio.ModePPCIE:
			if gpu {
				set(&off, d, "cc", "off")
			}
			set(&on, d, "ppcie", "on")
		default:
			if gpu {
				set(&off, d, "cc", "off")
			}
			if d.Arch != vfio.Blackwell {
				set(&off, d, "ppcie", "off")
			}
		}
	}
	return append(off, on...)
}

// Set brings devices into a mode; those that are in it already are left alone.
// When ctx ends while the tool runs, the tool runs on and Set returns
// CodeInProgress: nothing may be done to the device until it has ended.
func (s *Setter) Set(ctx context.Context, devices []*vfio.Device, want vfio.Mode) error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fault.New(fault.ExitNotReady, "gpu.state", "run as root", "making the state directory: %w", err)
	}
	devices = slices.Clone(devices)
	slices.SortFunc(devices, func(a, b *vfio.Device) int { return strings.Compare(a.BDF, b.BDF) })
	locks := map[string]*os.File{}
	defer func() {
		// Closed and not unlocked: the tool that still runs keeps it.
		for _, l := range locks {
			l.Close()
		}
	}()
	var todo []*vfio.Device
	for _, d := range devices {
		l, err := s.lock(ctx, d.BDF)
		if err != nil {
			return err
		}
		locks[d.BDF] = l
		// What an earlier run left is seen here, too.
		if got, err := s.query(d); err == nil && got == want {
			if err := s.forget(d.BDF); err != nil {
				return err
			}
			continue
		}
		todo = append(todo, d)
	}
	if len(todo) == 0 {
		return nil
	}
	dir, err := s.Tool.pinned(s.Dir)
	if err != nil {
		return err
	}
	for _, d := range todo {
		if err := s.remember(journal{BDF: d.BDF, Want: want, Began: s.Clock().UTC()}); err != nil {
			return err
		}
	}
	said, err := s.runAll(ctx, dir, plan(todo, want), locks)
	if err != nil {
		return err
	}
	var broken []*vfio.Device
	for _, d := range todo {
		if got, err := s.query(d); err == nil && got == vfio.ModeInvalid {
			broken = append(broken, d)
		}
	}
	if len(broken) > 0 {
		// Bit pattern 2, as an interrupted tool leaves it: it is repaired by
		// setting the mode again.
		s.Logger.Warn("setting the mode of GPUs again, which are in none", "devices", len(broken))
		if said, err = s.runAll(ctx, dir, plan(broken, want), locks); err != nil {
			return err
		}
	}
	var errs []error
	for _, d := range todo {
		errs = append(errs, s.verify(d, want, said[d.BDF]))
	}
	return errors.Join(errs...)
}

// verify reads the mode of a device on which the tool has ended, whatever the
// tool says of it.
func (s *Setter) verify(d *vfio.Device, want vfio.Mode, said error) error {
	ferr := s.forget(d.BDF)
	got, err := s.query(d)
	switch {
	case err != nil:
		return errors.Join(err, said, ferr)
	case got == want:
		if said != nil {
			s.Logger.Warn("NVIDIA's tool failed, and the device is in the mode all the same", "device", d.BDF, "err", said)
		}
		return ferr
	case said != nil:
		return errors.Join(fault.Mismatch(fault.ExitNotReady, "gpu.mode.failed", "mode of "+d.BDF+" after NVIDIA's tool, which failed,", string(want), string(got), "read "+s.path(d.BDF, ".log")+"; never interrupt the tool; if it cannot be repaired, power the host off and on"), said, ferr)
	}
	return errors.Join(fault.Mismatch(fault.ExitNotReady, "gpu.mode.unset", "mode of "+d.BDF+" after NVIDIA's tool, which says that it was set,", string(want), string(got), "read "+s.path(d.BDF, ".log")+"; pin a version of the tool that knows this device"), ferr)
}

// runAll runs the tool, one run after the other, and returns what each device's
// last run that failed said. An error of its own ends it.
func (s *Setter) runAll(ctx context.Context, dir string, runs []run, locks map[string]*os.File) (map[string]error, error) {
	said := map[string]error{}
	for _, r := range runs {
		bdf := r.device.BDF
		if err := ctx.Err(); err != nil {
			// Between two runs nothing is interrupted.
			return nil, fault.New(fault.ExitNotReady, "gpu.mode.cancelled", "prepare it again", "setting the mode of %s: %w", bdf, err)
		}
		err := s.run(ctx, dir, r, locks[bdf])
		if fault.Has(err, CodeInProgress) {
			return nil, err
		}
		if err != nil {
			said[bdf] = err
		}
		// The tool sets power management back (gpu-admin-tools 2025.10.20); an
		// idle GPU may then not come back.
		if err := vfio.PinPower(ctx, s.System, bdf); err != nil {
			return nil, err
		}
	}
	return said, nil
}

// run runs the tool once and waits for it; whoever waits no longer leaves it
// running.
func (s *Setter) run(ctx context.Context, dir string, r run, lock *os.File) error {
	bdf := r.device.BDF
	out, err := os.OpenFile(s.path(bdf, ".log"), os.O_CREATE|os.O_RDWR|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("running NVIDIA's tool: %w", err)
	}
	defer out.Close()
	from, err := out.Seek(0, io.SeekEnd)
	if err == nil && from > 1<<20 {
		err, from = out.Truncate(0), 0
	}
	if err != nil {
		return fmt.Errorf("running NVIDIA's tool: %w", err)
	}
	cmd := exec.Command(s.Tool.python(), append([]string{"-B", "-E", "-s", filepath.Join(dir, Entry)}, r.args...)...)
	cmd.Dir, cmd.Env = dir, []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"}
	// Into a file and not through this process, which may go away first.
	cmd.Stdout, cmd.Stderr = out, out
	// A session of its own: neither a terminal's interrupt nor the end of this
	// process reaches it. The lock goes along, so that it is held as long as the
	// tool lives (flock(2): a lock belongs to the open file).
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.ExtraFiles = []*os.File{lock}
	s.Logger.Info("running NVIDIA's tool; it must not be interrupted", "device", bdf, "args", r.args)
	if err := cmd.Start(); err != nil {
		return fault.New(fault.ExitNotReady, "gpu.tool.start", "install python3, or name it with python", "running NVIDIA's tool: %w", err)
	}
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	warn := s.Warn
	if warn == 0 {
		warn = warnAfter
	}
	t := time.NewTicker(warn)
	defer t.Stop()
	for began := s.Clock(); ; {
		select {
		case err := <-done:
			if err == nil {
				return nil
			}
			return fault.New(fault.ExitNotReady, "gpu.tool.failed", "read "+s.path(bdf, ".log"), "running NVIDIA's tool on %s: %w: %s", bdf, err, tail(out, from))
		case <-t.C:
			s.Logger.Warn("NVIDIA's tool still runs; leave it alone", "device", bdf, "for", s.Clock().Sub(began).Round(time.Second), "process", cmd.Process.Pid)
		case <-ctx.Done():
			return inProgress(bdf)
		}
	}
}

func inProgress(bdf string) error {
	return fault.New(fault.ExitNotReady, CodeInProgress, "wait for the tool; do not kill it and do not switch the machine off", "setting the mode of %s: NVIDIA's tool is still at it", bdf)
}

// tail returns the end of what the tool wrote.
func tail(out *os.File, from int64) string {
	fi, err := out.Stat()
	if err != nil {
		return ""
	}
	from = max(from, fi.Size()-maxTail)
	b, err := io.ReadAll(io.NewSectionReader(out, from, maxTail))
	if err != nil {
		return ""
	}
	return strings.ToValidUTF8(strings.TrimSpace(string(b)), "?")
}

// query reads a device's mode once its firmware has booted.
func (s *Setter) query(d *vfio.Device) (vfio.Mode, error) {
	for end := s.Clock().Add(bootWithin); ; time.Sleep(look) {
		mode, err := vfio.QueryMode(s.System, d)
		if !fault.Has(err, "gpu.booting") || s.Clock().After(end) {
			return mode, err
		}
	}
}

func (s *Setter) path(bdf, ext string) string { return filepath.Join(s.Dir, bdf+ext) }

// lock takes a device's lock. The tool that an earlier process has started
// holds it as long as it runs.
func (s *Setter) lock(ctx context.Context, bdf string) (*os.File, error) {
	if err := vfio.CheckBDF(bdf); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.path(bdf, ".lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking %s: %w", bdf, err)
	}
	for told := false; ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			f.Close()
			return nil, fmt.Errorf("locking %s: %w", bdf, err)
		}
		if !told {
			told = true
			s.Logger.Info("waiting for NVIDIA's tool", "device", bdf)
		}
		select {
		case <-ctx.Done():
			f.Close()
			return nil, inProgress(bdf)
		case <-time.After(look):
		}
	}
}

// Busy refuses a device that the tool is working on.
func (s *Setter) Busy(bdf string) error {
	if _, err := os.Stat(s.path(bdf, ".lock")); err != nil {
		return nil // it never ran
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	f, err := s.lock(ctx, bdf)
	if err != nil {
		return err
	}
	return f.Close()
}

func (s *Setter) remember(j journal) error {
	b, err := json.Marshal(j)
	if err != nil {
		return fmt.Errorf("remembering a change of mode: %w", err)
	}
	if err := durable.Write(s.path(j.BDF, ".json"), b, 0o600); err != nil {
		return fmt.Errorf("remembering a change of mode: %w", err)
	}
	return nil
}

func (s *Setter) forget(bdf string) error {
	if err := os.Remove(s.path(bdf, ".json")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("forgetting a change of mode: %w", err)
	}
	return nil
}

// Recover completes the changes that an earlier process began and did not see
// to their end: it waits for a tool that still runs, reads the mode, and sets
// it again where it is not the wanted one.
func (s *Setter) Recover(ctx context.Context) error {
	names, err := filepath.Glob(filepath.Join(s.Dir, "*.json"))
	if err != nil {
		return err
	}
	var errs []error
	byMode := map[vfio.Mode][]*vfio.Device{}
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			errs = append(errs, fmt.Errorf("reading a change of mode: %w", err))
			continue
		}
		j, err := parseJournal(b)
		if err != nil || j.BDF != strings.TrimSuffix(filepath.Base(name), ".json") {
			errs = append(errs, fault.New(fault.ExitParse, "gpu.mode.journal", "remove "+name+"; see the device's mode with: cocoon gpu list", "reading a change of mode: %w", errors.Join(err, os.Rename(name, name+".damaged"))))
			continue
		}
		d, err := vfio.Read(s.System, j.BDF)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		s.Logger.Info("completing a change of mode", "device", j.BDF, "mode", j.Want, "began", j.Began)
		byMode[j.Want] = append(byMode[j.Want], d)
	}
	for mode, devices := range byMode {
		errs = append(errs, s.Set(ctx, devices, mode))
	}
	return errors.Join(errs...)
}

func parseJournal(b []byte) (*journal, error) {
	var j journal
	if err := jcs.Decode(b, maxJournal, &j); err != nil {
		return nil, err
	}
	if err := vfio.CheckBDF(j.BDF); err != nil {
		return nil, err
	}
	switch j.Want {
	case vfio.ModeCC, vfio.ModePPCIE, vfio.ModeOff:
		return &j, nil
	}
	return nil, fmt.Errorf("mode %.16q is none to set", j.Want)
}

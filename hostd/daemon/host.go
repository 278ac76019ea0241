package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/hostd/fetch"
	"cocoon/hostd/machine"
	"cocoon/hostd/store"
	"cocoon/hostd/vfio"
	"cocoon/hostd/vouchers"
	"cocoon/internal/fault"
)

// Summary is the host at a glance.
type Summary struct {
	Drained   *time.Time // since when; nil: it is not
	VMs       []*machine.State
	MemoryMiB int // that VMs have which are not over
	GPUs      int
	DiskFree  uint64 // bytes, where the state is
}

// Summary returns the host at a glance.
func (d *Daemon) Summary() (*Summary, error) {
	drain, err := d.store.Drain()
	if err != nil {
		return nil, err
	}
	s := &Summary{}
	if drain != nil {
		s.Drained = &drain.Since
	}
	rs, err := d.store.List()
	if err != nil {
		return nil, err
	}
	for _, r := range rs {
		st := d.state(r)
		s.VMs = append(s.VMs, st)
		if st.Over() {
			continue
		}
		s.MemoryMiB += r.Spec.MemoryMiB
		if r.Spec.GPUs != nil {
			s.GPUs += len(r.Spec.GPUs.Devices)
		}
	}
	var disk unix.Statfs_t
	if err := unix.Statfs(d.o.Dir, &disk); err != nil {
		return nil, fmt.Errorf("looking for disk space: %w", err)
	}
	s.DiskFree = disk.Bavail * uint64(disk.Bsize)
	return s, nil
}

// open refuses what a drained host does not begin.
func (d *Daemon) open(what, name string) error {
	drain, err := d.store.Drain()
	if err != nil || drain == nil {
		return err
	}
	return fault.New(fault.ExitNotReady, "host.drained", "end the drain first: cocoon host resume", "%s VM %s: the host is drained since %s", what, name, drain.Since.Format(time.RFC3339))
}

// Drain drains and stops every VM and lets none start until Resume. It is
// remembered before anything is stopped: a daemon that is killed in the middle
// goes on with it when it is there again.
func (d *Daemon) Drain(ctx context.Context) ([]string, error) {
	drain, err := d.store.Drain()
	if err != nil {
		return nil, err
	}
	if drain == nil {
		drain = &store.Drain{Since: d.o.Clock().UTC(), VMs: []string{}}
		rs, err := d.store.List()
		if err != nil {
			return nil, err
		}
		for _, r := range rs {
			if r.Want == store.WantRunning {
				drain.VMs = append(drain.VMs, r.Spec.Name)
			}
		}
		if err := d.store.PutDrain(*drain); err != nil {
			return nil, err
		}
		d.o.Logger.Info("draining the host", "vms", drain.VMs)
	}
	return drain.VMs, d.endAll(ctx)
}

// endAll ends every VM, all at once; what is being started or upgraded is
// waited for and then ended.
func (d *Daemon) endAll(ctx context.Context) error {
	rs, err := d.store.List()
	if err != nil {
		return err
	}
	errs := make([]error, len(rs))
	var wg sync.WaitGroup
	for i, r := range rs {
		wg.Go(func() {
			done, err := d.claimSoon(ctx, r.Spec.Name)
			if err != nil {
				errs[i] = err
				return
			}
			defer done()
			if _, err := d.end(ctx, r.Spec.Name, false); err != nil && !fault.Has(err, "vm.unknown") {
				errs[i] = err
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// claimSoon claims a name and waits for whoever has it.
func (d *Daemon) claimSoon(ctx context.Context, name string) (func(), error) {
	t := time.NewTicker(superviseEvery)
	defer t.Stop()
	for {
		done, err := d.claim(name)
		if !fault.Has(err, "vm.busy") {
			return done, err
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(err, ctx.Err())
		case <-t.C:
		}
	}
}

// Resume ends a drain. The VMs that ran before are started by the supervisor.
func (d *Daemon) Resume() ([]string, error) {
	names, err := d.store.EndDrain()
	if err == nil {
		d.o.Logger.Info("the host is no longer drained", "vms", names)
	}
	return names, err
}

// GPU is a device with its mode, or why that is not known, and its VM.
type GPU struct {
	vfio.Device
	Mode    vfio.Mode `json:"mode,omitempty"`
	ModeErr string    `json:"mode_error,omitempty"`
	VM      string    `json:"vm,omitempty"`
}

// ListGPUs returns the GPUs and NVSwitches that a host has.
func ListGPUs(sys vfio.Reader) ([]GPU, error) {
	list, err := vfio.List(sys)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := []GPU{}
	for i := range list {
		g := GPU{Device: list[i]}
		if g.Mode, err = vfio.QueryMode(sys, &list[i]); err != nil {
			g.ModeErr = err.Error()
		}
		out = append(out, g)
	}
	return out, nil
}

// GPUs returns the host's GPUs and NVSwitches, and which VM has each.
func (d *Daemon) GPUs() ([]GPU, error) {
	sys, err := d.o.Devices()
	if err != nil {
		return nil, err
	}
	list, err := ListGPUs(sys)
	if err != nil {
		return nil, err
	}
	owner := map[string]string{}
	d.claims.Lock()
	for name, devices := range d.gpus {
		for _, b := range devices {
			owner[b] = name
		}
	}
	d.claims.Unlock()
	rs, err := d.store.List()
	if err != nil {
		return nil, err
	}
	for _, r := range rs {
		if r.Spec.GPUs != nil && !d.state(r).Over() {
			for _, b := range r.Spec.GPUs.Devices {
				owner[b] = r.Spec.Name
			}
		}
	}
	for i := range list {
		list[i].VM = owner[list[i].BDF]
	}
	return list, nil
}

// filesDir is where files that were fetched are.
const filesDir = "files"

var fileRE = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,63}$`)

// Fetch brings a file of known hash into the daemon's directory and returns
// where it is.
func (d *Daemon) Fetch(ctx context.Context, name string, o fetch.Options) (string, error) {
	if !fileRE.MatchString(name) || strings.HasSuffix(name, ".part") || strings.HasSuffix(name, ".part.json") {
		return "", fault.New(fault.ExitParse, "fetch.name", "use 1 to 64 of a-z, 0-9, dot, _ and -, without .part at the end", "bringing a file: the name %.80q", name)
	}
	o.Path = filepath.Join(d.o.Dir, filesDir, name)
	return o.Path, fetch.File(ctx, o)
}

// Vouchers returns what guests have handed over, and why what is on the disk
// beside is none.
func (d *Daemon) Vouchers() ([]vouchers.Kept, []error, error) {
	return vouchers.Book{Dir: filepath.Join(d.o.Dir, vouchersDir)}.Read()
}

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"cocoon/hostd/gpumode"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
)

// claimGPUs gives devices to one VM: no other VM that runs or is being started
// has any of them. The claim holds until the function it returns is called;
// from then on the state of the VM speaks for it. To be used, they must have
// been released; to be released, nobody may use them.
func (d *Daemon) claimGPUs(s *spec.Spec, use bool) (func(), error) {
	if s.GPUs == nil {
		return func() {}, nil
	}
	return d.claimDevices(s.Name, s.GPUs, use)
}

// claimDevices is claimGPUs for a VM of a name, or for the owner (byOwner).
func (d *Daemon) claimDevices(name string, g *spec.GPUs, use bool) (func(), error) {
	d.claims.Lock()
	defer d.claims.Unlock()
	var errs []error
	taken := func(by string, devices []string) {
		for _, b := range devices {
			if by != name && slices.Contains(g.Devices, b) {
				errs = append(errs, fault.New(fault.ExitNotReady, "gpu.allocated", "stop that VM, or name another device: cocoon gpu list", "giving %s to %s: %s has it", b, claimant(name), claimant(by)))
			}
		}
	}
	if name == byOwner && d.gpus[byOwner] != nil {
		return nil, fault.New(fault.ExitNotReady, "gpu.locked", "wait for the other cocoon gpu command", "preparing or restoring GPUs: %v are being prepared or restored", d.gpus[byOwner])
	}
	for name, devices := range d.gpus {
		taken(name, devices)
	}
	rs, err := d.store.List()
	if err != nil {
		return nil, err
	}
	for _, r := range rs {
		if r.Spec.GPUs == nil || d.gpus[r.Spec.Name] != nil {
			continue
		}
		st, err := d.Get(r.Spec.Name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		switch {
		case !st.Over():
			taken(r.Spec.Name, r.Spec.GPUs.Devices)
		case use && r.GPUsUsed && r.Spec.Name != name:
			// What is still to be released would be reset under its next user.
			for _, b := range shared(r.Spec.GPUs, g) {
				errs = append(errs, fault.New(fault.ExitNotReady, codeUnreleased, "start it again in a minute; if that goes on, the daemon's log says what hangs",
					"giving %s to %s: it was not released since VM %s ended", b, claimant(name), r.Spec.Name))
			}
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	d.gpus[name] = g.Devices
	return func() {
		d.claims.Lock()
		defer d.claims.Unlock()
		delete(d.gpus, name)
	}, nil
}

// byOwner claims devices for the host's owner; no VM has this name.
const byOwner = ""

func claimant(name string) string {
	if name == byOwner {
		return "cocoon gpu"
	}
	return "VM " + name
}

// PrepareGPUs makes devices ready for VMs to come. What it changes is remembered
// before the first change and taken back if anything fails (package vfio).
func (d *Daemon) PrepareGPUs(ctx context.Context, mode string, devices []string) error {
	switch mode {
	case spec.GPUModeCC, spec.GPUModePPCIE, spec.GPUModeOff:
	default:
		return fault.New(fault.ExitParse, "gpu.mode", "want cc, ppcie or off", "preparing GPUs: mode %.32q is unknown", mode)
	}
	if err := checkDevices(devices); err != nil {
		return err
	}
	g := &spec.GPUs{Devices: devices, Mode: mode}
	free, err := d.claimDevices(byOwner, g, true)
	if err != nil {
		return err
	}
	defer free()
	if err := d.o.GPUs.Prepare(ctx, g); err != nil {
		return err
	}
	d.o.Logger.Info("prepared GPUs", "devices", devices, "mode", mode)
	return nil
}

// RestoreGPUs resets prepared devices, all without arguments, and gives them
// back to the drivers that they had. It returns which.
func (d *Daemon) RestoreGPUs(ctx context.Context, devices []string) ([]string, error) {
	if err := checkDevices(devices); err != nil {
		return nil, err
	}
	devices, err := d.prepared(devices)
	if err != nil || len(devices) == 0 {
		return nil, err
	}
	g := &spec.GPUs{Devices: devices, GiveBack: true}
	free, err := d.claimDevices(byOwner, g, true)
	if err != nil {
		return nil, err
	}
	defer free()
	// Another command may have given them back before the claim: their owner uses
	// them, and they are not to be reset.
	if _, err := d.prepared(devices); err != nil {
		return nil, err
	}
	if err := d.o.GPUs.Release(ctx, g); err != nil {
		return nil, err
	}
	d.o.Logger.Info("gave GPUs back to their drivers", "devices", devices)
	return devices, nil
}

// prepared returns these devices if all are prepared, without any all that are.
func (d *Daemon) prepared(devices []string) ([]string, error) {
	all, err := d.o.GPUs.Prepared()
	if err != nil || len(devices) == 0 {
		return all, err
	}
	var errs []error
	for _, b := range devices {
		if !slices.Contains(all, b) {
			errs = append(errs, fault.New(fault.ExitNotReady, "gpu.not_prepared", "list what is there: cocoon gpu list", "restoring GPUs: %s was not prepared", b))
		}
	}
	return devices, errors.Join(errs...)
}

func checkDevices(devices []string) error {
	var errs []error
	for _, b := range devices {
		errs = append(errs, vfio.CheckBDF(b))
	}
	return errors.Join(errs...)
}

// codeUnreleased refuses devices that an earlier run has left its traces on.
const codeUnreleased = "gpu.unreleased"

// shared are the devices that both have.
func shared(a, b *spec.GPUs) []string {
	if a == nil || b == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(a.Devices), func(dev string) bool { return !slices.Contains(b.Devices, dev) })
}

// releaseDropped releases what a VM had in its last run and does not have in
// this one: once the record has the new spec, nobody knows of them. The name and
// the new devices are claimed. The old devices stay in the record, and so with
// this VM, until then.
func (d *Daemon) releaseDropped(ctx context.Context, s *spec.Spec) error {
	r, err := d.store.Get(s.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if !r.GPUsUsed || r.Spec.GPUs == nil {
		return nil
	}
	kept, old := shared(r.Spec.GPUs, s.GPUs), *r.Spec.GPUs
	old.Devices = slices.DeleteFunc(slices.Clone(old.Devices), func(dev string) bool { return slices.Contains(kept, dev) })
	if len(old.Devices) == 0 {
		return nil
	}
	if err := d.o.GPUs.Release(ctx, &old); err != nil {
		return fault.New(fault.ExitNotReady, codeUnreleased, "see what hangs, then start it again; or start it with the devices that it had",
			"starting VM %s: releasing %v of its last run: %w", s.Name, old.Devices, err)
	}
	d.o.Logger.Info("released GPUs that the VM no longer has", "vm", s.Name, "devices", old.Devices, "given_back", old.GiveBack)
	return nil
}

// GPUHost brings devices into the state that a VM needs and back.
type GPUHost interface {
	// Prepare makes devices ready for a VM.
	Prepare(ctx context.Context, g *spec.GPUs) error
	// Release clears what a VM has left on its devices, and gives them back to
	// their owner's drivers where the spec says so.
	Release(ctx context.Context, g *spec.GPUs) error
	// Prepared returns the devices that were prepared and not given back.
	Prepared() ([]string, error)
	// Recover completes what an earlier daemon began.
	Recover(ctx context.Context) error
}

// gpuStore is where "cocoon gpu" remembers the owner's drivers, too.
const gpuStore = "/var/lib/cocoon-gpu"

// linuxGPUs is this host. As root it binds, powers, resets and, with a tool,
// sets the mode; any other user finds out whether that was done, and the
// kernel resets a device when a VM lets go of it.
type linuxGPUs struct {
	tool   *gpumode.Tool
	clock  func() time.Time
	logger *slog.Logger
}

func (l *linuxGPUs) options() (vfio.Options, *gpumode.Setter, error) {
	sys, err := vfio.NewLinux()
	if err != nil {
		return vfio.Options{}, nil, err
	}
	s := &gpumode.Setter{Dir: filepath.Join(gpuStore, "modes"), System: sys, Clock: l.clock, Logger: l.logger}
	o := vfio.Options{System: sys, Busy: s.Busy}
	if l.tool != nil {
		s.Tool = *l.tool
		o.Set = s.Set
	}
	return o, s, nil
}

// Prepare implements GPUHost.
func (l *linuxGPUs) Prepare(ctx context.Context, g *spec.GPUs) error {
	o, _, err := l.options()
	if err != nil {
		return err
	}
	o.Mode = vfio.Mode(g.Mode)
	if os.Geteuid() != 0 {
		return vfio.Ready(o.System, o.Mode, g.Devices)
	}
	store, err := vfio.OpenStore(gpuStore)
	if err != nil {
		return err
	}
	defer store.Close()
	o.Record = store.Add
	_, err = vfio.Prepare(ctx, o, g.Devices)
	return err
}

// Release implements GPUHost.
func (l *linuxGPUs) Release(ctx context.Context, g *spec.GPUs) error {
	if os.Geteuid() != 0 {
		return nil
	}
	o, _, err := l.options()
	if err != nil {
		return err
	}
	store, err := vfio.OpenStore(gpuStore)
	if err != nil {
		return err
	}
	defer store.Close()
	// A GPU that was not reset goes to nobody.
	if err := vfio.Reset(ctx, o, g.Devices); err != nil || !g.GiveBack {
		return err
	}
	before := store.Select(g.Devices...)
	if err := vfio.Restore(ctx, o, before); err != nil {
		return err
	}
	return store.Forget(before)
}

// Prepared implements GPUHost.
func (l *linuxGPUs) Prepared() ([]string, error) {
	if os.Geteuid() != 0 {
		return nil, fault.New(fault.ExitNotReady, "gpu.permission", "on that machine and without --hostd: sudo cocoon gpu restore",
			"looking for prepared GPUs: the host daemon does not run as root")
	}
	o, _, err := l.options()
	if err != nil {
		return nil, err
	}
	store, err := vfio.OpenStore(gpuStore)
	if err != nil {
		return nil, err
	}
	defer store.Close()
	var out []string
	for _, p := range store.Select() {
		// The further functions of a device, such as its sound, come with it.
		if _, err := vfio.Read(o.System, p.BDF); err == nil {
			out = append(out, p.BDF)
		}
	}
	return out, nil
}

// Recover implements GPUHost.
func (l *linuxGPUs) Recover(ctx context.Context) error {
	if os.Geteuid() != 0 || l.tool == nil {
		return nil
	}
	_, s, err := l.options()
	if err != nil {
		return err
	}
	return s.Recover(ctx)
}

// releaseEvery is how often it is tried again to release devices.
const releaseEvery = time.Minute

// release releases the devices of a VM that is over, once each run. The name is
// claimed.
func (d *Daemon) release(ctx context.Context, name string) {
	r, err := d.store.Get(name)
	if err != nil || !r.GPUsUsed || r.Spec.GPUs == nil || !d.state(r).Over() {
		return
	}
	d.mu.Lock()
	due := d.o.Clock().After(d.released[name])
	if due {
		d.released[name] = d.o.Clock().Add(releaseEvery)
	}
	d.mu.Unlock()
	if !due {
		return
	}
	// Another VM may have been given one of them since: a reset would hit it.
	free, err := d.claimGPUs(&r.Spec, false)
	if err != nil {
		d.o.Logger.Warn("releasing GPUs; it is tried again", "vm", name, "err", err)
		return
	}
	defer free()
	if err := d.o.GPUs.Release(ctx, r.Spec.GPUs); err != nil {
		d.o.Logger.Error("releasing GPUs; it is tried again", "vm", name, "devices", r.Spec.GPUs.Devices, "err", err)
		return
	}
	d.o.Logger.Info("released GPUs", "vm", name, "devices", r.Spec.GPUs.Devices, "given_back", r.Spec.GPUs.GiveBack)
	r.GPUsUsed = false
	if err := d.put(r); err != nil {
		d.o.Logger.Error("remembering that GPUs were released", "vm", name, "err", err)
	}
}

package vfio

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/undo"
)

// Limits of one step. Unbinding hangs for as long as somebody uses the
// device; a reset takes under two seconds and scrubs memory after that.
const (
	StepTimeout  = 10 * time.Second
	ResetTimeout = 30 * time.Second
)

// Options of a preparation.
type Options struct {
	System System
	Mode   Mode // that every device must be in; empty: any but devtools and invalid
	// Record remembers how the devices are, before the first change: without
	// it nobody could give them back after a crash. nil: nothing is remembered.
	Record func(before []Previous) error
	// Set brings devices, once they are bound, into a mode that they are not in;
	// nil: a device in another mode is refused.
	Set func(ctx context.Context, devices []*Device, want Mode) error
	// Busy refuses a device whose mode is being set at this moment, which must
	// not be touched; nil: none is.
	Busy func(bdf string) error
	// Step and Reset bound one write; 0: StepTimeout, ResetTimeout.
	Step, Reset time.Duration
}

func (o Options) withDefaults() Options {
	if o.Step == 0 {
		o.Step = StepTimeout
	}
	if o.Reset == 0 {
		o.Reset = ResetTimeout
	}
	return o
}

// Previous is how a device was before.
type Previous struct {
	BDF    string `json:"bdf"`
	Driver string `json:"driver"` // empty: none
	Power  string `json:"power_control"`
}

// Prepared is what a preparation did.
type Prepared struct {
	Devices []Device   `json:"devices"`
	Before  []Previous `json:"before"`
}

// Prepare binds devices to vfio-pci, with the other functions of each. All
// that can be seen beforehand is checked before anything changes, and reported
// at once; whatever fails later, everything is taken back.
func Prepare(ctx context.Context, o Options, bdfs []string) (p *Prepared, err error) {
	o = o.withDefaults()
	list, err := o.inspect(bdfs)
	if err != nil {
		return nil, err
	}
	p = &Prepared{}
	for _, d := range list {
		p.Before = append(p.Before, Previous{BDF: d.BDF, Driver: d.Driver, Power: d.Power})
		for _, bdf := range d.Functions {
			p.Before = append(p.Before, Previous{BDF: bdf, Driver: linkBase(o.System, devices+bdf+"/driver")})
		}
	}
	if o.Record != nil {
		if err := o.Record(p.Before); err != nil {
			return nil, err
		}
	}
	var stack undo.Stack
	defer stack.UndoInto(&err)
	for i := range list {
		d := &list[i]
		if err := o.pin(ctx, d.BDF, "on", &stack); err != nil {
			return nil, err
		}
		for _, bdf := range append([]string{d.BDF}, d.Functions...) {
			if err := o.bind(ctx, bdf, linkBase(o.System, devices+bdf+"/driver"), &stack); err != nil {
				return nil, err
			}
		}
	}
	if err := o.set(ctx, list); err != nil {
		for _, d := range list {
			if o.busy(d.BDF) != nil {
				// To take the device from under the tool would be to interrupt it.
				stack.Keep()
			}
		}
		return nil, err
	}
	for i := range list {
		d := &list[i]
		if err := o.reset(ctx, d); err != nil {
			return nil, err
		}
		now, err := Read(o.System, d.BDF)
		if err != nil {
			return nil, err
		}
		p.Devices = append(p.Devices, *now)
	}
	stack.Keep()
	return p, nil
}

// inspect looks at everything that can be looked at before the first change.
func (o Options) inspect(bdfs []string) ([]Device, error) {
	var list []Device
	var errs []error
	if len(bdfs) == 0 {
		errs = append(errs, fault.New(fault.ExitNotReady, "gpu.absent", "list what is there: cocoon gpu list", "preparing GPUs: none was named"))
	}
	if _, err := fs.Stat(o.System, "sys/bus/pci/drivers/"+Driver); err != nil {
		errs = append(errs, fault.New(fault.ExitNotReady, "vfio.module", "modprobe vfio-pci", "looking for the driver %s: %w", Driver, err))
	}
	for _, bdf := range slices.Compact(slices.Sorted(slices.Values(bdfs))) {
		d, err := Read(o.System, bdf)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, o.check(d, bdfs))
		list = append(list, *d)
	}
	return list, errors.Join(errs...)
}

func (o Options) check(d *Device, bdfs []string) error {
	var errs []error
	if d.Group < 0 {
		errs = append(errs, fault.New(fault.ExitNotReady, "iommu.off", "boot with intel_iommu=on or amd_iommu=on and switch VT-d or AMD-Vi on in the BIOS", "looking for the IOMMU group of %s: there is none", d.BDF))
	}
	for _, other := range d.Shared {
		// A device that is given to the VM too may share the group.
		if !slices.Contains(bdfs, other) {
			errs = append(errs, fault.New(fault.ExitNotReady, "iommu.group.shared", "switch ACS on in the BIOS, move the card to another slot, or name "+other+" too",
				"checking IOMMU group %d of %s: %s is in it", d.Group, d.BDF, other))
		}
	}
	if !d.CanReset {
		errs = append(errs, fault.New(fault.ExitNotReady, "gpu.reset.absent", "update the kernel; a GPU that cannot be reset must not go from one VM to another", "looking for a way to reset %s: there is none", d.BDF))
	}
	if err := o.busy(d.BDF); err != nil {
		errs = append(errs, err)
		return errors.Join(errs...)
	}
	errs = append(errs, inUse(o.System, d))
	if err := o.checkMode(d); err != nil && (o.Set == nil || !fault.Has(err, "gpu.mode")) {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (o Options) busy(bdf string) error {
	if o.Busy == nil {
		return nil
	}
	return o.Busy(bdf)
}

// set brings devices into the wanted mode where they are not in it.
func (o Options) set(ctx context.Context, list []Device) error {
	if o.Set == nil || o.Mode == "" {
		return nil
	}
	var wrong []*Device
	for i := range list {
		if err := o.checkMode(&list[i]); fault.Has(err, "gpu.mode") {
			wrong = append(wrong, &list[i])
		} else if err != nil {
			return err
		}
	}
	if wrong == nil {
		return nil
	}
	return o.Set(ctx, wrong, o.Mode)
}

// checkMode refuses a device in another mode than the wanted.
func (o Options) checkMode(d *Device) error {
	got, err := QueryMode(o.System, d)
	if err != nil {
		return err
	}
	want := o.Mode
	if want == "" && (got == ModeDevtools || got == ModeInvalid) {
		want = ModeCC
		if d.Kind == KindSwitch {
			want = ModePPCIE
		}
	}
	if want != "" && got != want {
		return fault.Mismatch(fault.ExitNotReady, "gpu.mode", "mode of "+d.BDF, string(want), string(got), SetCommand(d.BDF, want))
	}
	return nil
}

// inUse refuses a device that somebody has open: a running VM, or a program of
// the owner's. To unbind or reset it would hang, or pull it from under them.
func inUse(sys fs.ReadLinkFS, d *Device) error {
	remedy := "stop the VM that has it: cocoon vm list"
	group, nodes := fmt.Sprintf("/dev/vfio/%d", d.Group), []string{}
	if entries, err := fs.ReadDir(sys, devices+d.BDF+"/vfio-dev"); err == nil {
		for _, e := range entries {
			nodes = append(nodes, "/dev/vfio/devices/"+e.Name())
		}
	}
	holds := func(path string) bool {
		if path == group || slices.Contains(nodes, path) {
			return true
		}
		// Where the kernel does not say which node is the device's, as old ones do
		// not, any that is open stands in the way.
		return len(nodes) == 0 && (strings.HasPrefix(path, "/dev/vfio/devices/") || strings.HasPrefix(path, "anon_inode:[vfio"))
	}
	switch d.Driver {
	case Driver:
	case "nvidia":
		remedy = "stop them (systemctl stop nvidia-persistenced nvidia-fabricmanager)"
		holds = func(path string) bool { return strings.HasPrefix(path, "/dev/nvidia") }
	default:
		return nil
	}
	if pids := users(sys, holds); len(pids) > 0 {
		return fault.New(fault.ExitNotReady, "gpu.in_use", remedy, "taking %s from driver %s: processes %s use it", d.BDF, d.Driver, strings.Join(pids, ", "))
	}
	return nil
}

// users returns the ids of the processes that have a file open, as far as this
// process may see them: all, as root.
func users(sys fs.ReadLinkFS, holds func(path string) bool) []string {
	var pids []string
	procs, err := fs.ReadDir(sys, "proc")
	if err != nil {
		return nil
	}
	for _, p := range procs {
		if strings.Trim(p.Name(), "0123456789") != "" {
			continue
		}
		fds, err := fs.ReadDir(sys, "proc/"+p.Name()+"/fd")
		if err != nil {
			continue
		}
		for _, fd := range fds {
			if to, err := sys.ReadLink("proc/" + p.Name() + "/fd/" + fd.Name()); err == nil && holds(to) {
				pids = append(pids, p.Name())
				break
			}
		}
	}
	return pids
}

// pin sets runtime power management: an idle GPU under vfio-pci may enter
// D3cold and not come back.
func (o Options) pin(ctx context.Context, bdf, value string, stack *undo.Stack) error {
	name := devices + bdf + "/power/control"
	old, err := ReadTrimmed(o.System, name)
	if err != nil {
		return fmt.Errorf("reading power control of %s: %w", bdf, err)
	}
	if old == value {
		return nil
	}
	if stack != nil {
		stack.Push("setting power control of "+bdf+" back", func() error { return o.write(name, old) })
	}
	return o.writeCtx(ctx, name, value)
}

// write is for undoing, which must go on when the caller's context has ended.
func (o Options) write(name, data string) error {
	return o.writeCtx(context.Background(), name, data)
}

func (o Options) writeCtx(ctx context.Context, name, data string) error {
	ctx, cancel := context.WithTimeout(ctx, o.Step)
	defer cancel()
	err := o.System.Write(ctx, name, data)
	if errors.Is(err, context.DeadlineExceeded) {
		return fault.New(fault.ExitNotReady, "gpu.timeout", "stop what uses the device (QEMU, nvidia-persistenced); if nothing does, power the host off and on", "waiting for the kernel: %w", err)
	}
	if errors.Is(err, fs.ErrPermission) {
		return fault.New(fault.ExitNotReady, "gpu.permission", "run as root", "changing the device: %w", err)
	}
	return err
}

// bind brings one function to vfio-pci by driver_override, which, other than
// new_id, concerns this function alone.
func (o Options) bind(ctx context.Context, bdf, from string, stack *undo.Stack) error {
	if from == Driver {
		return nil
	}
	override := devices + bdf + "/driver_override"
	stack.Push("giving "+bdf+" back to its driver", func() error { return o.release(context.Background(), bdf, from) })
	if err := o.writeCtx(ctx, override, Driver); err != nil {
		return err
	}
	if from != "" {
		if err := o.writeCtx(ctx, devices+bdf+"/driver/unbind", bdf); err != nil {
			return err
		}
	}
	if err := o.writeCtx(ctx, "sys/bus/pci/drivers_probe", bdf); err != nil {
		return err
	}
	if got := linkBase(o.System, devices+bdf+"/driver"); got != Driver {
		return fault.Mismatch(fault.ExitNotReady, "vfio.bind", "driver of "+bdf, Driver, "\""+got+"\"", "see dmesg; modprobe vfio-pci; see that the IOMMU is on")
	}
	return o.writeCtx(ctx, override, "\n")
}

// release gives a function to the driver it had; where it had none it stays
// without.
func (o Options) release(ctx context.Context, bdf, to string) error {
	errs := []error{o.writeCtx(ctx, devices+bdf+"/driver_override", "\n")}
	now := linkBase(o.System, devices+bdf+"/driver")
	if now == Driver && to != Driver {
		errs = append(errs, o.writeCtx(ctx, devices+bdf+"/driver/unbind", bdf))
		now = ""
	}
	if to == "" || now == to {
		return errors.Join(errs...)
	}
	errs = append(errs, o.writeCtx(ctx, "sys/bus/pci/drivers_probe", bdf))
	if got := linkBase(o.System, devices+bdf+"/driver"); got != to {
		errs = append(errs, fault.Mismatch(fault.ExitNotReady, "gpu.restore", "driver of "+bdf, to, "\""+got+"\"", "modprobe "+to+", then: echo "+bdf+" > /sys/bus/pci/drivers_probe"))
	}
	return errors.Join(errs...)
}

// reset clears what the last user left, and sees that the mode is still the
// same and the power still pinned after it.
func (o Options) reset(ctx context.Context, d *Device) error {
	rctx, cancel := context.WithTimeout(ctx, o.Reset)
	defer cancel()
	if err := o.System.Write(rctx, devices+d.BDF+"/reset", "1"); err != nil {
		return fault.New(fault.ExitNotReady, "gpu.reset", "power the host off and on: a GPU that was not reset must not go to another VM", "resetting %s: %w", d.BDF, err)
	}
	if err := o.checkMode(d); err != nil {
		return err
	}
	return o.pin(ctx, d.BDF, "on", nil)
}

// PinPower keeps a device from being put to sleep.
func PinPower(ctx context.Context, sys System, bdf string) error {
	return Options{System: sys}.withDefaults().pin(ctx, bdf, "on", nil)
}

// Reset clears what a VM has left on devices that are bound to vfio-pci, each
// also if another fails: before they go to another VM, or back to their owner.
func Reset(ctx context.Context, o Options, bdfs []string) error {
	o = o.withDefaults()
	var errs []error
	for _, bdf := range bdfs {
		d, err := Read(o.System, bdf)
		if err == nil {
			err = errors.Join(o.busy(bdf), inUse(o.System, d))
		}
		if err == nil {
			err = o.reset(ctx, d)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Restore gives devices back to the drivers they had, each also if another
// fails.
func Restore(ctx context.Context, o Options, before []Previous) error {
	o = o.withDefaults()
	var errs []error
	for i := len(before) - 1; i >= 0; i-- {
		b := before[i]
		if err := CheckBDF(b.BDF); err != nil {
			errs = append(errs, err)
			continue
		}
		if err := o.busy(b.BDF); err != nil {
			errs = append(errs, err)
			continue
		}
		if d, err := Read(o.System, b.BDF); err == nil {
			if err := inUse(o.System, d); err != nil {
				errs = append(errs, err)
				continue
			}
		}
		errs = append(errs, o.release(ctx, b.BDF, b.Driver))
		if b.Power == "on" || b.Power == "auto" {
			errs = append(errs, o.pin(ctx, b.BDF, b.Power, nil))
		}
	}
	return errors.Join(errs...)
}

// Ready says whether devices are prepared for a VM, without changing any:
// bound to vfio-pci with all of their IOMMU group, powered, and in the mode
// where that may be read. It is for a daemon without the rights to prepare
// them; the kernel resets a device when a VM opens it and when it lets go.
func Ready(sys Reader, mode Mode, bdfs []string) error {
	var errs []error
	for _, bdf := range bdfs {
		d, err := Read(sys, bdf)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		const remedy = "sudo cocoon gpu prepare, with all of the devices"
		for _, m := range append(append([]string{bdf}, d.Functions...), d.Shared...) {
			if got := linkBase(sys, devices+m+"/driver"); got != Driver {
				errs = append(errs, fault.Mismatch(fault.ExitNotReady, "gpu.not_prepared", "driver of "+m, Driver, "\""+got+"\"", remedy))
			}
		}
		if d.Group < 0 {
			errs = append(errs, fault.New(fault.ExitNotReady, "iommu.off", "cocoon doctor says how", "looking for the IOMMU group of %s: there is none", bdf))
		}
		if d.Power != "on" {
			errs = append(errs, fault.Mismatch(fault.ExitNotReady, "gpu.power", "power control of "+bdf, "on", d.Power, remedy))
		}
		got, err := QueryMode(sys, d)
		switch {
		case errors.Is(err, fs.ErrPermission):
		case err != nil:
			errs = append(errs, err)
		case got != mode:
			errs = append(errs, fault.Mismatch(fault.ExitNotReady, "gpu.mode", "mode of "+bdf, string(mode), string(got), SetCommand(bdf, mode)))
		}
	}
	return errors.Join(errs...)
}

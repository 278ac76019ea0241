package daemon

import (
	"context"
	"errors"
	"os"
	"slices"

	"cocoon/hostd/spec"
	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
)

// claimGPUs gives devices to one VM: no other VM that runs or is being started
// has any of them. The claim holds until the function it returns is called;
// from then on the state of the VM speaks for it.
func (d *Daemon) claimGPUs(s *spec.Spec) (func(), error) {
	if s.GPUs == nil {
		return func() {}, nil
	}
	d.claims.Lock()
	defer d.claims.Unlock()
	var errs []error
	taken := func(by string, devices []string) {
		for _, b := range devices {
			if by != s.Name && slices.Contains(s.GPUs.Devices, b) {
				errs = append(errs, fault.New(fault.ExitNotReady, "gpu.allocated", "stop that VM, or name another device: cocoon gpu list", "giving %s to VM %s: VM %s has it", b, s.Name, by))
			}
		}
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
		if !st.Over() {
			taken(r.Spec.Name, r.Spec.GPUs.Devices)
		}
	}
	if errs != nil {
		return nil, errors.Join(errs...)
	}
	d.gpus[s.Name] = s.GPUs.Devices
	return func() {
		d.claims.Lock()
		defer d.claims.Unlock()
		delete(d.gpus, s.Name)
	}, nil
}

// gpuStore is where "cocoon gpu" remembers the owner's drivers, too.
const gpuStore = "/var/lib/cocoon-gpu"

// prepareGPUs brings devices into the state that a VM needs. As root it binds,
// powers and resets them; any other user finds out whether that was done.
func prepareGPUs(ctx context.Context, g *spec.GPUs) error {
	sys, err := vfio.NewLinux()
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return vfio.Ready(sys, vfio.Mode(g.Mode), g.Devices)
	}
	store, err := vfio.OpenStore(gpuStore)
	if err != nil {
		return err
	}
	defer store.Close()
	_, err = vfio.Prepare(ctx, vfio.Options{System: sys, Mode: vfio.Mode(g.Mode), Record: store.Add}, g.Devices)
	return err
}

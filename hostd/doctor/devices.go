package doctor

import (
	"context"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
)

func ioChecks(_ context.Context, h *host, _ *Options) []item {
	return []item{iommuOn(h), iommuGroups(h), iommufd(h), vfioModule(h), module(h, "vsock.module", "vhost_vsock", "dev/vhost-vsock", false, "VMs use a restricted network instead")}
}

func iommuOn(h *host) item {
	const id = "iommu.on"
	units, err := fs.ReadDir(h.sys, "sys/class/iommu")
	if err == nil && len(units) > 0 {
		return pass(id, "%d IOMMU units", len(units))
	}
	if len(h.gpus) == 0 {
		return skip(id, "no IOMMU, and no GPU that would need one")
	}
	return fail(forProduction, id, biosIO, "no IOMMU: devices cannot be given to a VM")
}

func iommuGroups(h *host) item {
	const id = "iommu.groups"
	if len(h.gpus) == 0 {
		return skip(id, "no GPU")
	}
	var bad []string
	for _, g := range h.gpus {
		switch {
		case g.Group < 0:
			bad = append(bad, g.BDF+" is in no group")
		case len(g.Shared) > 0:
			others := slices.DeleteFunc(slices.Clone(g.Shared), func(b string) bool {
				return slices.ContainsFunc(h.gpus, func(o vfio.Device) bool { return o.BDF == b })
			})
			if len(others) > 0 {
				bad = append(bad, fmt.Sprintf("%s shares group %d with %s", g.BDF, g.Group, strings.Join(others, ", ")))
			}
		}
	}
	if bad != nil {
		return fail(forProduction, id, "BIOS: ACS on (Advanced > PCIe or NB Configuration); or move the card to another slot", "%s", strings.Join(bad, "; "))
	}
	return pass(id, "each of %d devices is alone in its group, or among devices that go along", len(h.gpus))
}

func iommufd(h *host) item {
	const id = "iommu.fd"
	if h.exists("dev/iommu") {
		return pass(id, "/dev/iommu")
	}
	if len(h.gpus) == 0 {
		return skip(id, "no /dev/iommu, and no GPU that would need it")
	}
	it := fail(forProduction, id, "use Linux 6.6 or newer with CONFIG_IOMMUFD and CONFIG_VFIO_DEVICE_CDEV; modprobe iommufd", "there is no /dev/iommu")
	if atLeast(h.kernel, 6, 6) {
		return it.with(loadModule("iommufd"))
	}
	return it
}

func vfioModule(h *host) item {
	const id, marker = "vfio.module", "sys/bus/pci/drivers/vfio-pci"
	if len(h.gpus) == 0 && !h.exists(marker) {
		return skip(id, "no GPU")
	}
	return module(h, id, "vfio-pci", marker, true, "GPUs cannot be given to a VM")
}

func module(h *host, id, name, marker string, needed bool, without string) item {
	switch {
	case h.exists(marker):
		return pass(id, "%s is loaded", name)
	case needed:
		return fail(forProduction, id, "modprobe "+name, "%s is not loaded: %s", name, without).with(loadModule(name))
	}
	return warn(id, "modprobe "+name, "%s is not loaded: %s", name, without).with(loadModule(name))
}

func gpuChecks(_ context.Context, h *host, _ *Options) []item {
	if h.gpuErr != nil {
		return []item{unseen(forProduction, "gpu.present", "see that /sys is mounted", "the PCI devices cannot be read: %v", h.gpuErr)}
	}
	if len(h.gpus) == 0 {
		return []item{warn("gpu.present", "models for the CPU can be served without one", "no NVIDIA GPU")}
	}
	return []item{gpuPresent(h), gpuMode(h), gpuSwitches(h), gpuDriver(h), gpuReset(h), gpuBAR(h), gpuPower(h)}
}

// count says of what there is how much: "8 H200 SXM, 4 NVSwitch 3".
func count(list []vfio.Device) string {
	var order []string
	n := map[string]int{}
	for _, d := range list {
		name := d.Model
		if name == "" {
			name = "10de:" + d.ID
		}
		if n[name]++; n[name] == 1 {
			order = append(order, name)
		}
	}
	for i, name := range order {
		order[i] = fmt.Sprintf("%d %s", n[name], name)
	}
	return strings.Join(order, ", ")
}

func gpuPresent(h *host) item {
	const id = "gpu.present"
	if !slices.ContainsFunc(h.gpus, func(d vfio.Device) bool { return d.Model != "" && d.Kind == vfio.KindGPU }) {
		return warn(id, "confidential computing needs an H100, H800, H20, H200 or B200", "%s: none that NVIDIA supports in confidential computing", count(h.gpus))
	}
	return pass(id, "%s", count(h.gpus))
}

// known are the devices of which the mode can be read.
func (h *host) known() []vfio.Device {
	return slices.DeleteFunc(slices.Clone(h.gpus), func(d vfio.Device) bool { return d.Arch == "" })
}

func gpuMode(h *host) item {
	const id = "gpu.mode"
	list := h.known()
	if len(list) == 0 {
		return skip(id, "no GPU of which the mode is known")
	}
	var bad, remedies []string
	modes := map[vfio.Mode]int{}
	for _, d := range list {
		m, err := vfio.QueryMode(h.sys, &d)
		if err != nil && !h.sys.Root() {
			return unseen(forProduction, id, "run as root", "the mode of %s may not be read", d.BDF)
		}
		if err != nil {
			bad = append(bad, firstFault(err))
			for _, f := range fault.All(err) {
				remedies = append(remedies, f.Remedy)
			}
			continue
		}
		modes[m]++
		if m != vfio.ModeCC && m != vfio.ModePPCIE {
			bad = append(bad, fmt.Sprintf("%s is in mode %s", d.BDF, m))
			want := vfio.ModeCC
			if d.Kind == vfio.KindSwitch {
				want = vfio.ModePPCIE
			}
			remedies = append(remedies, vfio.SetCommand(d.BDF, want))
		}
	}
	if bad != nil {
		return fail(forProduction, id, strings.Join(slices.Compact(remedies), "; "), "%s", strings.Join(bad, "; "))
	}
	if modes[vfio.ModeCC] > 0 && modes[vfio.ModePPCIE] > 0 {
		return fail(forProduction, id, "bring all of them into one mode: "+vfio.SetCommand("ADDRESS", vfio.ModePPCIE), "%d devices in mode cc and %d in ppcie", modes[vfio.ModeCC], modes[vfio.ModePPCIE])
	}
	return pass(id, "mode %s on %d devices", func() vfio.Mode {
		if modes[vfio.ModeCC] > 0 {
			return vfio.ModeCC
		}
		return vfio.ModePPCIE
	}(), len(list))
}

// gpuSwitches: Hopper protects NVLink only with all eight GPUs and all four
// switches of a board in one VM.
func gpuSwitches(h *host) item {
	const id = "gpu.nvswitches"
	gpus, switches := 0, 0
	for _, d := range h.gpus {
		if d.Kind == vfio.KindSwitch {
			switches++
		} else if d.Model != "" {
			gpus++
		}
	}
	switch {
	case switches == 0:
		return skip(id, "none")
	case gpus != 8 || switches != 4:
		return fail(forProduction, id, "power the host off and on; see lspci -d 10de: for what is missing", "%d GPUs and %d NVSwitches; a board in protected PCIe has 8 and 4", gpus, switches)
	}
	return pass(id, "%d with %d GPUs: they go to one VM together", switches, gpus)
}

func gpuDriver(h *host) item {
	const id = "gpu.driver"
	var not []string
	for _, d := range h.gpus {
		if d.Driver != vfio.Driver {
			name := d.Driver
			if name == "" {
				name = "none"
			}
			not = append(not, d.BDF+" ("+name+")")
		}
	}
	if not == nil {
		return pass(id, "vfio-pci on %d devices", len(h.gpus))
	}
	return warn(id, "cocoon gpu prepare ADDRESS..., once nothing uses them", "not prepared for a VM: %s", strings.Join(not, ", "))
}

func gpuReset(h *host) item {
	const id = "gpu.reset"
	var bad []string
	for _, d := range h.gpus {
		if !d.CanReset {
			bad = append(bad, d.BDF)
		}
	}
	if bad != nil {
		return fail(forProduction, id, "update the kernel; a GPU that cannot be reset must not go from one VM to another", "cannot be reset: %s", strings.Join(bad, ", "))
	}
	return pass(id, "%d devices can be reset", len(h.gpus))
}

// gpuBAR: a window smaller than the GPU's memory was cut by the BIOS.
func gpuBAR(h *host) item {
	const id = "gpu.bar"
	var bad []string
	var total uint64
	for _, d := range h.known() {
		if d.Kind != vfio.KindGPU {
			continue
		}
		total += d.MaxBAR
		if d.MaxBAR < 64*gib {
			bad = append(bad, fmt.Sprintf("%s has %.1f GiB", d.BDF, float64(d.MaxBAR)/gib))
		}
	}
	if bad != nil {
		return fail(forProduction, id, "BIOS: Above 4G Decoding and Resizable BAR on, MMIO high size at its largest", "the largest window of %s", strings.Join(bad, ", "))
	}
	if total == 0 {
		return skip(id, "no GPU of a known model")
	}
	return pass(id, "%d GiB of windows", total/gib)
}

func gpuPower(h *host) item {
	const id = "gpu.power"
	var bad []string
	for _, d := range h.gpus {
		if d.Power != "on" {
			bad = append(bad, d.BDF)
		}
	}
	if bad == nil {
		return pass(id, "pinned on")
	}
	return warn(id, "cocoon gpu prepare pins it, or: echo on > /sys/bus/pci/devices/ADDRESS/power/control",
		"runtime power management may put to sleep for good: %s", strings.Join(bad, ", ")).with(pinPower(bad))
}

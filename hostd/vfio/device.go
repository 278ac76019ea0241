package vfio

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cocoon/internal/fault"
)

const (
	devices = "sys/bus/pci/devices/"
	groups  = "sys/kernel/iommu_groups/"
	// Driver is the driver that hands a device to a VM.
	Driver = "vfio-pci"

	nvidia = "10de"
	// maxFile bounds what is read of one file of sysfs.
	maxFile = 64 << 10
	// maxDevices bounds the PCI devices that are looked at.
	maxDevices = 4096
)

// Kinds of devices.
const (
	KindGPU    = "gpu"
	KindSwitch = "nvswitch"
)

// Architectures, by which the mode registers differ.
const (
	Hopper    = "hopper"
	Blackwell = "blackwell"
	LS10      = "ls10" // third-generation NVSwitch
)

type model struct{ name, arch, kind string }

// models are the devices that NVIDIA supports in confidential computing, by
// PCI device ID.
func models(id string) (model, bool) {
	m, ok := map[string]model{
		"2330": {"H100 SXM", Hopper, KindGPU}, "2331": {"H100 PCIe", Hopper, KindGPU}, "2321": {"H100 NVL", Hopper, KindGPU},
		"2335": {"H200 SXM", Hopper, KindGPU}, "233b": {"H200 NVL", Hopper, KindGPU},
		"2328": {"H20", Hopper, KindGPU}, "2329": {"H20", Hopper, KindGPU}, "2324": {"H800", Hopper, KindGPU},
		"2901": {"B200", Blackwell, KindGPU},
		"22a3": {"NVSwitch 3", LS10, KindSwitch},
	}[id]
	return m, ok
}

// Device is an NVIDIA GPU or NVSwitch.
type Device struct {
	BDF      string `json:"bdf"` // 0000:1b:00.0
	ID       string `json:"id"`  // PCI device ID, hex
	Kind     string `json:"kind"`
	Model    string `json:"model"`          // empty: not one that supports confidential computing
	Arch     string `json:"arch,omitempty"` // Hopper, Blackwell or LS10; empty: unknown
	Driver   string `json:"driver"`         // empty: none
	NUMA     int    `json:"numa"`           // -1: not known
	Group    int    `json:"iommu_group"`    // -1: no IOMMU
	Power    string `json:"power_control"`  // on, auto
	CanReset bool   `json:"can_reset"`
	// MaxBAR is the size in bytes of the largest memory window.
	MaxBAR uint64 `json:"max_bar_bytes"`
	// Shared are other devices of the IOMMU group, bridges and the device's
	// own functions aside.
	Shared []string `json:"shared_with,omitempty"`
	// Functions are other functions of the same device in the same group,
	// which have to go along.
	Functions []string `json:"functions,omitempty"`
}

// ReadTrimmed returns the text of a small file, without blanks around it.
func ReadTrimmed(sys fs.FS, name string) (string, error) {
	b, err := fs.ReadFile(sys, name)
	if err != nil {
		return "", err
	}
	if len(b) > maxFile {
		return "", fmt.Errorf("reading %s: more than %d bytes", name, maxFile)
	}
	return strings.TrimSpace(string(b)), nil
}

var bdfRE = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)

// CheckBDF refuses what is not a PCI address.
func CheckBDF(s string) error {
	if !bdfRE.MatchString(s) {
		return fault.New(fault.ExitInternal, "gpu.bdf.parse", "write it as in lspci -D, such as 0000:1b:00.0", "reading the PCI address %.64q: not DOMAIN:BUS:DEVICE.FUNCTION", s)
	}
	return nil
}

// List returns the host's GPUs and NVSwitches of NVIDIA by address.
func List(sys fs.ReadLinkFS) ([]Device, error) {
	entries, err := fs.ReadDir(sys, strings.TrimSuffix(devices, "/"))
	if err != nil {
		return nil, fmt.Errorf("listing PCI devices: %w", err)
	}
	if len(entries) > maxDevices {
		return nil, fmt.Errorf("listing PCI devices: more than %d", maxDevices)
	}
	var out []Device
	for _, e := range entries {
		if !bdfRE.MatchString(e.Name()) {
			continue
		}
		vendor, err := ReadTrimmed(sys, devices+e.Name()+"/vendor")
		if err != nil || vendor != "0x"+nvidia {
			continue
		}
		class, err := ReadTrimmed(sys, devices+e.Name()+"/class")
		if err != nil {
			continue // gone since it was listed
		}
		// Base class 03 is a display controller; an NVSwitch is "other bridge".
		if !strings.HasPrefix(class, "0x03") && !strings.HasPrefix(class, "0x0680") {
			continue
		}
		d, err := Read(sys, e.Name())
		if err != nil {
			return nil, err
		}
		out = append(out, *d)
	}
	slices.SortFunc(out, func(a, b Device) int { return strings.Compare(a.BDF, b.BDF) })
	return out, nil
}

// Read returns one device.
func Read(sys fs.ReadLinkFS, bdf string) (*Device, error) {
	if err := CheckBDF(bdf); err != nil {
		return nil, err
	}
	dir := devices + bdf
	vendor, err := ReadTrimmed(sys, dir+"/vendor")
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, "gpu.absent", "list what is there: cocoon gpu list", "looking for %s: %w", bdf, err)
	}
	class, cerr := ReadTrimmed(sys, dir+"/class")
	id, ierr := ReadTrimmed(sys, dir+"/device")
	id = strings.TrimPrefix(id, "0x")
	if vendor != "0x"+nvidia || cerr != nil || ierr != nil {
		return nil, fault.New(fault.ExitNotReady, "gpu.unsupported", "name a GPU or NVSwitch of NVIDIA: cocoon gpu list", "looking at %s: vendor %s is not NVIDIA", bdf, vendor)
	}
	d := &Device{BDF: bdf, ID: id, NUMA: -1, Group: -1, Kind: KindGPU, Driver: linkBase(sys, dir+"/driver")}
	if strings.HasPrefix(class, "0x0680") {
		d.Kind = KindSwitch
	}
	if m, ok := models(id); ok && m.kind == d.Kind {
		d.Model, d.Arch = m.name, m.arch
	}
	if s, err := ReadTrimmed(sys, dir+"/numa_node"); err == nil {
		if n, err := strconv.Atoi(s); err == nil {
			d.NUMA = n
		}
	}
	d.Power, _ = ReadTrimmed(sys, dir+"/power/control")
	_, err = fs.Stat(sys, dir+"/reset")
	d.CanReset = err == nil
	d.MaxBAR = maxBAR(sys, dir+"/resource")
	if n, err := strconv.Atoi(linkBase(sys, dir+"/iommu_group")); err == nil {
		d.Group = n
		if err := d.members(sys); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// members fills in who shares the IOMMU group. Bridges (base class 06, other
// than an NVSwitch) stay with their driver (vfio.rst, "IOMMU groups").
func (d *Device) members(sys fs.ReadLinkFS) error {
	entries, err := fs.ReadDir(sys, fmt.Sprintf("%s%d/devices", groups, d.Group))
	if err != nil {
		return fmt.Errorf("reading IOMMU group %d: %w", d.Group, err)
	}
	slot, _, _ := strings.Cut(d.BDF, ".")
	for _, e := range entries {
		if e.Name() == d.BDF || !bdfRE.MatchString(e.Name()) {
			continue
		}
		class, err := ReadTrimmed(sys, devices+e.Name()+"/class")
		switch {
		case err == nil && (strings.HasPrefix(class, "0x0604") || strings.HasPrefix(class, "0x0600")):
		case strings.HasPrefix(e.Name(), slot+"."):
			d.Functions = append(d.Functions, e.Name())
		default: // one whose class cannot be read counts too
			d.Shared = append(d.Shared, e.Name())
		}
	}
	return nil
}

func linkBase(sys fs.ReadLinkFS, name string) string {
	target, err := sys.ReadLink(name)
	if err != nil {
		return ""
	}
	return path.Base(target)
}

// maxBAR reads lines "start end flags" (sysfs-bus-pci, "resource"), the first
// six of which are the device's windows.
func maxBAR(sys fs.FS, name string) uint64 {
	text, err := ReadTrimmed(sys, name)
	if err != nil {
		return 0
	}
	var most uint64
	for i, line := range strings.Split(text, "\n") {
		f := strings.Fields(line)
		if i >= 6 || len(f) != 3 {
			break
		}
		start, err1 := strconv.ParseUint(f[0], 0, 64)
		end, err2 := strconv.ParseUint(f[1], 0, 64)
		if err1 == nil && err2 == nil && end > start {
			most = max(most, end-start+1)
		}
	}
	return most
}

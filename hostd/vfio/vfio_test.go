package vfio_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/hosttest"
	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
)

const (
	gpu = "0000:1b:00.0"
	dir = "sys/bus/pci/devices/" + gpu
)

func driver(t *testing.T, m *hosttest.Machine, bdf string) string {
	t.Helper()
	d, err := vfio.Read(m, bdf)
	if err != nil {
		t.Fatal(err)
	}
	return d.Driver
}

// owned is a host whose GPU is in CC mode and bound to NVIDIA's driver.
func owned(t *testing.T) *hosttest.Machine {
	m := hosttest.New(t, "cc-off")
	m.SetRegister(gpu, 0x1182cc, 1)
	return m
}

func TestListReadsWhatSysfsSays(t *testing.T) {
	got, err := vfio.List(hosttest.New(t, "tdx-h100"))
	if err != nil {
		t.Fatal(err)
	}
	want := []vfio.Device{{BDF: gpu, ID: "2331", Kind: vfio.KindGPU, Model: "H100 PCIe", Arch: vfio.Hopper, Driver: "vfio-pci",
		Group: 12, Power: "on", CanReset: true, MaxBAR: 128 << 30}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("List (-want +got):\n%s", diff)
	}
	hgx, err := vfio.List(hosttest.New(t, "snp-h200-ppcie"))
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]int{}
	for _, d := range hgx {
		n[d.Kind]++
	}
	if n[vfio.KindGPU] != 8 || n[vfio.KindSwitch] != 4 {
		t.Errorf("an HGX board has %v", n)
	}
}

func TestQueryMode(t *testing.T) {
	for _, tc := range []struct {
		name  string
		boot  uint32
		value uint32
		want  vfio.Mode
		code  string
	}{
		{"off", 0xff, 0, vfio.ModeOff, ""},
		{"on", 0xff, 0x5, vfio.ModeCC, ""},
		{"devtools", 0xff, 3, vfio.ModeDevtools, ""},
		{"left by an interrupted tool", 0xff, 2, vfio.ModeInvalid, ""},
		{"protected PCIe", 0xff, 0x20, vfio.ModePPCIE, ""},
		{"both at once is not a mode", 0xff, 0x21, vfio.ModeInvalid, ""},
		{"firmware still boots", 0x3, 1, "", "gpu.booting"},
		{"the mode register does not answer", 0xff, 0xffffffff, "", "gpu.vanished"},
		{"the device does not answer", 0xffffffff, 1, "", "gpu.vanished"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := hosttest.New(t, "tdx-h100")
			m.SetRegister(gpu, 0x200bc, tc.boot)
			m.SetRegister(gpu, 0x1182cc, tc.value)
			got, err := vfio.QueryMode(m, &vfio.Device{BDF: gpu, Arch: vfio.Hopper})
			if got != tc.want || (err != nil) != (tc.code != "") || (tc.code != "" && !fault.Has(err, tc.code)) {
				t.Errorf("QueryMode() = %q, %v; want %q, %q", got, err, tc.want, tc.code)
			}
		})
	}
	m := hosttest.New(t, "tdx-h100")
	m.Set("root", "no")
	if _, err := vfio.QueryMode(m, &vfio.Device{BDF: gpu, Arch: vfio.Hopper}); !fault.Has(err, "gpu.register") {
		t.Errorf("without rights QueryMode gives %v", err)
	}
	if _, err := vfio.QueryMode(m, &vfio.Device{BDF: gpu, ID: "1eb8"}); !fault.Has(err, "gpu.mode.unknown") {
		t.Errorf("of an unknown GPU QueryMode gives %v", err)
	}
}

// The register is read where a resource file has it.
func TestRegisterReadsAResourceFile(t *testing.T) {
	b := make([]byte, 0x1183000)
	copy(b[0x1182cc:], []byte{0x21, 0x43, 0x65, 0x87})
	name := filepath.Join(t.TempDir(), "resource0")
	if err := os.WriteFile(name, b, 0o600); err != nil {
		t.Fatal(err)
	}
	linux, err := vfio.NewLinux()
	if err != nil {
		t.Fatal(err)
	}
	if v, err := linux.Register(name[1:], 0x1182cc); err != nil || v != 0x87654321 {
		t.Errorf("Register() = %#x, %v", v, err)
	}
	for _, at := range []int64{-4, 0x1182cd, int64(len(b)), 1 << 40} {
		if _, err := linux.Register(name[1:], at); err == nil {
			t.Errorf("Register(%#x) reads outside the file", at)
		}
	}
	if err := linux.Write(t.Context(), name[1:], "vfio-pci"); err != nil {
		t.Error(err)
	}
	if got, err := os.ReadFile(name); err != nil || string(got) != "vfio-pci" {
		t.Errorf("Write wrote %.20q, %v", got, err)
	}
	if err := linux.Write(t.Context(), name[1:]+"/absent", "x"); err == nil {
		t.Error("a write into nowhere succeeds")
	}
}

func TestPrepareBindsAndRestoreGivesBack(t *testing.T) {
	m := owned(t)
	o := vfio.Options{System: m, Mode: vfio.ModeCC}
	p, err := vfio.Prepare(t.Context(), o, []string{gpu})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]vfio.Previous{{BDF: gpu, Driver: "nvidia", Power: "auto"}}, p.Before); diff != "" {
		t.Errorf("before (-want +got):\n%s", diff)
	}
	if d := p.Devices[0]; d.Driver != vfio.Driver || d.Power != "on" {
		t.Errorf("prepared device is %+v", d)
	}
	if got, _ := vfio.ReadTrimmed(m, dir+"/driver_override"); got != "(null)" {
		t.Errorf("driver_override is left at %q", got)
	}
	again, err := vfio.Prepare(t.Context(), o, []string{gpu})
	if err != nil || again.Before[0].Driver != vfio.Driver {
		t.Errorf("a second preparation gives %+v, %v", again, err)
	}
	if err := vfio.Restore(t.Context(), o, p.Before); err != nil {
		t.Fatal(err)
	}
	if d, err := vfio.Read(m, gpu); err != nil || d.Driver != "nvidia" || d.Power != "auto" {
		t.Errorf("restored device is %+v, %v", d, err)
	}
}

// Whatever goes wrong, the device ends where it was.
func TestPrepareTakesEverythingBack(t *testing.T) {
	boom := errors.New("boom")
	for _, tc := range []struct {
		name     string
		code     string
		sabotage func(*hosttest.Machine, *vfio.Options)
	}{
		{"the override is refused", "", func(m *hosttest.Machine, _ *vfio.Options) { m.Fail[dir+"/driver_override"] = boom }},
		{"unbinding hangs because somebody uses the GPU", "gpu.timeout", func(m *hosttest.Machine, _ *vfio.Options) { m.Hang[dir+"/driver/unbind"] = true }},
		{"the GPU hangs in reset", "gpu.reset", func(m *hosttest.Machine, _ *vfio.Options) { m.Hang[dir+"/reset"] = true }},
		{"the GPU vanishes in reset", "gpu.vanished", func(m *hosttest.Machine, _ *vfio.Options) {
			m.OnReset = func(bdf string) { m.SetRegister(bdf, 0x200bc, 0xffffffff) }
		}},
		{"the GPU leaves reset in another mode", "gpu.mode", func(m *hosttest.Machine, _ *vfio.Options) {
			m.OnReset = func(bdf string) { m.SetRegister(bdf, 0x1182cc, 0) }
		}},
		{"the GPU leaves reset in an invalid mode and any would do", "gpu.mode", func(m *hosttest.Machine, o *vfio.Options) {
			o.Mode = ""
			m.OnReset = func(bdf string) { m.SetRegister(bdf, 0x1182cc, 2) }
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := owned(t)
			o := vfio.Options{System: m, Mode: vfio.ModeCC, Step: 20 * time.Millisecond, Reset: 20 * time.Millisecond}
			tc.sabotage(m, &o)
			_, err := vfio.Prepare(t.Context(), o, []string{gpu})
			if err == nil || (tc.code != "" && !fault.Has(err, tc.code)) || (tc.code == "" && !errors.Is(err, boom)) {
				t.Errorf("Prepare() = %v, want %s", err, tc.code)
			}
			if got := driver(t, m, gpu); got != "nvidia" {
				t.Errorf("the driver is %q", got)
			}
			if got, _ := vfio.ReadTrimmed(m, dir+"/power/control"); got != "auto" {
				t.Errorf("power control is %q", got)
			}
			if got, _ := vfio.ReadTrimmed(m, dir+"/driver_override"); got != "(null)" && tc.code != "" {
				t.Errorf("driver_override is %q", got)
			}
		})
	}
}

// What can be seen beforehand is said at once, and nothing is touched.
func TestPrepareRefusesBeforeItChangesAnything(t *testing.T) {
	for _, tc := range []struct {
		name    string
		machine string
		bdfs    []string
		change  func(*hosttest.Machine)
		codes   []string
	}{
		{"a GPU in the wrong mode", "cc-off", []string{gpu}, nil, []string{"gpu.mode"}},
		{"no IOMMU, and nothing to reset with", "bios-off", []string{gpu}, func(m *hosttest.Machine) { delete(m.MapFS, dir+"/reset") }, []string{"iommu.off", "gpu.reset.absent"}},
		{"a network card in the group", "iommu-shared", []string{gpu}, nil, []string{"iommu.group.shared"}},
		{"processes that use the driver, and no vfio-pci", "cc-off", []string{gpu}, func(m *hosttest.Machine) {
			m.SetRegister(gpu, 0x1182cc, 1)
			for name := range m.MapFS {
				if name == "sys/bus/pci/drivers/vfio-pci" {
					delete(m.MapFS, name)
				}
			}
			m.Link("proc/812/fd/7", "/dev/nvidia0")
		}, []string{"gpu.in_use", "vfio.module"}},
		{"a GPU that a VM has by its group", "tdx-h100", []string{gpu}, func(m *hosttest.Machine) {
			m.Link("sys/bus/pci/devices/"+gpu+"/driver", "../../../bus/pci/drivers/vfio-pci")
			m.Link("proc/900/fd/31", "/dev/vfio/devices/vfio0")
		}, []string{"gpu.in_use"}},
		{"a GPU that a VM has without a name", "tdx-h100", []string{gpu}, func(m *hosttest.Machine) {
			m.Link("sys/bus/pci/devices/"+gpu+"/driver", "../../../bus/pci/drivers/vfio-pci")
			m.Link("proc/900/fd/32", "anon_inode:[vfio-device]")
		}, []string{"gpu.in_use"}},
		{"a device that is not there", "tdx-h100", []string{"0000:77:00.0"}, nil, []string{"gpu.absent"}},
		{"a device of somebody else", "tdx-h100", []string{"0000:00:00.0"}, nil, []string{"gpu.unsupported"}},
		{"a path as an address", "tdx-h100", []string{"../../../etc"}, nil, []string{"gpu.bdf.parse"}},
		{"nothing", "tdx-h100", nil, nil, []string{"gpu.absent"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			m := hosttest.New(t, tc.machine)
			if tc.change != nil {
				tc.change(m)
			}
			_, err := vfio.Prepare(t.Context(), vfio.Options{System: m, Mode: vfio.ModeCC}, tc.bdfs)
			for _, code := range tc.codes {
				if !fault.Has(err, code) {
					t.Errorf("Prepare() = %v, want %s", err, code)
				}
			}
			if len(m.Writes) > 0 {
				t.Errorf("it wrote %v", m.Writes)
			}
		})
	}
}

// A crash after the first change must find how the devices were.
func TestWhatDevicesWereIsRecordedBeforeAnyChange(t *testing.T) {
	m := hosttest.New(t, "tdx-h100")
	var recorded []vfio.Previous
	full := errors.New("no space left")
	_, err := vfio.Prepare(t.Context(), vfio.Options{System: m, Mode: vfio.ModeCC, Record: func(before []vfio.Previous) error {
		if len(m.Writes) > 0 {
			t.Errorf("written before: %v", m.Writes)
		}
		recorded = before
		return full
	}}, []string{gpu})
	if !errors.Is(err, full) || len(m.Writes) > 0 || len(recorded) == 0 || recorded[0].BDF != gpu {
		t.Errorf("got %v, recorded %v, wrote %v", err, recorded, m.Writes)
	}
}

// A device that a VM has is not taken from it to be given back.
func TestRestoreLeavesADeviceInUse(t *testing.T) {
	m := hosttest.New(t, "tdx-h100")
	m.Link("sys/bus/pci/devices/"+gpu+"/driver", "../../../bus/pci/drivers/vfio-pci")
	m.Link("proc/900/fd/32", "anon_inode:[vfio-device]")
	err := vfio.Restore(t.Context(), vfio.Options{System: m}, []vfio.Previous{{BDF: gpu, Driver: "nvidia", Power: "auto"}})
	if !fault.Has(err, "gpu.in_use") || len(m.Writes) > 0 {
		t.Errorf("got %v, wrote %v", err, m.Writes)
	}
}

func TestAWholeBoardGoesTogetherOrNotAtAll(t *testing.T) {
	m := hosttest.New(t, "snp-h200-ppcie")
	list, err := vfio.List(m)
	if err != nil {
		t.Fatal(err)
	}
	var bdfs []string
	for _, d := range list {
		bdfs = append(bdfs, d.BDF)
	}
	o := vfio.Options{System: m, Mode: vfio.ModePPCIE}
	if err := vfio.Restore(t.Context(), o, []vfio.Previous{{BDF: bdfs[0], Driver: "nvidia", Power: "auto"}}); err != nil {
		t.Fatal(err)
	}
	last := bdfs[len(bdfs)-1]
	m.Fail["sys/bus/pci/devices/"+last+"/reset"] = fs.ErrInvalid
	if _, err := vfio.Prepare(t.Context(), o, bdfs); !fault.Has(err, "gpu.reset") {
		t.Errorf("Prepare() = %v", err)
	}
	if got := driver(t, m, bdfs[0]); got != "nvidia" {
		t.Errorf("the first GPU is left at %q", got)
	}
	delete(m.Fail, "sys/bus/pci/devices/"+last+"/reset")
	if p, err := vfio.Prepare(t.Context(), o, bdfs); err != nil || len(p.Devices) != 12 {
		t.Errorf("Prepare() = %v, %v", p, err)
	}
}

func TestStoreRemembersTheOwnersDriver(t *testing.T) {
	dir := t.TempDir()
	s, err := vfio.OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := vfio.OpenStore(dir); !fault.Has(err, "gpu.locked") {
		t.Errorf("a second process gets %v", err)
	}
	first := vfio.Previous{BDF: gpu, Driver: "nvidia", Power: "auto"}
	audio := vfio.Previous{BDF: "0000:1b:00.1", Driver: "snd_hda_intel"}
	other := vfio.Previous{BDF: "0000:2b:00.0", Driver: "nvidia", Power: "on"}
	for _, b := range [][]vfio.Previous{{first, audio}, {{BDF: gpu, Driver: "vfio-pci", Power: "on"}}, {other}} {
		if err := s.Add(b); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = vfio.OpenStore(dir); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]vfio.Previous{first, audio}, s.Select(gpu)); diff != "" {
		t.Errorf("Select (-want +got):\n%s", diff)
	}
	if err := s.Forget(s.Select(gpu)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]vfio.Previous{other}, s.Select()); diff != "" {
		t.Errorf("after Forget (-want +got):\n%s", diff)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []string{"{", `{"version":2,"before":[]}`, `{"version":1,"before":[{"bdf":"../x","driver":"","power_control":""}]}`} {
		if err := os.WriteFile(filepath.Join(dir, vfio.StoreFile), []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := vfio.OpenStore(dir); !fault.Has(err, "gpu.state.parse") {
			t.Errorf("%s gives %v", bad, err)
		}
	}
}

func TestReadySaysWhatIsNotPrepared(t *testing.T) {
	if err := vfio.Ready(hosttest.New(t, "tdx-h100"), vfio.ModeCC, []string{gpu}); err != nil {
		t.Errorf("a prepared GPU: %v", err)
	}
	for code, change := range map[string]func(*hosttest.Machine){
		"gpu.not_prepared": func(m *hosttest.Machine) { delete(m.MapFS, dir+"/driver") },
		"gpu.power":        func(m *hosttest.Machine) { m.MapFS[dir+"/power/control"].Data = []byte("auto\n") },
		"gpu.mode":         func(m *hosttest.Machine) { m.SetRegister(gpu, 0x1182cc, 0) },
		"gpu.vanished":     func(m *hosttest.Machine) { m.SetRegister(gpu, 0x200bc, 0xffffffff) },
		"gpu.absent":       func(m *hosttest.Machine) { m.Unplug(gpu) },
		"iommu.off":        func(m *hosttest.Machine) { delete(m.MapFS, dir+"/iommu_group") },
	} {
		m := hosttest.New(t, "tdx-h100")
		change(m)
		if err := vfio.Ready(m, vfio.ModeCC, []string{gpu}); !fault.Has(err, code) {
			t.Errorf("Ready() = %v, want %s", err, code)
		}
		if len(m.Writes) != 0 {
			t.Errorf("Ready wrote %v", m.Writes)
		}
	}
	// Who shares the group has to be at vfio-pci too.
	if err := vfio.Ready(hosttest.New(t, "iommu-shared"), vfio.ModeCC, []string{gpu}); !fault.Has(err, "gpu.not_prepared") {
		t.Errorf("with a network card in the group: %v", err)
	}
	// What may not be read is the guest's to find out.
	m := hosttest.New(t, "tdx-h100")
	m.Set("root", "no")
	if err := vfio.Ready(m, vfio.ModeCC, []string{gpu}); err != nil {
		t.Errorf("without rights: %v", err)
	}
}

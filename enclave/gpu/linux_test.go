package gpu

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cocoon/enclave/gpu/wire"
)

// tree writes files of a machine: sysfs and proc as the kernel's and the
// driver's documentation have them, made up for these tests.
func tree(t *testing.T, files map[string]string) *Linux {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &Linux{Root: root}
}

const devices = "sys/bus/pci/devices/"

func TestFunctionsAreToldByVendorAndClass(t *testing.T) {
	l := tree(t, map[string]string{
		devices + "0000:01:00.0/vendor": "0x10de\n", devices + "0000:01:00.0/class": "0x030200\n", devices + "0000:01:00.0/device": "0x2335\n",
		devices + "0000:01:00.1/vendor": "0x10de\n", devices + "0000:01:00.1/class": "0x040300\n", devices + "0000:01:00.1/device": "0x10fa\n",
		devices + "0000:02:00.0/vendor": "0x10de\n", devices + "0000:02:00.0/class": "0x068000\n", devices + "0000:02:00.0/device": "0x22a3\n",
		devices + "0000:03:00.0/vendor": "0x10de\n", devices + "0000:03:00.0/class": "0x030000\n", devices + "0000:03:00.0/device": "0x2bb5\n",
		devices + "0000:04:00.0/vendor": "0x8086\n", devices + "0000:04:00.0/class": "0x030200\n",
		devices + "0000:05:00.0/class": "0x030200\n",
	})
	got, err := l.Functions()
	if err != nil {
		t.Fatal(err)
	}
	want := []Function{{"0000:01:00.0", wire.KindGPU}, {"0000:01:00.1", ""}, {"0000:02:00.0", wire.KindSwitch}, {"0000:03:00.0", wire.KindGPU}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("functions (-want +got):\n%s", diff)
	}
}

func TestResetWritesAndADeviceThatReadsAsOnesIsGone(t *testing.T) {
	l := tree(t, map[string]string{
		devices + "a/reset": "", devices + "a/config": "\xde\x10\x35\x23....", devices + "b/config": "\xff\xff\xff\xff....", devices + "c/config": "",
	})
	if done, err := l.Reset(context.Background(), "a"); !done || err != nil {
		t.Errorf("reset: %v, %v", done, err)
	}
	if b, err := os.ReadFile(l.path(devices + "a/reset")); err != nil || string(b) != "1" {
		t.Errorf("written: %q, %v", b, err)
	}
	if done, err := l.Reset(context.Background(), "b"); done || err != nil {
		t.Errorf("a device without a reset: %v, %v", done, err)
	}
	for address, want := range map[string]bool{"a": true, "b": false, "c": false, "d": false} {
		if got := l.Alive(address); got != want {
			t.Errorf("%s alive: %v", address, got)
		}
	}
}

// A reset that never comes back, as a write to a FIFO that nobody reads.
func TestAResetThatHangsEndsWithItsTime(t *testing.T) {
	l := tree(t, map[string]string{devices + "a/config": ""})
	fifo := l.path(devices + "a/reset")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := l.Reset(ctx, "a"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	// Let the writer go.
	r, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	r.Close()
}

func TestNodesAreMadeByTheDriversNumbers(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making device nodes needs root")
	}
	const procs = "Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n234 nvidia-nvswitch\n511 nvidia-uvm\n\nBlock devices:\n259 nvidia-uvm\n"
	good := map[string]string{
		"proc/devices": procs, "dev/null": "",
		"proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t NVIDIA H200\nDevice Minor: \t 3\n",
		devices + "0000:02:00.0/vendor":                    "0x10de\n", devices + "0000:02:00.0/class": "0x068000\n", devices + "0000:02:00.0/device": "0x22a3\n",
	}
	l := tree(t, good)
	for range 2 { // also where they are there
		if err := l.MakeNodes(); err != nil {
			t.Skipf("this machine lets nobody make device nodes: %v", err)
		}
	}
	for name, want := range map[string]uint64{
		"nvidiactl": unix.Mkdev(195, 255), "nvidia3": unix.Mkdev(195, 3), "nvidia-uvm": unix.Mkdev(511, 0), "nvidia-uvm-tools": unix.Mkdev(511, 1),
		"nvidia-nvswitchctl": unix.Mkdev(234, 255), "nvidia-nvswitch0": unix.Mkdev(234, 0),
	} {
		var st unix.Stat_t
		if err := unix.Stat(l.path("dev/"+name), &st); err != nil || st.Rdev != want || st.Mode != unix.S_IFCHR|0o666 {
			t.Errorf("%s: number %#x mode %o, %v", name, st.Rdev, st.Mode, err)
		}
	}
}

func TestADriverWithoutNumbersIsRefused(t *testing.T) {
	const info = "proc/driver/nvidia/gpus/0000:01:00.0/information"
	for name, files := range map[string]map[string]string{
		"no /proc/devices":         {"dev/null": ""},
		"no GPU":                   {"proc/devices": "511 nvidia-uvm\n"},
		"no nvidia-uvm":            {"proc/devices": "195 nvidia\n", info: "Device Minor: 0\n"},
		"a GPU without a minor":    {"proc/devices": "511 nvidia-uvm\n", info: "Model: x\n"},
		"a minor that is no minor": {"proc/devices": "511 nvidia-uvm\n", info: "Device Minor: 255\n"},
		"a number out of range":    {"proc/devices": "5110 nvidia-uvm\n", info: "Device Minor: 0\n"},
	} {
		if err := tree(t, files).MakeNodes(); err == nil {
			t.Errorf("%s: passed", name)
		}
	}
	if err := tree(t, nil).LoadModule("nvidia", ""); err == nil {
		t.Error("a module that is not in the image was loaded")
	}
}

func TestOnlyADescriptionOfNVIDIAsGPUsIsKept(t *testing.T) {
	l := tree(t, nil)
	for _, bad := range []string{"", "[]", `{"kind":"vendor.com/nic","devices":[{}]}`, `{"kind":"nvidia.com/gpu","devices":[]}`} {
		if err := l.describe([]byte(bad)); err == nil {
			t.Errorf("%q was kept", bad)
		}
	}
	const good = `{"kind":"nvidia.com/gpu","devices":[{"name":"all"}]}`
	if err := l.describe([]byte(good)); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(l.path("run/cdi/nvidia.json")); err != nil || string(b) != good {
		t.Errorf("kept %q, %v", b, err)
	}
}

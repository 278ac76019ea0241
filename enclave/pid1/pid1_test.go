package pid1

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fakeKernel records calls and fails those that fail names.
type fakeKernel struct {
	calls []string
	fail  map[string]error
}

func (f *fakeKernel) do(format string, args ...any) error {
	call := fmt.Sprintf(format, args...)
	f.calls = append(f.calls, call)
	return f.fail[call]
}
func (f *fakeKernel) Mount(_, target, fstype string, flags uintptr, _ string) error {
	if flags&unix.MS_REMOUNT != 0 {
		return f.do("remount %s", target)
	}
	return f.do("mount %s %s", fstype, target)
}
func (f *fakeKernel) MkdirAll(path string, _ fs.FileMode) error { return f.do("mkdir %s", path) }
func (f *fakeKernel) WriteFile(path string, b []byte) error     { return f.do("write %s %s", path, b) }
func (f *fakeKernel) Symlink(o, n string) error                 { return f.do("link %s", n) }

func TestMountAll(t *testing.T) {
	set := []Mount{
		{"proc", "/proc", "proc", hard, "", true},
		{"tmpfs", "/run", "tmpfs", hard, "", false},
		{"tmpfs", "/run/x", "tmpfs", hard, "", false},
	}
	t.Run("mount points below a tmpfs are made, those of the root are not", func(t *testing.T) {
		f := &fakeKernel{}
		if err := MountAll(f, set); err != nil {
			t.Fatal(err)
		}
		want := []string{"mount proc /proc", "mount tmpfs /run", "mkdir /run/x", "mount tmpfs /run/x"}
		if diff := cmp.Diff(want, f.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
	t.Run("what the initrd mounted is made as hard as it should be", func(t *testing.T) {
		f := &fakeKernel{fail: map[string]error{"mount proc /proc": unix.EBUSY}}
		if err := MountAll(f, set[:1]); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{"mount proc /proc", "remount /proc"}, f.calls); diff != "" {
			t.Errorf("calls (-want +got):\n%s", diff)
		}
	})
	t.Run("a tmpfs that is busy is an error", func(t *testing.T) {
		f := &fakeKernel{fail: map[string]error{"mount tmpfs /run": unix.EBUSY}}
		if err := MountAll(f, set); !errors.Is(err, unix.EBUSY) {
			t.Errorf("got %v, want EBUSY", err)
		}
	})
}

func TestEveryMountForbidsSetUID(t *testing.T) {
	for _, m := range Mounts() {
		if m.Flags&unix.MS_NOSUID == 0 || m.Flags&unix.MS_NOEXEC == 0 {
			t.Errorf("%s is mounted without nosuid or noexec", m.Target)
		}
		if m.Flags&unix.MS_NODEV == 0 && !strings.HasPrefix(m.Target, "/dev") {
			t.Errorf("%s is mounted without nodev", m.Target)
		}
		if m.FSType == "tmpfs" && !strings.Contains(m.Data, "size=") {
			t.Errorf("%s has no size limit", m.Target)
		}
	}
}

func TestCgroups(t *testing.T) {
	f := &fakeKernel{}
	err := Cgroups(f, []Cgroup{{Name: "svc", Limits: map[string]string{"pids.max": "64"}}})
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"write /sys/fs/cgroup/cgroup.subtree_control +cpu +memory +pids",
		"mkdir /sys/fs/cgroup/svc", "write /sys/fs/cgroup/svc/pids.max 64",
	}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	f = &fakeKernel{fail: map[string]error{want[0]: unix.EINVAL}}
	if err := Cgroups(f, nil); !errors.Is(err, unix.EINVAL) {
		t.Errorf("got %v, want EINVAL", err)
	}
}

func TestHardenSkipsOnlySwitchesThatTheKernelLacks(t *testing.T) {
	f := &fakeKernel{fail: map[string]error{
		"write /proc/sys/kernel/sysrq 0":               fs.ErrNotExist,
		"write /proc/sys/kernel/kptr_restrict 2":       unix.EPERM,
		"write /proc/sys/kernel/yama/ptrace_scope 3":   unix.EINVAL,
		"write /proc/sys/kernel/perf_event_paranoid 3": nil,
	}}
	err := Harden(f)
	if !errors.Is(err, unix.EPERM) || !errors.Is(err, unix.EINVAL) || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want EPERM and EINVAL", err)
	}
	if len(f.calls) != len(Sysctls()) {
		t.Errorf("%d of %d switches were set", len(f.calls), len(Sysctls()))
	}
}

func TestLinkDevicesTakesExistingLinks(t *testing.T) {
	f := &fakeKernel{fail: map[string]error{"link /dev/fd": fs.ErrExist}}
	if err := LinkDevices(f); err != nil {
		t.Fatal(err)
	}
	f.fail["link /dev/stdin"] = unix.EROFS
	if err := LinkDevices(f); !errors.Is(err, unix.EROFS) {
		t.Errorf("got %v, want EROFS", err)
	}
}

func TestDevicesAreFoundByWhatTheHostCallsThem(t *testing.T) {
	sys := fstest.MapFS{
		"class/virtio-ports/vport0p0/name": {Data: []byte("console\n")},
		"class/virtio-ports/vport0p1/name": {Data: []byte("cocoon.status\n")},
		"class/block/vda/serial":           {Data: []byte("cocoon-root")},
		"class/block/vdb/serial":           {Data: []byte("cocoon-model\n")},
		"class/block/vdb1/partition":       {Data: []byte("1")},
		"class/input/event0/device/name":   {Data: []byte("AT keyboard\n")},
		"class/input/event1/device/name":   {Data: []byte("Power Button\n")},
		"class/input/mouse0/device/name":   {Data: []byte("Power Button\n")},
	}
	if got, err := PortByName(sys, "cocoon.status"); err != nil || got != "vport0p1" {
		t.Errorf("port: got %q, %v", got, err)
	}
	if got, err := DiskBySerial(sys, "cocoon-model"); err != nil || got != "vdb" {
		t.Errorf("disk: got %q, %v", got, err)
	}
	if got, err := PowerButton(sys); err != nil || got != "event1" {
		t.Errorf("button: got %q, %v", got, err)
	}
	if _, err := DiskBySerial(sys, "cocoon-engine"); !errors.Is(err, ErrNoDevice) {
		t.Errorf("missing disk: got %v, want ErrNoDevice", err)
	}
	if _, err := PowerButton(fstest.MapFS{"class/input/event0/device/name": {}}); !errors.Is(err, ErrNoDevice) {
		t.Errorf("missing button: got %v, want ErrNoDevice", err)
	}
}

func TestTwoDisksWithOneSerialAreRefused(t *testing.T) {
	sys := fstest.MapFS{
		"class/block/vda/serial": {Data: []byte("cocoon-model")},
		"class/block/vdb/serial": {Data: []byte("cocoon-model")},
	}
	if name, err := DiskBySerial(sys, "cocoon-model"); err == nil {
		t.Errorf("got %s, want a refusal: the host is not to choose by order", name)
	}
}

func TestWaitFor(t *testing.T) {
	n := 0
	got, err := WaitFor(context.Background(), func() (string, error) {
		if n++; n < 3 {
			return "", fmt.Errorf("x: %w", ErrNoDevice)
		}
		return "vda", nil
	})
	if err != nil || got != "vda" {
		t.Errorf("got %q, %v", got, err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := WaitFor(ctx, func() (string, error) { return "", ErrNoDevice }); !errors.Is(err, ErrNoDevice) {
		t.Errorf("got %v, want ErrNoDevice", err)
	}
	if _, err := WaitFor(context.Background(), func() (string, error) { return "", fs.ErrPermission }); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("got %v, want another error to end the wait", err)
	}
}

func TestClockSane(t *testing.T) {
	for when, want := range map[string]bool{
		"1970-01-01T00:00:00Z": false, "2025-12-31T23:59:59Z": false,
		"2026-11-22T00:00:00Z": true, "2099-01-01T00:00:00Z": false,
	} {
		at, err := time.Parse(time.RFC3339, when)
		if err != nil {
			t.Fatal(err)
		}
		if got := ClockSane(at); got != want {
			t.Errorf("%s: got %v, want %v", when, got, want)
		}
	}
}

func TestAwaitButtonTakesOnlyAPressOfPower(t *testing.T) {
	event := func(typ, code byte, value byte) []byte {
		b := make([]byte, inputEventSize)
		b[16], b[18], b[20] = typ, code, value
		return b
	}
	for _, c := range []struct {
		name   string
		stream []byte
		want   bool
	}{
		{"a press", event(evKey, keyPower, 1), true},
		{"a press after other events", append(event(0, 0, 0), event(evKey, keyPower, 1)...), true},
		{"a release", event(evKey, keyPower, 0), false},
		{"another key", event(evKey, 30, 1), false},
		{"half an event", event(evKey, keyPower, 1)[:20], false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := awaitButton(strings.NewReader(string(c.stream))); got != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

type fakePower struct{ calls []string }

func (f *fakePower) Sync()      { f.calls = append(f.calls, "sync") }
func (f *fakePower) Off() error { f.calls = append(f.calls, "off"); return nil }

func TestOffSyncsFirst(t *testing.T) {
	var f fakePower
	if err := Off(&f); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"sync", "off"}, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

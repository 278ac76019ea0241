package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/spec"
	"cocoon/internal/fault"
)

// A VM that is started with other devices leaves none of its old ones as they
// are, and nobody gets what was not released.
func TestDevicesThatAVMNoLongerHasAreReleased(t *testing.T) {
	gpus := &fakeGPUs{}
	o := options(t, t.TempDir())
	t.Setenv("DAEMON_TEST_KEEPER", "fake")
	c := &clock{t: now()}
	o.GPUs, o.Clock = gpus, c.now
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	with := func(name string, devices ...string) *spec.Spec {
		s := behave(t, "serve", spec.RestartNo)
		s.Name = name
		if devices != nil {
			s.GPUs = &spec.GPUs{Devices: devices, Mode: spec.GPUModeOff}
		}
		return s
	}
	const first, second = "0000:1b:00.0", "0000:1c:00.0"
	start(t, d, with("a", first, second))
	gpus.failRelease = errors.New("it hangs in reset")
	if _, err := d.Stop(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	for _, s := range []*spec.Spec{with("a", first), with("a"), with("b", second)} {
		if _, err := d.Start(t.Context(), s); !fault.Has(err, "gpu.unreleased") {
			t.Errorf("VM %s with %+v: %v, want gpu.unreleased", s.Name, s.GPUs, err)
		}
	}
	gpus.failRelease = nil
	start(t, d, with("a", first))
	if diff := cmp.Diff([]string{second}, gpus.last); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
	start(t, d, with("b", second))
	c.pass(2 * releaseEvery) // since the release that failed
	if _, err := d.Stop(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{first}, gpus.last); diff != "" {
		t.Errorf("released (-want +got):\n%s", diff)
	}
}

// TestDevicesOfTwoEndedVMsAreReleased: two records may name one device as not
// released, where a start was taken back after another VM had it.
func TestDevicesOfTwoEndedVMsAreReleased(t *testing.T) {
	gpus := &fakeGPUs{failRelease: errors.New("it hangs in reset")}
	o := options(t, t.TempDir())
	t.Setenv("DAEMON_TEST_KEEPER", "fake")
	c := &clock{t: now()}
	o.GPUs, o.Clock = gpus, c.now
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const dev = "0000:1b:00.0"
	for _, name := range []string{"a", "b"} {
		s := behave(t, "serve", spec.RestartNo)
		s.Name, s.GPUs = name, &spec.GPUs{Devices: []string{dev}, Mode: spec.GPUModeOff}
		if name == "b" {
			s.GPUs.Devices = []string{"0000:1c:00.0"}
		}
		start(t, d, s)
		if _, err := d.Stop(t.Context(), name, false); err != nil {
			t.Fatal(err)
		}
	}
	r, err := d.store.Get("b")
	if err != nil {
		t.Fatal(err)
	}
	r.Spec.GPUs.Devices = []string{dev}
	if err := d.store.Put(r); err != nil {
		t.Fatal(err)
	}
	gpus.failRelease = nil
	c.pass(2 * releaseEvery)
	for _, name := range []string{"a", "b"} {
		d.release(t.Context(), name)
		if r, err := d.store.Get(name); err != nil || r.GPUsUsed {
			t.Errorf("VM %s keeps its device for ever: %+v, %v", name, r, err)
		}
	}
}

// The owner's commands and VMs do not get in each other's way.
func TestTheOwnerPreparesAndRestoresWhatNoVMHas(t *testing.T) {
	gpus := &fakeGPUs{}
	o := options(t, t.TempDir())
	t.Setenv("DAEMON_TEST_KEEPER", "fake")
	o.GPUs = gpus
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	const first, second, third = "0000:1b:00.0", "0000:1c:00.0", "0000:1d:00.0"
	want := func(code string, err error) {
		t.Helper()
		if !fault.Has(err, code) {
			t.Errorf("%v, want %s", err, code)
		}
	}
	want("gpu.mode", d.PrepareGPUs(t.Context(), "devtools", []string{first}))
	if err := d.PrepareGPUs(t.Context(), spec.GPUModeCC, []string{"../0000:1b:00.0"}); err == nil {
		t.Error("an address that is none was accepted")
	}
	if _, err := d.RestoreGPUs(t.Context(), []string{"x"}); err == nil {
		t.Error("an address that is none was accepted")
	}
	if err := d.PrepareGPUs(t.Context(), spec.GPUModeOff, []string{first, second}); err != nil {
		t.Fatal(err)
	}
	_, err = d.RestoreGPUs(t.Context(), []string{third})
	want("gpu.not_prepared", err)

	s := behave(t, "serve", spec.RestartNo)
	s.Name, s.GPUs = "a", &spec.GPUs{Devices: []string{first}, Mode: spec.GPUModeOff}
	start(t, d, s)
	want("gpu.allocated", d.PrepareGPUs(t.Context(), spec.GPUModeOff, []string{first, third}))
	_, err = d.RestoreGPUs(t.Context(), nil)
	want("gpu.allocated", err)
	if gpus.released != 0 {
		t.Error("a device was reset under its VM")
	}
	got, err := d.RestoreGPUs(t.Context(), []string{second})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{second}, got); diff != "" {
		t.Errorf("restored (-want +got):\n%s", diff)
	}

	// While the one command is at work, neither a VM nor another command gets its
	// devices.
	gpus.gate = make(chan struct{})
	done := make(chan error, 1)
	go func() { done <- d.PrepareGPUs(context.Background(), spec.GPUModeOff, []string{third}) }()
	for {
		d.claims.Lock()
		claimed := d.gpus[byOwner] != nil
		d.claims.Unlock()
		if claimed {
			break
		}
		time.Sleep(time.Millisecond)
	}
	b := behave(t, "serve", spec.RestartNo)
	b.Name, b.GPUs = "b", &spec.GPUs{Devices: []string{third}, Mode: spec.GPUModeOff}
	_, err = d.Start(t.Context(), b)
	want("gpu.allocated", err)
	want("gpu.locked", d.PrepareGPUs(t.Context(), spec.GPUModeOff, []string{second}))
	close(gpus.gate)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	start(t, d, b)
}

// Of two commands that give the same devices back, the later one does not reset
// them under their owner.
func TestDevicesAreNotResetAfterTheyWereGivenBack(t *testing.T) {
	gpus := &fakeGPUs{}
	o := options(t, t.TempDir())
	o.GPUs = gpus
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, named := range [][]string{nil, {"0000:1b:00.0"}} {
		gpus.released = 0
		if err := d.PrepareGPUs(t.Context(), spec.GPUModeOff, []string{"0000:1b:00.0"}); err != nil {
			t.Fatal(err)
		}
		gpus.listed = func() {
			if _, err := d.RestoreGPUs(t.Context(), nil); err != nil {
				t.Error(err)
			}
		}
		if _, err := d.RestoreGPUs(t.Context(), named); !fault.Has(err, "gpu.not_prepared") {
			t.Errorf("%v, want gpu.not_prepared", err)
		}
		if gpus.released != 1 {
			t.Errorf("reset %d times, want once", gpus.released)
		}
	}
}

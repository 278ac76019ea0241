package daemon

import (
	"context"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
)

// pausing is a host whose devices take until the test lets them be ready.
type pausing struct {
	fakeGPUs
	pause    atomic.Bool
	began    chan struct{}
	released chan struct{}
}

func (p *pausing) Prepare(ctx context.Context, g *spec.GPUs) error {
	if p.pause.Load() {
		p.began <- struct{}{}
		<-p.released
	}
	return p.fakeGPUs.Prepare(ctx, g)
}

func pausingHost(t *testing.T) (*Daemon, *clock, *pausing) {
	t.Helper()
	g := &pausing{began: make(chan struct{}), released: make(chan struct{})}
	o := options(t, t.TempDir())
	t.Setenv("DAEMON_TEST_KEEPER", "fake")
	c := &clock{t: now()}
	o.Clock, o.GPUs = c.now, g
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.Close() })
	return d, c, g
}

func withGPU(s *spec.Spec) *spec.Spec {
	s.GPUs = &spec.GPUs{Devices: []string{"0000:1b:00.0"}, Mode: spec.GPUModeOff}
	return s
}

// The owner stops a VM while the supervisor is restarting it.
func TestAVMThatIsStoppedDuringItsRestartStaysStopped(t *testing.T) {
	d, c, g := pausingHost(t)
	start(t, d, withGPU(behave(t, "serve", spec.RestartAlways)))
	kill(t, d, "a")
	d.sweep(t.Context()) // sets the time
	c.pass(time.Second)
	g.pause.Store(true)
	swept := make(chan struct{})
	go func() { defer close(swept); d.sweep(t.Context()) }()
	<-g.began
	if _, err := d.Stop(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	g.pause.Store(false)
	close(g.released)
	<-swept
	for range 3 {
		if st := get(t, d, "a"); !st.Over() {
			t.Fatalf("it was stopped, and is %s", st.Phase)
		}
		c.pass(time.Hour)
		d.sweep(t.Context())
	}
	// What its owner starts again runs.
	start(t, d, withGPU(behave(t, "serve", spec.RestartAlways)))
	if st := get(t, d, "a"); st.Phase != machine.Running {
		t.Errorf("started again it is %s", st.Phase)
	}
}

// The owner stops a VM while its keeper comes up.
func TestAVMThatIsStoppedBeforeItRunsEnds(t *testing.T) {
	d, _ := host(t, t.TempDir())
	defer d.Close()
	started := make(chan error)
	go func() { _, err := d.Start(t.Context(), behave(t, "silent", spec.RestartAlways)); started <- err }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(time.Millisecond) {
		if r, err := d.store.Get("a"); err == nil && r.Want == store.WantRunning {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("it does not start")
		}
	}
	if _, err := d.Stop(t.Context(), "a", false); err != nil && !fault.Has(err, "vm.unknown") {
		t.Errorf("Stop() = %v", err)
	}
	if err := <-started; !fault.Has(err, "vm.stopped") {
		t.Errorf("Start() = %v, want vm.stopped", err)
	}
	if _, err := d.Get("a"); !fault.Has(err, "vm.unknown") {
		t.Errorf("a first start that was taken back leaves the VM: %v", err)
	}
}

// The owner stops a VM while it is upgraded: neither version runs afterwards.
func TestAVMThatIsStoppedDuringItsUpgradeStaysStopped(t *testing.T) {
	d, c, g := pausingHost(t)
	start(t, d, withGPU(behave(t, "serve", spec.RestartAlways)))
	g.pause.Store(true)
	upgraded := make(chan error)
	go func() {
		_, err := d.Upgrade(t.Context(), withGPU(behave(t, "serve", spec.RestartAlways)), "", time.Minute)
		upgraded <- err
	}()
	<-g.began
	if _, err := d.Stop(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	g.pause.Store(false)
	close(g.released)
	if err := <-upgraded; !fault.Has(err, "vm.stopped") || !fault.Has(err, "vm.upgrade.rolled_back") {
		t.Errorf("Upgrade() = %v, want it stopped and taken back", err)
	}
	c.pass(time.Hour)
	d.sweep(t.Context())
	r, err := d.store.Get("a")
	if err != nil || r.Want != store.WantStopped || r.Upgrade != nil {
		t.Errorf("record %+v, %v", r, err)
	}
	if st := get(t, d, "a"); !st.Over() {
		t.Errorf("it was stopped, and is %s", st.Phase)
	}
}

// A device that one VM left and another has got is not reset under the latter.
func TestDevicesOfAnotherVMAreNotReleased(t *testing.T) {
	gpus := &fakeGPUs{}
	o := options(t, t.TempDir())
	c := &clock{t: now()}
	o.GPUs, o.Clock = gpus, c.now
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	put := func(name, phase string, used bool) {
		t.Helper()
		s := withGPU(image(t))
		s.Name = name
		if err := d.store.Put(store.Record{Spec: *s, Created: now(), Want: store.WantStopped, GPUsUsed: used}); err != nil {
			t.Fatal(err)
		}
		if err := os.MkdirAll(d.dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		ended := now()
		if err := machine.WriteState(d.dir(name), &machine.State{Name: name, Phase: phase, Keeper: self, Started: now(), Ended: &ended, Guest: machine.Guest{Stages: []machine.Stage{}}}); err != nil {
			t.Fatal(err)
		}
	}
	put("a", machine.Failed, true)
	put("b", machine.Running, false)
	d.sweep(t.Context())
	if gpus.released != 0 {
		t.Fatal("a device was reset under the VM that has it")
	}
	put("b", machine.Stopped, false)
	c.pass(releaseEvery + time.Second)
	d.sweep(t.Context())
	if gpus.released != 1 {
		t.Errorf("released %d times after the other VM's end", gpus.released)
	}
	// What is removed is released first.
	put("c", machine.Failed, true)
	if err := d.Remove("c"); err != nil || gpus.released != 2 {
		t.Errorf("Remove() = %v, released %d times", err, gpus.released)
	}
}

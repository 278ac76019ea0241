package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
	"cocoon/internal/toolstree"
)

// TestMain lets the test binary be a keeper, as cocoon-hostd is.
func TestMain(m *testing.M) {
	if os.Getenv("DAEMON_TEST_KEEPER") == "fake" {
		os.Exit(fakeKeeper(os.Args[len(os.Args)-1]))
	}
	if os.Getenv("DAEMON_TEST_KEEPER") == "real" {
		if err := realKeeper(os.Args[len(os.Args)-1]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	if os.Getenv("DAEMON_TEST_KEEPER") != "" {
		err := keeper.Run(context.Background(), keeper.Options{Dir: os.Args[len(os.Args)-1], Clock: time.Now, Signals: make(chan os.Signal)})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

func options(t *testing.T, dir string) Options {
	t.Setenv("DAEMON_TEST_KEEPER", "1")
	return Options{Dir: dir, Accel: "tcg", Tools: toolstree.Tree{Dir: filepath.Join(dir, "no-tools")},
		Keeper: []string{os.Args[0]}, Clock: now, Logger: slog.New(slog.DiscardHandler)}
}

// image makes files that look like an image to everything but QEMU.
func image(t *testing.T) *spec.Spec {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []string{spec.KernelFile, spec.InitrdFile, spec.RootFile, spec.CmdlineFile} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return &spec.Spec{Version: 1, Name: "a", TEE: spec.TEEVTPM, MemoryMiB: 256, CPUs: 1, Image: dir}
}

func TestASecondDaemonOnOneDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(options(t, dir)); !fault.Has(err, "hostd.running") {
		t.Errorf("second Open = %v, want hostd.running", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(options(t, dir)); err != nil {
		t.Fatalf("Open after Close = %v", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAFailedFirstStartLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	_, err = d.Start(t.Context(), image(t))
	if !fault.Has(err, "vm.keeper.start") || !strings.Contains(err.Error(), "no-tools") {
		t.Errorf("Start without a tools tree = %v, want vm.keeper.start with the keeper's reason", err)
	}
	vms, err := d.List()
	if err != nil || len(vms) != 0 {
		t.Errorf("List() = %v, %v, want none", vms, err)
	}
	if _, err := os.Stat(d.dir("a")); !os.IsNotExist(err) {
		t.Errorf("the VM's directory is still there: %v", err)
	}
	if _, err := d.Get("a"); !fault.Has(err, "vm.unknown") {
		t.Errorf("Get() = %v, want vm.unknown", err)
	}
}

func TestStartReportsEveryMissingFile(t *testing.T) {
	d, err := Open(options(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := image(t)
	s.Config, s.Packs.Model = "/nonexistent/config", "/nonexistent/model"
	if _, err := d.Start(t.Context(), s); len(fault.All(err)) != 2 || !fault.Has(err, "vm.file.missing") {
		t.Errorf("Start() = %v, want two missing files", err)
	}
	s.MemoryMiB = 0
	if _, err := d.Start(t.Context(), s); !fault.Has(err, "vm.spec.invalid") {
		t.Errorf("Start() = %v, want vm.spec.invalid", err)
	}
}

// A daemon that comes back finds the machine of a keeper that was killed:
// what the keeper left is ended and the state says so.
func TestAReopenedDaemonCleansUpBehindADeadKeeper(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	s := image(t)
	if err := d.store.Put(store.Record{Spec: *s, Created: now()}); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "600")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	id, err := proc.Of(left.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.dir("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	dead := proc.ID{PID: os.Getpid(), Start: 1} // this pid, another process
	if err := machine.WriteState(d.dir("a"), &machine.State{Name: "a", Phase: machine.Running, Keeper: dead, QEMU: id, Started: now(), Guest: machine.Guest{Stages: []machine.Stage{}}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if d, err = Open(options(t, dir)); err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := left.Wait(); err == nil {
		t.Error("what the dead keeper left was not killed")
	}
	st, err := d.Get("a")
	if err != nil || st.Phase != machine.Failed || len(st.Faults) != 1 || st.Faults[0].Code != "vm.keeper.died" {
		t.Errorf("state %+v, %v", st, err)
	}
	if err := d.Remove("a"); err != nil {
		t.Errorf("Remove() = %v", err)
	}
}

func TestALiveKeepersMachineIsAdoptedAndNotStartedTwice(t *testing.T) {
	dir := t.TempDir()
	d, err := Open(options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	s := image(t)
	if err := d.store.Put(store.Record{Spec: *s, Created: now()}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.dir("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	if err := machine.WriteState(d.dir("a"), &machine.State{Name: "a", Phase: machine.Running, Keeper: self, Started: now(), Guest: machine.Guest{Stages: []machine.Stage{}}}); err != nil {
		t.Fatal(err)
	}
	if st, err := d.Get("a"); err != nil || st.Phase != machine.Running {
		t.Errorf("Get() = %+v, %v, want it running", st, err)
	}
	if _, err := d.Start(t.Context(), s); !fault.Has(err, "vm.running") {
		t.Errorf("Start() = %v, want vm.running", err)
	}
	if err := d.Remove("a"); !fault.Has(err, "vm.running") {
		t.Errorf("Remove() = %v, want vm.running", err)
	}
}

// A device goes to one VM at a time: not to a second one while the first runs,
// nor while it is being started.
func TestAGPUIsNeverGivenToTwoVMs(t *testing.T) {
	gpus := &fakeGPUs{fail: errors.New("enough")}
	o := options(t, t.TempDir())
	o.GPUs = gpus
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	first, second := image(t), image(t)
	second.Name = "b"
	for _, s := range []*spec.Spec{first, second} {
		s.GPUs = &spec.GPUs{Devices: []string{"0000:1b:00.0"}, Mode: spec.GPUModeOff}
	}
	free, err := d.claimGPUs(first, true)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Start(t.Context(), second); !fault.Has(err, "gpu.allocated") {
		t.Errorf("while the first is being started: %v", err)
	}
	free()
	if err := d.store.Put(store.Record{Spec: *first, Created: now()}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.dir("a"), 0o700); err != nil {
		t.Fatal(err)
	}
	self, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	write := func(phase string) {
		if err := machine.WriteState(d.dir("a"), &machine.State{Name: "a", Phase: phase, Keeper: self, Started: now(), Guest: machine.Guest{Stages: []machine.Stage{}}}); err != nil {
			t.Fatal(err)
		}
	}
	write(machine.Running)
	if _, err := d.Start(t.Context(), second); !fault.Has(err, "gpu.allocated") || gpus.prepared != 0 {
		t.Errorf("while the first runs: %v, prepared %d times", err, gpus.prepared)
	}
	write(machine.Stopped)
	if _, err := d.Start(t.Context(), second); err == nil || fault.Has(err, "gpu.allocated") || gpus.prepared != 1 {
		t.Errorf("after the first: %v, prepared %d times", err, gpus.prepared)
	}
}

// fakeGPUs stands for a host's devices and counts what is done to them.
type fakeGPUs struct {
	mu                 sync.Mutex
	prepared, released int
	fail, failRelease  error
	last               []string      // devices of the last release that succeeded
	bound              []string      // prepared
	gate               chan struct{} // Prepare waits for it; nil: it does not
	listed             func()        // after Prepared, once; nil: nothing
}

func (f *fakeGPUs) Prepare(_ context.Context, g *spec.GPUs) error {
	if f.gate != nil {
		<-f.gate
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.prepared++
	if f.fail == nil {
		f.bound = append(f.bound, g.Devices...)
	}
	return f.fail
}

func (f *fakeGPUs) Prepared() ([]string, error) {
	f.mu.Lock()
	bound, then := slices.Clone(f.bound), f.listed
	f.listed = nil
	f.mu.Unlock()
	if then != nil {
		then()
	}
	return bound, nil
}

func (f *fakeGPUs) Release(_ context.Context, g *spec.GPUs) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.released++
	if f.failRelease == nil {
		f.last = g.Devices
		if g.GiveBack {
			f.bound = slices.DeleteFunc(f.bound, func(b string) bool { return slices.Contains(g.Devices, b) })
		}
	}
	return f.failRelease
}

func (f *fakeGPUs) Recover(context.Context) error { return nil }

// However a VM ends, its devices are released once; where that fails it is
// tried again later.
func TestDevicesAreReleasedBehindAVM(t *testing.T) {
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
	s := behave(t, "serve", spec.RestartNo)
	s.GPUs = &spec.GPUs{Devices: []string{"0000:1b:00.0"}, Mode: spec.GPUModeOff}
	start(t, d, s)
	d.sweep(t.Context())
	if gpus.released != 0 {
		t.Fatal("released under a VM that runs")
	}
	if _, err := d.Stop(t.Context(), "a", false); err != nil || gpus.released != 1 {
		t.Errorf("after Stop() = %v: released %d times", err, gpus.released)
	}
	d.sweep(t.Context())
	if gpus.released != 1 {
		t.Errorf("released %d times for one run", gpus.released)
	}
	c.pass(time.Hour)
	start(t, d, s)
	gpus.failRelease = errors.New("it hangs in reset")
	kill(t, d, "a")
	for range 3 {
		d.sweep(t.Context())
	}
	if gpus.released != 2 {
		t.Errorf("a release that failed was tried %d times at once", gpus.released-1)
	}
	gpus.failRelease = nil
	c.pass(2 * releaseEvery)
	d.sweep(t.Context())
	d.sweep(t.Context())
	if gpus.released != 3 || gpus.prepared != 2 {
		t.Errorf("released %d times, prepared %d times", gpus.released, gpus.prepared)
	}
	// A start that fails keeps nothing that is to be given back.
	s = behave(t, "refuse", spec.RestartNo)
	s.GPUs = &spec.GPUs{Devices: []string{"0000:1b:00.0"}, Mode: spec.GPUModeOff, GiveBack: true}
	if _, err := d.Start(t.Context(), s); err == nil || gpus.prepared != 3 || gpus.released != 4 {
		t.Errorf("Start() = %v: released %d times, prepared %d times", err, gpus.released, gpus.prepared)
	}
}

func TestNamesThatArePathsAreUnknown(t *testing.T) {
	d, err := Open(options(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	for _, name := range []string{"..", "../x", "a/b", ""} {
		if _, err := d.Get(name); !fault.Has(err, "vm.unknown") {
			t.Errorf("Get(%q) = %v", name, err)
		}
	}
	if _, err := d.CA("../x"); !fault.Has(err, "vm.tpm.ca_name") {
		t.Errorf("CA of a path = %v", err)
	}
}

func TestRequestsSurviveTheirFile(t *testing.T) {
	dir := t.TempDir()
	want := &keeper.Request{Spec: *image(t), Tools: "/t", CA: "default", Ephemeral: true}
	if err := keeper.WriteRequest(dir, want); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, keeper.RequestFile))
	if err != nil {
		t.Fatal(err)
	}
	var got keeper.Request
	if err := json.Unmarshal(b, &got); err != nil || got.Spec.Name != "a" || !got.Ephemeral {
		t.Errorf("request %+v, %v", got, err)
	}
}

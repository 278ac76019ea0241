package daemon

import (
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
	"cocoon/internal/fault"
	"cocoon/internal/imagetest"
	"cocoon/internal/jcs"
	"cocoon/verifier/evidence"
)

// realKeeper is a keeper as cocoon-hostd starts it.
func realKeeper(dir string) error {
	sig := make(chan os.Signal, 4)
	signal.Notify(sig, keeper.SignalStop, keeper.SignalPowerOff, keeper.SignalWrite)
	return keeper.Run(context.Background(), keeper.Options{Dir: dir, Clock: time.Now, Signals: sig})
}

// bootLimit is the time of a boot up to the measured config on a busy machine
// without acceleration.
const bootLimit = 3 * time.Minute

// measured is the stage by which a guest has measured its config.
const measured = "platform"

// worker is a VM of the built image, without forwards.
func worker(t *testing.T, b imagetest.Build, image string) *spec.Spec {
	t.Helper()
	var packs struct {
		Packs []struct {
			Name   string          `json:"name"`
			Verity evidence.Verity `json:"verity"`
		} `json:"packs"`
	}
	doc, err := os.ReadFile(filepath.Join(b.Packs, "packs.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(doc, &packs); err != nil {
		t.Fatal(err)
	}
	verity := map[string]evidence.Verity{}
	for _, p := range packs.Packs {
		verity[p.Name] = p.Verity
	}
	cfg := evidence.Config{Version: 1, Role: evidence.RoleWorker, Model: evidence.ConfigModel{Name: "chat", Verity: verity["model"]},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: verity["engine"], Args: []string{}}, GPUs: evidence.ConfigGPUs{Mode: evidence.GPUModeNone}}
	dir := t.TempDir()
	s := &spec.Spec{Version: 1, Name: "vm", TEE: spec.TEEVTPM, MemoryMiB: 1024, CPUs: 2, Image: image, Restart: spec.RestartOnFailure, StopGrace: 1,
		Packs:  spec.Packs{Engine: filepath.Join(b.Packs, "engine.img"), Model: filepath.Join(b.Packs, "model.img")},
		Config: filepath.Join(dir, "config.json"), Operator: filepath.Join(dir, "operator.json")}
	for path, v := range map[string]any{s.Config: cfg, s.Operator: evidence.Operator{Version: 1, Verifier: "http://10.0.2.100:80", Gateways: []string{}}} {
		doc, err := jcs.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, doc, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// copyImage returns another directory with the image, its root file changed
// where change is not nil.
func copyImage(t *testing.T, image string, change func([]byte)) string {
	t.Helper()
	dir := t.TempDir()
	for _, f := range []string{spec.KernelFile, spec.InitrdFile, spec.RootFile, spec.CmdlineFile} {
		if f != spec.RootFile || change == nil {
			if err := os.Symlink(filepath.Join(image, f), filepath.Join(dir, f)); err != nil {
				t.Fatal(err)
			}
			continue
		}
		b, err := os.ReadFile(filepath.Join(image, f))
		if err != nil {
			t.Fatal(err)
		}
		change(b)
		if err := os.WriteFile(filepath.Join(dir, f), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// TestVMIsAdoptedRestartedUpgradedAndRolledBack boots real VMs, six in all, so
// that it runs only where COCOON_VM_TESTS=1 asks for it.
func TestVMIsAdoptedRestartedUpgradedAndRolledBack(t *testing.T) {
	if os.Getenv("COCOON_VM_TESTS") != "1" {
		t.Skip("boots six VMs: set COCOON_VM_TESTS=1")
	}
	b := imagetest.Find(t)
	t.Setenv("DAEMON_TEST_KEEPER", "real")
	dir := t.TempDir()
	o := Options{Dir: dir, Tools: imagetest.Tools(t), Accel: "auto", Transport: vsock.Serial, Keeper: []string{os.Args[0]}, Clock: time.Now, Logger: slog.New(slog.NewTextHandler(t.Output(), nil))}
	open := func() *Daemon {
		t.Helper()
		d, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	d := open()
	defer func() { d.Close() }()
	await := func(what string) *machine.State {
		t.Helper()
		began := time.Now()
		st, err := d.await(t.Context(), "vm", measured, bootLimit)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		t.Logf("%s: measured after %s", what, time.Since(began).Round(100*time.Millisecond))
		return st
	}
	s := worker(t, b, b.Image)
	began := time.Now()
	start(t, d, s)
	t.Logf("from the call to QEMU: %s", time.Since(began).Round(time.Millisecond))
	first := await("the first boot")

	// Another daemon finds it.
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d = open()
	if st := get(t, d, "vm"); st.Phase != machine.Running || st.QEMU != first.QEMU || !st.QEMU.Alive() {
		t.Fatalf("after a restart of the daemon: %+v", st)
	}
	// QEMU is killed: it is restarted, with a crash report.
	if err := first.QEMU.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Supervise(ctx) }()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		if st := get(t, d, "vm"); st.QEMU != first.QEMU && st.Phase == machine.Running {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("it was not restarted: %+v", get(t, d, "vm"))
		}
	}
	if st := await("the restart"); st.Restarts != 1 {
		t.Errorf("%d restarts", st.Restarts)
	}
	if cs, err := d.Crashes("vm"); err != nil || len(cs) != 1 || cs[0].Faults[0].Code != "vm.qemu.died" || cs[0].Console == "" {
		t.Errorf("crash reports: %v", err)
	}
	// A version whose disk is not the measured one does not come up.
	bad := *s
	bad.Image = copyImage(t, b.Image, func(root []byte) {
		for i := range root[:1<<20] {
			root[i] ^= 1
		}
	})
	_, err := d.Upgrade(t.Context(), &bad, measured, bootLimit)
	if !fault.Has(err, "vm.upgrade.rolled_back") {
		t.Errorf("an upgrade to a changed disk: %v", err)
	}
	t.Logf("rolled back: %v", err)
	await("the old version after it")
	// A good one stays.
	good := *s
	good.Image = copyImage(t, b.Image, nil)
	if _, err := d.Upgrade(t.Context(), &good, measured, bootLimit); err != nil {
		t.Fatalf("an upgrade to a good image: %v", err)
	}
	r, err := d.store.Get("vm")
	if err != nil || r.Spec.Image != good.Image || r.Upgrade != nil {
		t.Errorf("record %+v, %v", r, err)
	}
	st, err := d.Stop(t.Context(), "vm", true)
	if err != nil || st.QEMU.Alive() || st.SWTPM.Alive() {
		t.Errorf("after the end: %+v, %v", st, err)
	}
	cancel()
	<-done
}

// BenchmarkCreate is the time from a spec to a QEMU that runs, with a TPM that
// is made for it. The accelerator was probed before, as once each boot of the
// host.
func BenchmarkCreate(b *testing.B) {
	build := imagetest.Find(b)
	b.Setenv("DAEMON_TEST_KEEPER", "real")
	d, err := Open(Options{Dir: b.TempDir(), Tools: build.Tools, Accel: "auto", Transport: vsock.Serial, Keeper: []string{os.Args[0]}, Clock: time.Now, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			b.Error(err)
		}
	}()
	if _, err := d.Accel(b.Context(), filepath.Join(build.Image, spec.KernelFile)); err != nil {
		b.Fatal(err)
	}
	s := &spec.Spec{Version: 1, Name: "vm", TEE: spec.TEEVTPM, MemoryMiB: 512, CPUs: 1, Image: build.Image}
	for b.Loop() {
		if _, err := d.Start(b.Context(), s); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if _, err := d.Stop(b.Context(), s.Name, true); err != nil {
			b.Fatal(err)
		}
		if err := d.Remove(s.Name); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

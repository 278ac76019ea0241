// Package e2e boots the built image with the real programs. Its tests are
// skipped where the image is absent, and fail there with
// COCOON_IMAGE_REQUIRED=1.
package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/hostd/client"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/spec"
	"cocoon/internal/imagetest"
	"cocoon/internal/jcs"
	"cocoon/verifier/evidence"
)

// programs are the project's, each built once.
var programs struct {
	mu    sync.Mutex
	dir   string
	built map[string]bool
}

func TestMain(m *testing.M) {
	code := m.Run()
	if programs.dir != "" {
		os.RemoveAll(programs.dir)
	}
	os.Exit(code)
}

// hostd returns the daemon's program.
func hostd(t *testing.T) string { return program(t, "cocoon-hostd") }

// program returns one of the project's programs.
func program(t *testing.T, name string) string {
	t.Helper()
	programs.mu.Lock()
	defer programs.mu.Unlock()
	if programs.dir == "" {
		dir, err := os.MkdirTemp("", "e2e")
		if err != nil {
			t.Fatal(err)
		}
		programs.dir, programs.built = dir, map[string]bool{}
	}
	path := filepath.Join(programs.dir, name)
	if !programs.built[name] {
		if b, err := exec.Command("go", "build", "-o", path, "cocoon/cmd/"+name).CombinedOutput(); err != nil {
			t.Fatalf("building %s: %v\n%s", name, err, b)
		}
		programs.built[name] = true
	}
	return path
}

// worker writes the documents of a VM of the built image.
func worker(t *testing.T, b imagetest.Build) *spec.Spec {
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
	cfg := evidence.Config{Version: 1, Role: evidence.RoleWorker, Model: evidence.ConfigModel{Name: "chat"},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Args: []string{}}, GPUs: evidence.ConfigGPUs{Mode: evidence.GPUModeNone}}
	for _, p := range packs.Packs {
		switch p.Name {
		case "engine":
			cfg.Engine.Verity = p.Verity
		case "model":
			cfg.Model.Verity = p.Verity
		}
	}
	if err := cfg.Validate(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &spec.Spec{Version: 1, Name: "e2e", TEE: spec.TEEVTPM, MemoryMiB: 1024, CPUs: 2, Image: b.Image,
		Packs:  spec.Packs{Engine: filepath.Join(b.Packs, "engine.img"), Model: filepath.Join(b.Packs, "model.img")},
		Config: filepath.Join(dir, "config.json"), Operator: filepath.Join(dir, "operator.json"), StopGrace: 240}
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

// daemon starts a daemon whose VMs outlive it.
func daemon(t *testing.T, program, state string, b imagetest.Build) (*exec.Cmd, *client.Client) {
	t.Helper()
	cmd := exec.Command(program, "serve", "--state", state, "--tools", b.Tools.Dir)
	var log bytes.Buffer
	cmd.Stderr = &log
	// Its VMs must not hold the log's pipe after it.
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Also after the test killed it: then both do nothing.
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("daemon:\n%s", log.String())
		}
	})
	c := client.New(filepath.Join(state, client.SocketFile))
	t.Cleanup(c.Close)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	for {
		_, err := c.Status(ctx)
		if err == nil {
			return cmd, c
		}
		if ctx.Err() != nil {
			t.Fatalf("the daemon does not answer: %v", err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// killAll ends a machine's processes whatever happened in the test.
func killAll(t *testing.T, st *machine.State) {
	t.Cleanup(func() {
		if err := errors.Join(st.Keeper.Signal(syscall.SIGKILL), st.QEMU.Signal(syscall.SIGKILL), st.SWTPM.Signal(syscall.SIGKILL)); err != nil {
			t.Error(err)
		}
	})
}

func gone(t *testing.T, st *machine.State) {
	t.Helper()
	for name, id := range map[string]proc.ID{"keeper": st.Keeper, "qemu": st.QEMU, "swtpm": st.SWTPM} {
		if !id.WaitGone(30 * time.Second) {
			t.Errorf("%s (%d) is still there", name, id.PID)
		}
	}
}

// TestMeasuredBoot boots the image under the daemon up to the running engine.
// On the way the supervisor reads back lockdown, module signatures, the latch,
// every switch and every mount, and its own and containerd's rows of the table,
// and halts if one differs; packs, TPM, containerd and engine must work under
// all of them. The daemon is killed meanwhile, and the next one finds the
// machine.
func TestMeasuredBoot(t *testing.T) {
	b := imagetest.Find(t)
	state := t.TempDir()
	first, c := daemon(t, hostd(t), state, b)
	s := worker(t, b)
	st, err := c.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	killAll(t, st)
	if st.EKSHA256 == "" || st.Accel == "" || st.AccelWhy == "" {
		t.Errorf("state lacks the EK or the accelerator: %+v", st)
	}
	// Killed in the middle of the boot, the daemon takes nothing along …
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Error("a killed daemon ended well")
	}
	// … and the next one finds the machine.
	_, c = daemon(t, hostd(t), state, b)
	st, con, err := await(t, c, s, "engine")
	if err != nil {
		t.Fatalf("%v\n%s", err, con)
	}
	if st.Phase != machine.Running || st.BadLines != 0 {
		t.Errorf("phase %s, %d bad status lines", st.Phase, st.BadLines)
	}
	order := []string{"network", "config", "firewall", "platform", "latch", "keys", "model", "containerd", "engine"}
	for _, g := range st.Guest.Stages {
		if len(order) > 0 && g.Name == order[0] {
			order = order[1:]
		}
	}
	if len(order) > 0 {
		t.Errorf("stages are missing or out of order from %s on: %+v", order[0], st.Guest.Stages)
	}
	if !strings.Contains(con, "stage=engine") || !strings.Contains(con, "latch measured") || strings.Contains(con, "no watchdog") {
		t.Errorf("the console lacks a stage, the latch or the watchdog:\n%s", con)
	}
	st, err = c.Stop(t.Context(), s.Name, false)
	if err != nil || st.Phase != machine.Stopped {
		t.Fatalf("Stop() = %+v, %v", st, err)
	}
	if st.Reason != "stopped" {
		t.Errorf("the guest did not shut down by itself: %s", st.Reason)
	}
	gone(t, st)
	if err := c.Remove(t.Context(), s.Name); err != nil {
		t.Error(err)
	}
}

func TestAKilledEphemeralDaemonTakesItsMachinesAlong(t *testing.T) {
	b := imagetest.Find(t)
	l, err := client.Launch(t.Context(), client.LaunchOptions{Program: hostd(t), State: t.TempDir(), Tools: b.Tools.Dir, Accel: "tcg"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	st, err := l.Start(t.Context(), worker(t, b))
	if err != nil {
		t.Fatal(err)
	}
	killAll(t, st)
	if !st.Keeper.Alive() || !st.QEMU.Alive() || !st.SWTPM.Alive() {
		t.Fatalf("not running: %+v", st)
	}
	if err := syscall.Kill(l.PID(), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, st)
}

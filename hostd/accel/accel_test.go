package accel

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/hostd/qemu"
	"cocoon/internal/imagetest"
)

func now() time.Time { return time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC) }

type files string

func (f files) Path(string) (string, error) { return filepath.Join(string(f), "qemu"), nil }
func (f files) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, name, args...)
}

// setup returns options on a host with /dev/kvm, and a counter of probes.
func setup(t *testing.T, outcome error) (Options, *int) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"kvm", "boot_id", "qemu", "OVMF.fd"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	n := 0
	return Options{Tools: files(dir), Firmware: filepath.Join(dir, "OVMF.fd"), Dir: dir, Clock: now,
		KVM: filepath.Join(dir, "kvm"), BootID: filepath.Join(dir, "boot_id"),
		Boot: func(context.Context, Options) error { n++; return outcome }}, &n
}

func TestDecide(t *testing.T) {
	for _, tc := range []struct {
		name    string
		outcome error
		change  func(*Options)
		accel   string
		reason  string
		probes  int
	}{
		{"a probe that boots gives kvm", nil, func(*Options) {}, qemu.AccelKVM, "booted firmware", 1},
		{"a probe that fails gives tcg and the reason", errors.New("emulation failure"), func(*Options) {}, qemu.AccelTCG, "emulation failure", 1},
		{"without the device there is no probe", nil, func(o *Options) { o.KVM += "x" }, qemu.AccelTCG, "not usable", 0},
		{"an operator's choice needs no probe", nil, func(o *Options) { o.Force = "tcg" }, qemu.AccelTCG, "operator", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			o, n := setup(t, tc.outcome)
			tc.change(&o)
			for range 2 { // the second answer comes from memory
				d, err := Decide(t.Context(), o)
				if err != nil || d.Accel != tc.accel || !strings.Contains(d.Reason, tc.reason) {
					t.Errorf("Decide() = %+v, %v", d, err)
				}
			}
			if *n != tc.probes {
				t.Errorf("%d probes, want %d", *n, tc.probes)
			}
		})
	}
	o, _ := setup(t, nil)
	o.Force = "hvf"
	if _, err := Decide(t.Context(), o); err == nil {
		t.Error("an unknown accelerator was accepted")
	}
}

func TestARememberedDecisionHoldsOnlyForWhatWasProbed(t *testing.T) {
	rewrite := func(o Options, name string) {
		if err := os.WriteFile(filepath.Join(o.Dir, name), []byte("other"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, change := range map[string]func(*Options){
		"the host booted again":               func(o *Options) { rewrite(*o, "boot_id") },
		"qemu is another":                     func(o *Options) { rewrite(*o, "qemu") },
		"the firmware is another":             func(o *Options) { rewrite(*o, "OVMF.fd") },
		"a kernel is to be booted now":        func(o *Options) { o.Kernel = "vmlinuz" },
		"the remembered file is not readable": func(o *Options) { rewrite(*o, CacheFile) },
	} {
		t.Run(name, func(t *testing.T) {
			o, n := setup(t, nil)
			for range 2 {
				if _, err := Decide(t.Context(), o); err != nil {
					t.Fatal(err)
				}
				change(&o)
			}
			if *n != 2 {
				t.Errorf("%d probes, want 2", *n)
			}
		})
	}
}

// On any host: the decision comes in bounded time and says why.
func TestDecideOnThisHost(t *testing.T) {
	tools := imagetest.Tools(t)
	if testing.Short() {
		t.Skip("may boot a machine: not with -short")
	}
	d, err := Decide(t.Context(), Options{Tools: tools, Firmware: tools.OVMF(), Dir: t.TempDir(), Clock: now})
	if err != nil || d.Reason == "" || (d.Accel != qemu.AccelKVM && d.Accel != qemu.AccelTCG) {
		t.Errorf("Decide() = %+v, %v", d, err)
	}
	t.Logf("%s: %s", d.Accel, d.Reason)
}

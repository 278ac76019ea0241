package main

import (
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"cocoon/enclave/platform"
	"cocoon/internal/needtool"
)

// TestTheUnitIsOneThatSystemdTakes has systemd read the unit, with the program
// where it was built, alone and with each of its drop-ins.
func TestTheUnitIsOneThatSystemdTakes(t *testing.T) {
	analyze := needtool.Find(t, "systemd-analyze")
	b, err := os.ReadFile(filepath.Join(exampleDir(t), "..", "docs", "systemd", "cocoon-verifier.service"))
	if err != nil {
		t.Fatal(err)
	}
	unit := filepath.Join(t.TempDir(), "cocoon-verifier.service")
	text := strings.ReplaceAll(string(b), "/usr/bin/cocoon-verifier", program(t))
	for _, want := range []string{"Type=notify\n", "ExecReload=/bin/sh -c 'kill -HUP $$MAINPID'\n", "AF_UNIX"} {
		if !strings.Contains(text, want) {
			t.Errorf("the unit has no %q", want)
		}
	}
	if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	verify := func(what string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput(); err != nil || strings.Contains(string(out), "cocoon-verifier.service:") || strings.Contains(string(out), "cocoon-verifier.service.d/") {
			t.Errorf("systemd-analyze verify, %s: %v\n%s", what, err, out)
		}
	}
	verify("alone")
	dropin := filepath.Join(unit+".d", "x.conf")
	if err := os.Mkdir(filepath.Dir(dropin), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, device := range map[string]string{"tee": platform.DeviceSNP, "tpm": DefaultTPM} {
		b, err := os.ReadFile(filepath.Join(exampleDir(t), "..", "docs", "systemd", "cocoon-verifier-"+name+".conf"))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(b), "PrivateDevices=no\nDeviceAllow="+device+" rw\n") {
			t.Errorf("the drop-in %s does not allow %s", name, device)
		}
		if err := os.WriteFile(dropin, b, 0o600); err != nil {
			t.Fatal(err)
		}
		verify("with " + name)
	}
	// That they are read at all.
	if err := os.WriteFile(dropin, []byte("[Service]\nNonsense=1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), analyze, "verify", "--man=no", unit).CombinedOutput(); err == nil && !strings.Contains(string(out), "Nonsense") {
		t.Errorf("a drop-in that is none was not seen:\n%s", out)
	}
}

// TestSystemdIsTold listens in systemd's place.
func TestSystemdIsTold(t *testing.T) {
	dir := installFleet(t, newFleet(t), nil)
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	told := func(want string) {
		t.Helper()
		if err := conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 4096)
		n, err := conn.Read(b)
		if err != nil || !strings.HasPrefix(string(b[:n]), want) {
			t.Fatalf("systemd was told %q, %v, want %q", b[:n], err, want)
		}
	}
	t.Setenv("NOTIFY_SOCKET", path)
	p := startProcess(t, dir, "--config", "config.yaml")
	told("READY=1")
	if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	told("RELOADING=1\nMONOTONIC_USEC=")
	told("READY=1\nSTATUS=reloaded")
	if err := errors.Join(os.Rename(filepath.Join(dir, "policy.json"), filepath.Join(dir, "gone.json")), p.cmd.Process.Signal(syscall.SIGHUP)); err != nil {
		t.Fatal(err)
	}
	told("RELOADING=1\n")
	told("READY=1\nSTATUS=reload failed")
	p.stop(t, syscall.SIGTERM)
	told("STOPPING=1")
}

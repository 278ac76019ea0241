package tpmdev

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// TestSignalsDoNotInterruptACommand sends what Go's scheduler sends while an
// answer is awaited. The device is a socket, which waits like one.
func TestSignalsDoNotInterruptACommand(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	d := device{os.NewFile(uintptr(fds[0]), "device")}
	tpm := os.NewFile(uintptr(fds[1]), "tpm")
	defer d.Close()
	defer tpm.Close()
	go func() {
		b := make([]byte, maxResponse)
		for {
			n, err := tpm.Read(b)
			if err != nil || n == 0 {
				return
			}
			for range 20 {
				if unix.Kill(unix.Getpid(), unix.SIGURG) != nil {
					return
				}
				time.Sleep(100 * time.Microsecond)
			}
			if _, err := tpm.Write(append([]byte("to "), b[:n]...)); err != nil {
				return
			}
		}
	}()
	for range 50 {
		got, err := d.Send([]byte("command"))
		if err != nil || string(got) != "to command" {
			t.Fatalf("%q, %v", got, err)
		}
	}
}

func TestWhatIsNoDeviceIsNoTPM(t *testing.T) {
	file := filepath.Join(t.TempDir(), "tpm")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, file + ".absent"} {
		if _, err := Open(path); !fault.Has(err, CodeAbsent) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

package pid1

import (
	"context"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// Power ends the machine.
type Power interface {
	Sync()
	Off() error
}

// Machine is the machine this process runs on.
type Machine struct{}

// Sync writes what file systems hold back.
func (Machine) Sync() { unix.Sync() }

// Off powers the machine off.
func (Machine) Off() error { return unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF) }

// Off syncs and powers off. It returns only when the kernel refuses; PID 1
// must then end, which makes the kernel panic and, with panic=-1 on the
// measured command line, reset at once.
func Off(p Power) error {
	p.Sync()
	return p.Off()
}

// NotifyShutdown returns a context that ends when the machine is asked to
// stop: by a signal (Ctrl-Alt-Del is turned into SIGINT), or by the ACPI power
// button.
func NotifyShutdown(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, unix.SIGINT, unix.SIGTERM, unix.SIGPWR)
	go func() {
		defer signal.Stop(sig)
		select {
		case <-ctx.Done():
		case <-sig:
			cancel()
		}
	}()
	return ctx, cancel
}

// Clock checks.
//
// The guest has no clock of its own: the host sets the one it reads. A clock
// that lies cannot forge evidence, since the verifier and the client judge
// freshness by their own; it is checked so that a dead battery gives a clear
// fault instead of certificates that nobody accepts.
var (
	clockFloor   = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	clockCeiling = time.Date(2056, 1, 1, 0, 0, 0, 0, time.UTC)
)

// ClockSane reports whether the time is one at which this program can run.
func ClockSane(now time.Time) bool { return now.After(clockFloor) && now.Before(clockCeiling) }

// Uptime returns the time since the kernel started.
func Uptime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

package pid1

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// WatchdogPath is the kernel's watchdog (watchdog/watchdog-api), which the
// initrd loads as softdog: a timer of the guest's kernel that panics when
// nobody writes to the device for its timeout.
const WatchdogPath = "/dev/watchdog"

// Times of the watchdog. A busy machine under software emulation can keep a
// process from running for seconds, not for minutes.
const (
	WatchdogTimeout = 2 * time.Minute
	watchdogEvery   = 10 * time.Second
)

// Watchdog resets the machine when its supervisor stalls. The kernel's timer
// catches a process that does not run at all; Well catches one that runs but
// gets nowhere. It is about availability: a worker that answers nothing and
// looks alive earns nothing.
type Watchdog struct {
	dev io.Writer

	mu    sync.Mutex
	until time.Time
}

// OpenWatchdog starts the kernel's watchdog. It is not closed: its timer goes
// on through the machine's end, so that a power-off that hangs ends, too.
func OpenWatchdog(path string, timeout time.Duration) (*Watchdog, error) {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening watchdog: %w", err)
	}
	// WDIOC_SETTIMEOUT is _IOWR('W', 6, int) of linux/watchdog.h, in seconds.
	if err := unix.IoctlSetPointerInt(int(f.Fd()), unix.WDIOC_SETTIMEOUT, int(timeout/time.Second)); err != nil {
		return nil, fmt.Errorf("setting watchdog timeout: %w", err)
	}
	return &Watchdog{dev: f}, nil
}

// Well says that the supervisor is well, and will say so again within d. A nil
// Watchdog takes it, too.
func (w *Watchdog) Well(d time.Duration) {
	if w == nil {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.until = time.Now().Add(d)
}

// Run keeps the kernel's timer from running out while the supervisor is well,
// until ctx ends. The machine is reset at most WatchdogTimeout later.
func (w *Watchdog) Run(ctx context.Context) {
	tick := time.NewTicker(watchdogEvery)
	defer tick.Stop()
	for {
		w.mu.Lock()
		well := time.Now().Before(w.until)
		w.mu.Unlock()
		if well {
			// A device that takes nothing resets the machine: that is its end
			// either way.
			_, _ = w.dev.Write([]byte{0})
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

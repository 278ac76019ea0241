package pid1

import (
	"context"
	"path/filepath"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// timer is a kernel's watchdog: it tells how long ago it was written to.
type timer struct{ last atomic.Int64 }

func (w *timer) Write(b []byte) (int, error) {
	w.last.Store(time.Now().UnixNano())
	return len(b), nil
}

func (w *timer) age() time.Duration { return time.Duration(time.Now().UnixNano() - w.last.Load()) }

func TestTheWatchdogIsKeptQuietWhileTheSupervisorIsWell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		dev := &timer{}
		w := &Watchdog{dev: dev}
		w.Well(time.Minute)
		go w.Run(ctx)
		synctest.Wait()
		for range 20 { // a supervisor that gets on
			time.Sleep(45 * time.Second)
			w.Well(time.Minute)
			if dev.age() >= WatchdogTimeout {
				t.Fatalf("the kernel would have reset: %s", dev.age())
			}
		}
		time.Sleep(time.Minute + WatchdogTimeout) // one that stalls
		if dev.age() < WatchdogTimeout {
			t.Errorf("the kernel is told that all is well, %s ago", dev.age())
		}
	})
}

func TestAMachineWithoutAWatchdogRuns(t *testing.T) {
	if w, err := OpenWatchdog(filepath.Join(t.TempDir(), "watchdog"), WatchdogTimeout); err == nil || w != nil {
		t.Errorf("got %v, %v", w, err)
	}
	var none *Watchdog
	none.Well(time.Second)
}

package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cocoon/hostd/console"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
	"cocoon/internal/hostorder"
)

// stepClock is a clock that goes on by itself, so that a test waits for no
// time: each look at it is a step later.
func stepClock(step time.Duration) func() time.Time {
	var mu sync.Mutex
	t := time.Unix(1764000000, 0)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		t = t.Add(step)
		return t
	}
}

// guest is the other end of a machine's status channel.
type guest struct {
	t      *testing.T
	c      net.Conn
	orders chan *hostorder.Order
}

func (g *guest) say(line any) {
	b, err := json.Marshal(line)
	if err == nil {
		_, err = g.c.Write(append(b, '\n'))
	}
	if err != nil && !errors.Is(err, io.ErrClosedPipe) {
		g.t.Error(err)
	}
}

func (g *guest) drain(order, phase string, running int) {
	g.say(map[string]any{"type": "drain", "drain": console.Drain{Order: order, Phase: phase, Running: running}})
}

// talking returns a machine without QEMU whose guest serves, and that guest.
func talking(t *testing.T, step time.Duration) (*Machine, *guest) {
	t.Helper()
	host, theirs := net.Pipe()
	m := &Machine{o: Options{Spec: &spec.Spec{Name: "a"}, Dir: t.TempDir(), Clock: stepClock(step), Logger: slog.New(slog.DiscardHandler)}, look: time.Millisecond, done: make(chan struct{})}
	log, err := console.Open(filepath.Join(m.o.Dir, StatusFile), StatusLimit)
	if err != nil {
		t.Fatal(err)
	}
	m.statusLog = log
	m.pumps.Go(func() { m.pumpStatus(host) })
	g := &guest{t: t, c: theirs, orders: make(chan *hostorder.Order, 64)}
	m.pumps.Go(func() {
		_ = hostorder.Read(theirs, func(o *hostorder.Order) {
			select {
			case g.orders <- o:
			default: // the same order again, and the test is slow to read it
			}
		}, func(err error) { t.Error(err) })
		close(g.orders)
	})
	t.Cleanup(func() {
		theirs.Close()
		m.pumps.Wait()
		m.mu.Lock()
		m.state.Phase = Stopped // no write is left behind
		m.mu.Unlock()
		if err := log.Close(); err != nil {
			t.Error(err)
		}
	})
	g.say(map[string]any{"type": "state", "state": Serving})
	for m.State().Guest.State != Serving {
		time.Sleep(time.Millisecond)
	}
	return m, g
}

func TestAGuestIsDrainedByOrder(t *testing.T) {
	m, g := talking(t, time.Millisecond)
	done := make(chan error, 1)
	go func() { done <- m.drain(t.Context(), time.Minute) }()
	o := <-g.orders
	if o.Type != hostorder.Drain || o.Deadline() != time.Minute {
		t.Errorf("order %+v", o)
	}
	g.drain("another order", drained, 0) // is no answer to this one
	g.drain(o.ID, Draining, 2)
	for d := m.State().Guest.Drain; d == nil || d.Running != 2; d = m.State().Guest.Drain {
		time.Sleep(time.Millisecond)
	}
	select {
	case err := <-done:
		t.Fatalf("it did not wait for the requests that run: %v", err)
	default:
	}
	g.drain(o.ID, drained, 0)
	if err := <-done; err != nil {
		t.Errorf("drain() = %v", err)
	}
	for o2 := range drainOrders(g) {
		if o2.ID != o.ID {
			t.Errorf("another order %+v", o2)
		}
	}
}

// drainOrders returns what has arrived.
func drainOrders(g *guest) func(func(*hostorder.Order) bool) {
	return func(yield func(*hostorder.Order) bool) {
		for len(g.orders) > 0 && yield(<-g.orders) {
		}
	}
}

func TestAGuestThatDoesNotDrainIsNotWaitedForTooLong(t *testing.T) {
	t.Run("one that does not answer", func(t *testing.T) {
		m, _ := talking(t, time.Second)
		if err := m.drain(t.Context(), time.Hour); !fault.Has(err, "vm.drain.unanswered") {
			t.Errorf("drain() = %v", err)
		}
	})
	t.Run("one that goes on after its deadline", func(t *testing.T) {
		m, g := talking(t, 20*time.Millisecond)
		go func() { g.drain((<-g.orders).ID, Draining, 3) }()
		if err := m.drain(t.Context(), time.Second); !fault.Has(err, "vm.drain.late") {
			t.Errorf("drain() = %v", err)
		}
	})
	t.Run("one that serves nothing yet", func(t *testing.T) {
		m, g := talking(t, time.Second)
		m.note(func(s *State) { s.Guest.State = "booting" })
		if err := m.drain(t.Context(), time.Hour); err != nil || len(g.orders) != 0 {
			t.Errorf("drain() = %v, %d orders", err, len(g.orders))
		}
	})
	t.Run("one whose power is being taken", func(t *testing.T) {
		m, g := talking(t, 0)
		done := make(chan error, 1)
		go func() { done <- m.drain(t.Context(), time.Hour) }()
		g.drain((<-g.orders).ID, Draining, 1)
		m.mu.Lock()
		m.asked = powerTaken
		m.mu.Unlock()
		if err := <-done; err != nil {
			t.Errorf("drain() = %v", err)
		}
	})
	t.Run("one whose machine ends", func(t *testing.T) {
		m, g := talking(t, 0)
		done := make(chan error, 1)
		go func() { done <- m.drain(t.Context(), time.Hour) }()
		g.drain((<-g.orders).ID, Draining, 1)
		close(m.done)
		if err := <-done; err != nil {
			t.Errorf("drain() = %v", err)
		}
	})
	t.Run("nobody waits any more", func(t *testing.T) {
		m, _ := talking(t, 0)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := m.drain(ctx, time.Hour); err != nil {
			t.Errorf("drain() = %v", err)
		}
	})
}

func TestHowAMachineEnded(t *testing.T) {
	for _, tc := range []struct {
		asked, shutdown string
		exit            error
		phase, code     string
	}{
		{"stopped", "guest-shutdown", nil, Stopped, ""},
		{powerTaken, "host-qmp-quit", errors.New("exit status 1"), Stopped, ""},
		{"", "guest-shutdown", nil, Stopped, ""},
		{"", "guest-reset", nil, Failed, "vm.guest.reset"},
		{"", "host-signal", nil, Stopped, ""},
		{"", "", nil, Failed, "vm.qemu.died"},
		{"", "guest-shutdown", errors.New("signal: killed"), Failed, "vm.qemu.died"},
	} {
		phase, reason, cause := outcome(tc.asked, tc.shutdown, tc.exit, "no space left")
		if phase != tc.phase || reason == "" || (cause != nil) != (tc.code != "") || cause != nil && !fault.Has(cause, tc.code) {
			t.Errorf("%s: %s, %s, %v", fmt.Sprint(tc), phase, reason, cause)
		}
	}
}

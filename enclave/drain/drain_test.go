package drain

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/enclave/queue"
	"cocoon/enclave/status"
	"cocoon/internal/hostorder"
)

// server is a queue whose requests take what they take, or end when they are
// cut off.
type server struct {
	*queue.Queue
	cut chan struct{}
}

func newServer() *server {
	return &server{Queue: queue.New(queue.Options{Slots: 4, Waiting: 4, PerKey: 4}), cut: make(chan struct{})}
}

func (s *server) Drain()  { s.Close() }
func (s *server) Resume() { s.Open() }
func (s *server) CutOff() { close(s.cut) }

func (s *server) request(t *testing.T, takes time.Duration) {
	t.Helper()
	release, err := s.Acquire(t.Context(), "a")
	if err != nil {
		t.Error(err)
		return
	}
	go func() {
		select {
		case <-time.After(takes):
		case <-s.cut:
		}
		release()
	}()
}

// host keeps what it is told.
type host struct {
	mu   sync.Mutex
	told []status.Drain
}

func (h *host) report(d status.Drain) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.told = append(h.told, d)
}

func (h *host) last() status.Drain {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.told) == 0 {
		return status.Drain{}
	}
	return h.told[len(h.told)-1]
}

func drainOrder(id string, deadline time.Duration) *hostorder.Order {
	return &hostorder.Order{Type: hostorder.Drain, ID: id, DeadlineMS: deadline.Milliseconds()}
}

func TestADrainTellsHowItGoesAndEndsWithTheLastRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := &host{}, newServer()
		d := New(h.report)
		d.Attach(s)
		s.request(t, 2500*time.Millisecond)
		d.Order(drainOrder("1", time.Minute))
		if want := (status.Drain{Order: "1", Phase: status.Draining, Running: 1, LeftMS: 60000}); h.last() != want {
			t.Errorf("told %+v, want %+v", h.last(), want)
		}
		if _, err := s.Acquire(t.Context(), "a"); err == nil {
			t.Error("a request was taken")
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if got := h.last(); got.LeftMS != 58000 || d.Phase() != status.Draining || d.Left() != 58*time.Second+settle {
			t.Errorf("after 2 s: told %+v, %s left", got, d.Left())
		}
		time.Sleep(time.Second)
		synctest.Wait()
		if want := (status.Drain{Order: "1", Phase: status.Drained}); h.last() != want || d.Phase() != status.Drained || d.Left() != 0 {
			t.Errorf("told %+v, want %+v", h.last(), want)
		}
		n := len(h.told)
		time.Sleep(time.Hour)
		if len(h.told) != n {
			t.Error("a drain that has ended is told about")
		}
	})
}

func TestTheDeadlineCutsOffWhatRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		for _, deadline := range []time.Duration{0, 5 * time.Second} {
			h, s := &host{}, newServer()
			d := New(h.report)
			d.Attach(s)
			s.request(t, time.Hour)
			s.request(t, time.Hour)
			begin := time.Now()
			d.Order(drainOrder("1", deadline))
			d.Finish(time.Hour)
			if took := time.Since(begin); took != deadline {
				t.Errorf("a deadline of %s took %s", deadline, took)
			}
			synctest.Wait()
			if want := (status.Drain{Order: "1", Phase: status.Drained, Cut: 2}); h.last() != want {
				t.Errorf("told %+v, want %+v", h.last(), want)
			}
		}
	})
}

// TestOrdersThatComeTwiceOrLateChangeNothing: a host, or whoever sits on the
// channel, repeats and keeps back what was said.
func TestOrdersThatComeTwiceOrLateChangeNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := &host{}, newServer()
		d := New(h.report)
		d.Attach(s)
		s.request(t, time.Hour)
		d.Order(drainOrder("1", time.Minute))
		time.Sleep(30 * time.Second)
		d.Order(drainOrder("1", time.Minute)) // again: the deadline stays
		if got := h.last(); got.LeftMS != 30000 {
			t.Errorf("told %+v", got)
		}
		d.Order(&hostorder.Order{Type: hostorder.Resume, ID: "2"})
		if got := h.last(); got != (status.Drain{Order: "2", Phase: status.Serving, Running: 1}) {
			t.Errorf("told %+v", got)
		}
		d.Order(drainOrder("1", 0)) // from long ago
		if d.Phase() != status.Serving {
			t.Error("an old order drained the worker")
		}
		s.request(t, time.Second)
		time.Sleep(time.Minute)
		if running, _ := s.Load(); running != 1 {
			t.Errorf("%d run: the first drain's deadline was not taken back", running)
		}
		d.Order(drainOrder("3", 0))
		synctest.Wait()
		if got := h.last(); got.Phase != status.Drained || got.Cut != 1 {
			t.Errorf("told %+v", got)
		}
	})
}

func TestAnotherDrainMovesTheDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := &host{}, newServer()
		d := New(h.report)
		d.Attach(s)
		s.request(t, time.Hour)
		begin := time.Now()
		d.Order(drainOrder("1", time.Minute))
		time.Sleep(time.Second)
		d.Order(drainOrder("2", 10*time.Second))
		d.Finish(0)
		if took := time.Since(begin); took != 11*time.Second {
			t.Errorf("it took %s", took)
		}
		synctest.Wait()
		if got := h.last(); got.Order != "2" || got.Cut != 1 {
			t.Errorf("told %+v", got)
		}
		d.Order(drainOrder("4", time.Minute)) // there is nothing left to do
		if got := h.last(); got != (status.Drain{Order: "4", Phase: status.Drained, Cut: 1}) {
			t.Errorf("told %+v", got)
		}
	})
}

func TestAnOrderDuringTheBootHoldsWhenItEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := &host{}, newServer()
		d := New(h.report)
		d.Order(drainOrder("1", time.Minute))
		if got := h.last(); got.Phase != status.Drained {
			t.Errorf("told %+v", got)
		}
		d.Attach(s)
		if !s.Closed() {
			t.Error("the worker takes requests")
		}
		d.Order(&hostorder.Order{Type: hostorder.Resume, ID: "2"})
		if s.Closed() {
			t.Error("the worker takes none")
		}
	})
}

func TestTheEndDrainsWithoutAnOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := &host{}, newServer()
		d := New(h.report)
		d.Finish(time.Second) // a boot that never served
		d = New(h.report)
		d.Attach(s)
		s.request(t, 3*time.Second)
		s.request(t, time.Hour)
		begin := time.Now()
		d.Finish(5 * time.Second)
		if took := time.Since(begin); took != 5*time.Second || h.last().Phase == status.Serving {
			t.Errorf("it took %s, told %+v", took, h.last())
		}
	})
}

func TestOrdersInAnyOrderEndInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h, s := &host{}, newServer()
		d := New(h.report)
		d.Attach(s)
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				time.Sleep(time.Duration(i%7) * 300 * time.Millisecond)
				if i%2 == 0 {
					d.Order(drainOrder(fmt.Sprint(i), time.Duration(i)*100*time.Millisecond))
				} else {
					d.Order(&hostorder.Order{Type: hostorder.Resume, ID: fmt.Sprint(i)})
				}
			})
		}
		wg.Wait()
		d.Order(&hostorder.Order{Type: hostorder.Resume, ID: "last"})
		time.Sleep(time.Hour)
		if d.Phase() != status.Serving || s.Closed() {
			t.Errorf("phase %s, closed %v", d.Phase(), s.Closed())
		}
		if slices.ContainsFunc(h.told, func(s status.Drain) bool { return s.Order == "" }) {
			t.Error("an answer names no order")
		}
	})
}

var _ Server = (*server)(nil)

// TestFinishEndsWithARequestThatHangs: what does not even end when it is cut
// off does not hold up the machine.
func TestFinishEndsWithARequestThatHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer()
		release, err := s.Acquire(context.Background(), "a")
		if err != nil {
			t.Fatal(err)
		}
		defer release()
		d := New(func(status.Drain) {})
		d.Attach(s)
		begin := time.Now()
		d.Finish(time.Second)
		if took := time.Since(begin); took != time.Second+settle {
			t.Errorf("it took %s", took)
		}
	})
}

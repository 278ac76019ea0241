package server

import (
	"context"
	"net/http"
	"testing"
	"time"

	"golang.org/x/time/rate"
)

// TestTheQueueIsShortInTime: how many are let in follows from how long a slot is
// held, between the least and the number of places.
func TestTheQueueIsShortInTime(t *testing.T) {
	const slots, places = 2, 64
	for name, c := range map[string]struct {
		held time.Duration
		want int // let in before one is turned away
	}{
		"nothing is known yet": {0, slots + places},
		"fast":                 {10 * time.Microsecond, slots + places},
		"half a millisecond":   {500 * time.Microsecond, slots + 40},
		"slow":                 {10 * time.Millisecond, slots + leastQueue*slots},
		"very slow":            {time.Minute, slots + leastQueue*slots},
	} {
		a := newAdmission(slots, places, time.Minute, 10*time.Millisecond)
		a.held.Store(int64(c.held))
		n := 0
		for ; n < 1000 && a.enter(); n++ {
		}
		if n != c.want {
			t.Errorf("%s: %d were let in, want %d", name, n, c.want)
		}
		if a.leave(); !a.enter() || a.enter() {
			t.Errorf("%s: a place that was given back is not one place", name)
		}
	}
}

// TestAHeldSlotIsTimed: slots that are held for long make the queue shorter; who
// gave up held none.
func TestAHeldSlotIsTimed(t *testing.T) {
	a := newAdmission(1, 8, time.Minute, time.Millisecond)
	done, err := a.run(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := a.run(ctx); err == nil || a.held.Load() != 0 {
		t.Errorf("who gave up: %v, held for %d ns", err, a.held.Load())
	}
	done()
	first := a.held.Load()
	if first <= 0 || len(a.slots) != 0 {
		t.Errorf("held for %d ns, %d slots taken", first, len(a.slots))
	}
	a.held.Store(int64(time.Hour))
	if done, err = a.run(context.Background()); err != nil {
		t.Fatal(err)
	}
	done()
	if got := time.Duration(a.held.Load()); got >= time.Hour || got < time.Hour*(heldWeight-2)/heldWeight {
		t.Errorf("held for %v after one that was short", got)
	}
}

// TestWhoFindsNoPlaceWaitsForAMoment: each longer than who came before; nobody
// beyond as many as may, nobody whose connection has other requests, nobody who finds
// a place.
func TestWhoFindsNoPlaceWaitsForAMoment(t *testing.T) {
	const turn = time.Hour
	over, waits := make(chan struct{}), make(chan time.Duration, maxPaused)
	s := &Server{admission: newAdmission(1, 0, time.Minute, time.Minute), turns: rate.NewLimiter(rate.Every(turn), 1), wait: func(d time.Duration) {
		waits <- d
		<-over
	}}
	http1, http2 := &http.Request{ProtoMajor: 1}, &http.Request{ProtoMajor: 2}
	if !s.enter(http1) {
		t.Fatal("who finds a place is turned away")
	}
	if s.enter(http2) {
		t.Error("HTTP/2 was let in beyond the places")
	}
	let := make(chan bool)
	for i := range maxPaused {
		go func() { let <- s.enter(http1) }()
		want := time.Duration(i) * turn
		if d := <-waits; d < leastPause || d > want+leastPause || d < want-turn/2 {
			t.Fatalf("the wait of number %d is %v", i, d)
		}
	}
	if s.enter(http1) || len(waits) != 0 {
		t.Error("beyond as many as may: let in, or waited")
	}
	close(over)
	for range maxPaused {
		if <-let {
			t.Error("let in after a moment")
		}
	}
	if n := s.paused.Load(); n != 0 {
		t.Errorf("%d wait still", n)
	}
	s.admission.leave()
	if !s.enter(http1) {
		t.Error("turned away though there is a place")
	}
}

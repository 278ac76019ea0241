package server

import (
	"context"
	"runtime"
	"testing"
	"time"
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

// TestWhoFindsNoPlaceWaitsForAMoment, with moments that do not end: as many as may,
// until they give up; nobody beyond them.
func TestWhoFindsNoPlaceWaitsForAMoment(t *testing.T) {
	s := &Server{admission: newAdmission(1, 0, time.Minute, time.Minute), pace: time.Hour}
	ctx, cancel := context.WithCancel(context.Background())
	if !s.enter(ctx) || s.paused.Load() != 0 {
		t.Fatal("who finds a place waits")
	}
	let := make(chan bool)
	for range maxPaused {
		go func() { let <- s.enter(ctx) }()
	}
	for s.paused.Load() < maxPaused {
		runtime.Gosched()
	}
	if s.enter(ctx) {
		t.Error("let in beyond the places")
	}
	cancel()
	for range maxPaused {
		if <-let {
			t.Error("let in after a moment")
		}
	}
	if n := s.paused.Load(); n != 0 {
		t.Errorf("%d wait still", n)
	}
	s.admission.leave()
	if !s.enter(ctx) {
		t.Error("turned away though there is a place")
	}
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeysRunInTurn: one key has five requests waiting when two others come
// with one each; they wait for one request of the first, not for five.
func TestKeysRunInTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{Slots: 1, Waiting: 10, PerKey: 8})
		hold, err := q.Acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		var mu sync.Mutex
		var order []string
		var wg sync.WaitGroup
		for _, key := range []string{"a", "a", "a", "a", "a", "b", "c", "b"} {
			wg.Go(func() {
				release, err := q.Acquire(t.Context(), key)
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				order = append(order, key)
				mu.Unlock()
				time.Sleep(time.Second)
				release()
			})
			synctest.Wait()
		}
		if running, waiting := q.Load(); running != 1 || waiting != 8 {
			t.Errorf("%d run, %d wait", running, waiting)
		}
		hold()
		wg.Wait()
		if got := strings.Join(order, ""); got != "abcabaaa" {
			t.Errorf("they ran as %s", got)
		}
		if running, waiting := q.Load(); running != 0 || waiting != 0 || len(q.lines) != 0 || len(q.turn) != 0 {
			t.Errorf("%d run, %d wait, %d lines are left", running, waiting, len(q.lines))
		}
	})
}

func TestBounds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{Slots: 1, Waiting: 3, PerKey: 2})
		hold, err := q.Acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 3)
		wait := func(key string) {
			go func() { _, err := q.Acquire(ctx, key); ended <- err }()
			synctest.Wait()
		}
		wait("a")
		wait("a")
		if _, err := q.Acquire(t.Context(), "a"); !errors.Is(err, ErrKeyFull) {
			t.Errorf("a third of one key: %v", err)
		}
		wait("b")
		if _, err := q.Acquire(t.Context(), "c"); !errors.Is(err, ErrFull) {
			t.Errorf("a fourth in all: %v", err)
		}
		cancel()
		for range 3 {
			if err := <-ended; !errors.Is(err, context.Canceled) {
				t.Errorf("got %v", err)
			}
		}
		hold()
		hold() // once more does nothing
		release, err := q.Acquire(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		release()
		if running, waiting := q.Load(); running != 0 || waiting != 0 {
			t.Errorf("%d run, %d wait", running, waiting)
		}
	})
}

func TestCloseSendsTheWaitingAwayAndIdleAwaitsTheRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New(Options{Slots: 1, Waiting: 3, PerKey: 2})
		hold, err := q.Acquire(t.Context(), "a")
		if err != nil {
			t.Fatal(err)
		}
		ended := make(chan error, 1)
		go func() { _, err := q.Acquire(t.Context(), "b"); ended <- err }()
		synctest.Wait()
		q.Close()
		if err := <-ended; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
		if _, err := q.Acquire(t.Context(), "c"); !errors.Is(err, ErrClosed) {
			t.Errorf("got %v", err)
		}
		soon, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := q.Idle(soon); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v while one runs", err)
		}
		time.AfterFunc(time.Minute, hold)
		if err := q.Idle(t.Context()); err != nil {
			t.Errorf("got %v", err)
		}
		q.Open()
		release, err := q.Acquire(t.Context(), "c")
		if err != nil {
			t.Fatal(err)
		}
		release()
	})
}

// TestNothingIsLost has many requests come, give up and run at random.
func TestNothingIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const slots = 3
		q := New(Options{Slots: slots, Waiting: 20, PerKey: 5})
		var mu sync.Mutex
		var running, most int
		var wg sync.WaitGroup
		for i := range 300 {
			wg.Go(func() {
				r := rand.New(rand.NewPCG(1, uint64(i)))
				time.Sleep(time.Duration(r.IntN(1000)) * time.Millisecond)
				ctx, cancel := context.WithTimeout(t.Context(), time.Duration(r.IntN(100))*time.Millisecond)
				defer cancel()
				release, err := q.Acquire(ctx, fmt.Sprint(r.IntN(6)))
				if err != nil {
					return
				}
				mu.Lock()
				running++
				most = max(most, running)
				mu.Unlock()
				time.Sleep(time.Duration(r.IntN(30)) * time.Millisecond)
				mu.Lock()
				running--
				mu.Unlock()
				release()
			})
		}
		wg.Wait()
		if most != slots {
			t.Errorf("%d ran at a time, want %d", most, slots)
		}
		if running, waiting := q.Load(); running != 0 || waiting != 0 || len(q.lines) != 0 || len(q.turn) != 0 {
			t.Errorf("%d run, %d wait, %d lines are left", running, waiting, len(q.lines))
		}
	})
}

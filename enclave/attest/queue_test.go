package attest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/internal/fault"
)

func TestOneQuoteAtATimeAndNotTooOften(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := Queue{Interval: MinInterval}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var starts []time.Time
		running := 0
		begin := time.Now()
		for range 5 {
			wg.Go(func() {
				err := q.Do(t.Context(), func() error {
					mu.Lock()
					starts = append(starts, time.Now())
					if running++; running > 1 {
						t.Error("two quotes at a time")
					}
					mu.Unlock()
					time.Sleep(300 * time.Millisecond)
					mu.Lock()
					running--
					mu.Unlock()
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for i, s := range starts {
			if want := begin.Add(time.Duration(i) * MinInterval); !s.Equal(want) {
				t.Errorf("quote %d began after %s", i, s.Sub(begin))
			}
		}
	})
}

func TestAFullQueueRefusesAndTheRestGoesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := Queue{Interval: MinInterval}
		var wg sync.WaitGroup
		hold := make(chan struct{})
		done := 0
		for range MaxWaiting + 1 {
			wg.Go(func() {
				if err := q.Do(t.Context(), func() error { <-hold; done++; return nil }); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		if err := q.Do(t.Context(), func() error { return nil }); !fault.Has(err, CodeBusy) {
			t.Errorf("beyond the bound: %v", err)
		}
		close(hold)
		wg.Wait()
		if done != MaxWaiting+1 {
			t.Errorf("%d of %d ran", done, MaxWaiting+1)
		}
		if err := q.Do(t.Context(), func() error { return errors.New("x") }); err == nil || err.Error() != "x" {
			t.Errorf("after it: %v", err)
		}
	})
}

func TestWhoStopsWaitingLeavesTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := Queue{Interval: MinInterval}
		hold := make(chan struct{})
		go q.Do(t.Context(), func() error { <-hold; return nil })
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		for range MaxWaiting {
			wg.Go(func() {
				if err := q.Do(ctx, func() error { t.Error("it ran"); return nil }); !errors.Is(err, context.Canceled) {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		cancel()
		wg.Wait()
		close(hold)
		if err := q.Do(t.Context(), func() error { return nil }); err != nil {
			t.Error(err)
		}
		// The pause between quotes ends with its context, too.
		ctx, cancel = context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := q.Do(ctx, func() error { return nil }); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
}

package registrysource

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
)

// source answers for a manifest after its time, or never, and counts.
type source struct {
	takes map[digest.SHA256]time.Duration // others: not there
	asked atomic.Int32
}

func (s *source) Manifest(ctx context.Context, hash digest.SHA256) (manifest.Published, error) {
	s.asked.Add(1)
	d, ok := s.takes[hash]
	if !ok {
		return manifest.Published{}, errors.New("not found")
	}
	select {
	case <-time.After(d):
		return manifest.Published{Envelope: []byte("envelope " + hash.String())}, nil
	case <-ctx.Done():
		return manifest.Published{}, ctx.Err()
	}
}

// anything is what a policy that names no log wants.
func anything(manifest.Published) bool { return true }

const never = 1000 * time.Hour

func listing(hashes ...digest.SHA256) *appraise.Registry {
	r := &appraise.Registry{Manifests: map[digest.SHA256]appraise.ManifestState{}}
	for _, h := range hashes {
		r.Manifests[h] = appraise.ManifestState{Listed: true}
	}
	return r
}

var first, second = digest.Sum256([]byte("first")), digest.Sum256([]byte("second"))

func TestAManifestIsFetchedOnceHoweverManyAsk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &source{takes: map[digest.SHA256]time.Duration{first: time.Second}}
		c := newCollection(nil, []Fetcher{s}, anything)
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if got, err := c.Listed(t.Context(), listing(first)); err != nil || len(got) != 1 {
					t.Errorf("%d envelopes, %v", len(got), err)
				}
			})
		}
		wg.Wait()
		if n := s.asked.Load(); n != 1 {
			t.Errorf("asked %d times", n)
		}
	})
}

func TestASlowVerifierIsLeftForTheNext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &source{takes: map[digest.SHA256]time.Duration{first: never}}
		c := newCollection(nil, []Fetcher{slow, &source{takes: map[digest.SHA256]time.Duration{first: 0}}}, anything)
		begin := time.Now()
		got, err := c.Listed(t.Context(), listing(first))
		if err != nil || len(got) != 1 || time.Since(begin) != fetchTimeout {
			t.Errorf("%d envelopes after %s, %v", len(got), time.Since(begin), err)
		}
	})
}

func TestASlowManifestHoldsUpNobodyForLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		slow := &source{takes: map[digest.SHA256]time.Duration{first: 0, second: never}}
		c := newCollection(nil, []Fetcher{slow, slow, slow}, anything)
		var wg sync.WaitGroup
		for i := range 8 {
			wg.Go(func() {
				begin := time.Now()
				got, err := c.Listed(t.Context(), listing(first, second))
				if len(got) != 1 || !fault.Has(err, "manifest.unavailable") || time.Since(begin) != fetchWait {
					t.Errorf("caller %d: %d envelopes after %s, %v", i, len(got), time.Since(begin), err)
				}
			})
		}
		// Who needs the other one alone has it at once, and who leaves, leaves.
		if got, err := c.Listed(t.Context(), listing(first)); err != nil || len(got) != 1 {
			t.Errorf("%d envelopes, %v", len(got), err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := c.Listed(ctx, listing(second)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("who left: %v", err)
		}
		wg.Wait()
		time.Sleep(3*fetchTimeout - fetchWait + time.Second) // the fetch has failed
		before := slow.asked.Load()
		begin := time.Now()
		if _, err := c.Listed(t.Context(), listing(first, second)); !fault.Has(err, "manifest.unavailable") || time.Since(begin) != 0 {
			t.Errorf("after %s: %v", time.Since(begin), err)
		}
		if n := slow.asked.Load(); n != before || n != 4 {
			t.Errorf("asked %d times, then %d; want once for the one and thrice for the other", before, n)
		}
		time.Sleep(fetchAgain)
		slow.takes[second] = 0
		if got, err := c.Listed(t.Context(), listing(first, second)); err != nil || len(got) != 2 {
			t.Errorf("once it is there: %d envelopes, %v", len(got), err)
		}
	})
}

func TestASlowLedgerIsReadOnceAndWhoLeavesLeaves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var reads atomic.Int32
		slow := true
		s := newSource(nil, toncell.Address{}, policy.Registry{}, func(ctx context.Context) (*registry.State, *chain.State, error) {
			reads.Add(1)
			if slow {
				<-ctx.Done()
				return nil, nil, ctx.Err()
			}
			return &registry.State{}, &chain.State{GlobalID: 7}, nil
		})
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var wg sync.WaitGroup
		begin := time.Now()
		wg.Go(func() {
			if _, err := s.State(impatient); !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) != time.Second {
				t.Errorf("after %s: %v", time.Since(begin), err)
			}
		})
		synctest.Wait() // it has asked first
		for range 8 {
			wg.Go(func() {
				if _, err := s.State(t.Context()); err == nil || time.Since(begin) != timeout {
					t.Errorf("after %s: %v", time.Since(begin), err)
				}
			})
		}
		wg.Wait()
		if n := reads.Load(); n != 1 {
			t.Errorf("read %d times", n)
		}
		slow = false
		for range 3 {
			if st, err := s.State(t.Context()); err != nil || st.NetworkID != 7 {
				t.Errorf("%+v, %v", st, err)
			}
		}
		if n := reads.Load(); n != 2 {
			t.Errorf("read %d times, want one more", n)
		}
		time.Sleep(refresh)
		if _, err := s.State(t.Context()); err != nil || reads.Load() != 3 {
			t.Errorf("after the state was old: %d reads, %v", reads.Load(), err)
		}
	})
}

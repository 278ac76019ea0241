package server

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/measurements/digest"
)

const forAppraisal = verifierv1.Purpose_PURPOSE_APPRAISE

// aged returns challenges of a process whose age the test moves.
func aged(t *testing.T, max int) (*memoryChallenges, *atomic.Int64) {
	t.Helper()
	age := &atomic.Int64{}
	m, err := newMemoryChallenges(func() time.Duration { return time.Duration(age.Load()) }, max)
	if err != nil {
		t.Fatal(err)
	}
	return m, age
}

func issue(t *testing.T, c Challenges, ttl time.Duration) digest.SHA256 {
	t.Helper()
	d, err := c.Issue(context.Background(), forAppraisal, ttl)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// take expects a reason, or none where the challenge is taken.
func take(t *testing.T, c Challenges, d digest.SHA256, want string) {
	t.Helper()
	ours, why, err := c.Take(context.Background(), forAppraisal, []digest.SHA256{d})
	if err != nil {
		t.Fatal(err)
	}
	if len(ours) == 1 {
		why = ""
	}
	if why != want {
		t.Errorf("taking a challenge: %q, want %q", why, want)
	}
}

const usedBefore = "a challenge that was used before"

func TestAChallengeIsGoodOnceAndForItsTime(t *testing.T) {
	m, age := aged(t, 10)
	one, two := issue(t, m, time.Minute), issue(t, m, time.Minute)
	take(t, m, one, "")
	take(t, m, one, usedBefore)
	age.Store(int64(time.Minute - time.Millisecond))
	take(t, m, one, usedBefore)
	age.Store(int64(time.Minute))
	take(t, m, two, "an expired challenge")
	take(t, m, one, "an expired challenge")
	// Long after both are forgotten.
	age.Store(int64(time.Hour))
	take(t, m, issue(t, m, time.Minute), "")
	if m.n != 1 || len(m.used) != 1 {
		t.Errorf("%d challenges are remembered, want 1", m.n)
	}
	take(t, m, one, "an expired challenge")
}

func TestChallengesOfOthersAreNone(t *testing.T) {
	m, _ := aged(t, 10)
	d := issue(t, m, time.Minute)
	for i := range d {
		other := d
		other[i] ^= 1
		take(t, m, other, NoChallenge)
	}
	if ours, why, err := m.Take(context.Background(), verifierv1.Purpose_PURPOSE_UNSPECIFIED, []digest.SHA256{d}); len(ours) != 0 || why != NoChallenge || err != nil {
		t.Errorf("for another purpose: %v, %q, %v", ours, why, err)
	}
	restarted, _ := aged(t, 10)
	take(t, restarted, d, NoChallenge)
	take(t, m, d, "")
}

func TestAFullMemoryForgetsNothing(t *testing.T) {
	m, age := aged(t, 1)
	one, two := issue(t, m, time.Minute), issue(t, m, time.Minute)
	take(t, m, one, "")
	take(t, m, two, ErrTooManyUsed.Error())
	take(t, m, one, usedBefore)
	age.Store(int64(2 * time.Minute))
	take(t, m, issue(t, m, time.Minute), "")
}

// TestOneChallengeTakenByManyIsTakenOnce races, while time passes.
func TestOneChallengeTakenByManyIsTakenOnce(t *testing.T) {
	m, age := aged(t, 1000)
	for range 50 {
		d := issue(t, m, time.Minute)
		var taken atomic.Int64
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				age.Add(int64(time.Second))
				ours, _, err := m.Take(context.Background(), forAppraisal, []digest.SHA256{d})
				if err != nil {
					t.Error(err)
				}
				taken.Add(int64(len(ours)))
			})
		}
		wg.Wait()
		if taken.Load() != 1 {
			t.Fatalf("taken %d times", taken.Load())
		}
	}
}

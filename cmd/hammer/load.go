package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/protobuf/proto"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/client"
	"cocoon/verifier/result"
	"cocoon/verifier/testfleet"
)

// stock is evidence for challenges that were fetched, in the order in which it
// is sent.
type stock struct {
	machine *testfleet.Machine
	bound   []*testfleet.Bound
	next    atomic.Int64
}

// take returns the next evidence, nil where there is none left.
func (s *stock) take() *testfleet.Bound {
	i := s.next.Add(1) - 1
	if i >= int64(len(s.bound)) {
		return nil
	}
	return s.bound[i]
}

// fill fetches n challenges and makes the evidence for them.
func fill(ctx context.Context, verifier string, m *testfleet.Machine, n int) (*stock, error) {
	c, err := client.New(client.Options{BaseURL: verifier})
	if err != nil {
		return nil, err
	}
	s := &stock{machine: m, bound: make([]*testfleet.Bound, n)}
	const workers = 8
	var wg sync.WaitGroup
	var next atomic.Int64
	errs := make([]error, workers)
	for w := range workers {
		wg.Go(func() {
			for errs[w] == nil {
				i := next.Add(1) - 1
				if i >= int64(n) {
					return
				}
				var ch digest.SHA256
				if ch, errs[w] = challenge(ctx, c); errs[w] == nil {
					s.bound[i], errs[w] = m.Bind(ch)
				}
			}
		})
	}
	wg.Wait()
	return s, errors.Join(errs...)
}

func challenge(ctx context.Context, c *client.Client) (digest.SHA256, error) {
	ch, err := c.Challenge(ctx)
	if err != nil {
		return digest.SHA256{}, err
	}
	return ch.Challenge, nil
}

// tally counts answers and keeps the time that each took. A connection has one
// of its own.
type tally struct {
	latencies []time.Duration // of verdicts
	shedTimes []time.Duration // of 429
	errors    int
	first     string
	missed    int // arrivals for which no connection was free
}

func (t *tally) add(a *answer, err error, took time.Duration) {
	switch {
	case err == nil && a.accepted:
		t.latencies = append(t.latencies, took)
	case err == nil && a.status == http.StatusTooManyRequests:
		t.shedTimes = append(t.shedTimes, took)
	default:
		t.errors++
		if t.first == "" && err != nil {
			t.first = err.Error()
		} else if t.first == "" {
			t.first = fmt.Sprintf("status %d: %s", a.status, why(a))
		}
	}
}

// connect starts connections with a tally each, and returns a function that waits for
// them and adds their tallies to out.
func connect(t *target, connections int, out *tally, each func(*conn, *tally)) (wait func()) {
	var wg sync.WaitGroup
	all := make([]tally, connections)
	for i := range all {
		wg.Go(func() {
			c := &conn{t: t}
			defer c.close()
			each(c, &all[i])
		})
	}
	return func() {
		wg.Wait()
		for i := range all {
			a := &all[i]
			out.latencies, out.shedTimes = append(out.latencies, a.latencies...), append(out.shedTimes, a.shedTimes...)
			out.errors += a.errors
			out.first = cmp.Or(out.first, a.first)
		}
	}
}

var errEmpty = errors.New("there is no more evidence")

// next sends the next evidence. What was turned away was not looked at: it answers
// its challenge still, and is sent again.
func (c *conn) next(ctx context.Context, s *stock) (*answer, error) {
	var a *answer
	var err error
	if c.again {
		a, err = c.send(ctx)
	} else {
		b := s.take()
		if b == nil {
			return nil, errEmpty
		}
		a, err = c.appraise(ctx, s.machine.Size(), func(dst []byte) []byte { return s.machine.AppendEvidence(dst, b) })
	}
	c.again = err == nil && a.status == http.StatusTooManyRequests
	return a, err
}

// closedLoop sends one request after another on each connection until the time
// is over or the stock is empty, and returns how long that was.
func closedLoop(ctx context.Context, t *target, s *stock, connections int, d time.Duration, out *tally) time.Duration {
	start := time.Now()
	connect(t, connections, out, func(c *conn, mine *tally) {
		for begin := start; begin.Sub(start) < d; begin = time.Now() {
			a, err := c.next(ctx, s)
			if errors.Is(err, errEmpty) || err != nil && ctx.Err() != nil {
				return
			}
			mine.add(a, err, time.Since(begin))
		}
	})()
	return time.Since(start)
}

// openLoop sends requests at a rate, whether or not answers come. The time of
// each counts from when it was due, and one that is due already is sent at once: a
// sleep that took too long must not lower the rate. Where every connection waits
// for an answer the arrival is missed, and counted.
func openLoop(ctx context.Context, t *target, s *stock, connections int, perSecond float64, d time.Duration, out *tally) time.Duration {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	due := make(chan time.Time)
	wait := connect(t, connections, out, func(c *conn, mine *tally) {
		for at := range due {
			a, err := c.next(ctx, s)
			if errors.Is(err, errEmpty) {
				cancel()
			}
			if err != nil && ctx.Err() != nil {
				continue
			}
			mine.add(a, err, time.Since(at))
		}
	})
	start := time.Now()
	due <- start // when a connection is there
	for n := 1; ctx.Err() == nil; n++ {
		after := time.Duration(float64(n) / perSecond * float64(time.Second))
		if after >= d {
			break
		}
		at := start.Add(after)
		sleepUntil(ctx, at)
		select {
		case due <- at:
		default:
			out.missed++
		}
	}
	sleepUntil(ctx, start.Add(d))
	took := time.Since(start)
	close(due)
	wait()
	return took
}

// sleepUntil returns soon after the context's end, too.
func sleepUntil(ctx context.Context, at time.Time) {
	for wait := time.Until(at); wait > 0 && ctx.Err() == nil; wait = time.Until(at) {
		time.Sleep(min(wait, 100*time.Millisecond))
	}
}

// accepted makes sure that the verifier accepts the machines at all.
func accepted(ctx context.Context, t *target, s *stock) error {
	c := &conn{t: t}
	defer c.close()
	a, err := c.next(ctx, s)
	if err != nil {
		return err
	}
	if a.accepted {
		return nil
	}
	return fault.New(fault.ExitInternal, "hammer.refused", "configure the verifier with what -write-files writes, as examples/verifier.yaml is", "the verifier refused a test machine: status %d, %s", a.status, why(a))
}

// why names the failed checks of a refusal.
func why(a *answer) string {
	var res verifierv1.AppraiseResponse
	if a.status != http.StatusOK || proto.Unmarshal(a.body, &res) != nil {
		return fmt.Sprintf("%.300q", a.body)
	}
	var out []string
	for _, s := range res.Result.GetSubmods() {
		for _, c := range s.Checks {
			if c.Status == result.Fail {
				out = append(out, fmt.Sprintf("%s: %s, want %s", c.Id, c.Actual, c.Expected))
			}
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

package attest

import (
	"context"
	"sync"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// CodeBusy is the fault of a request for evidence that finds too many before
// it.
const CodeBusy = "evidence.busy"

// Bounds of a queue. A quote takes about a second of the TEE, or of the host's
// quoting service, which every machine of the host shares. The renewals of all
// models of a machine come together; no client causes a quote.
const (
	MaxWaiting  = evidence.MaxModels + 8
	MinInterval = time.Second
)

// Queue lets one quote run at a time, no two begin within Interval, and at
// most MaxWaiting wait. It is safe for concurrent use.
type Queue struct {
	Interval time.Duration

	mu      sync.Mutex
	waiting int
	turn    chan struct{} // holds one token, made on demand
	next    time.Time     // when the next quote may begin
}

// Do runs f when it is its turn, unless ctx ends before.
func (q *Queue) Do(ctx context.Context, f func() error) error {
	turn, err := q.enter()
	if err != nil {
		return err
	}
	defer q.leave()
	select {
	case <-turn:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { turn <- struct{}{} }()
	// next is written by whoever holds the turn.
	if wait := time.Until(q.next); wait > 0 {
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	q.next = time.Now().Add(q.Interval)
	return f()
}

func (q *Queue) enter() (chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.turn == nil {
		q.turn = make(chan struct{}, 1)
		q.turn <- struct{}{}
	}
	if q.waiting > MaxWaiting {
		return nil, fault.New(fault.ExitNotReady, CodeBusy, "ask again in a few seconds", "collecting evidence: %d requests are waiting", q.waiting)
	}
	q.waiting++
	return q.turn, nil
}

func (q *Queue) leave() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.waiting--
}

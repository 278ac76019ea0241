package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"cocoon/enclave/platform"
	"cocoon/internal/fault"
	"cocoon/verifier/self"
)

// Times of the service's own evidence. A quote takes about a second of the TEE,
// and the description is asked for by everyone.
const (
	ownAge     = time.Hour                    // after which it is collected anew
	ownHeld    = self.MaxAge - 10*time.Minute // for which it is shown where there is no newer
	ownRetry   = 10 * time.Second             // after a failure
	ownTimeout = 30 * time.Second             // of one collection
)

// teeEvidence collects what the service shows of the TEE that it runs in. It is
// kept as long as it is over what the service says of itself: a reload or the
// turn of a key makes another.
//
// The host makes the quotes, and may take as long as it likes: the machine is
// asked once at a time, whoever asks for the evidence waits no longer than he
// wants to, and nobody waits where there is something to show.
type teeEvidence struct {
	machine platform.TEE
	clock   func() time.Time
	ctx     context.Context // ends with Close
	stop    context.CancelFunc

	mu      sync.Mutex
	running *collection // nil: none
	claims  self.Claims // of what follows
	doc     []byte      // nil: none yet
	at      time.Time   // of doc
	err     error       // of the last collection
	failed  time.Time   // when err came
}

// collection is one under way.
type collection struct {
	claims self.Claims
	done   chan struct{}
	doc    []byte // once it is done
	err    error
}

// teeEvidence opens the machine for evidence.
func (s *keystore) teeEvidence(clock func() time.Time) (*teeEvidence, error) {
	m, err := s.openMachine()
	if err != nil {
		return nil, err
	}
	t, ok := m.(platform.TEE)
	if !ok {
		_ = m.Close() // it is not used
		return nil, fault.New(fault.ExitNotReady, codeTEE, remedyTEE, "opening the machine's TEE: a machine of kind %s has none", m.Kind())
	}
	ctx, stop := context.WithCancel(context.Background())
	return &teeEvidence{machine: t, clock: clock, ctx: ctx, stop: stop}, nil
}

// Evidence implements server.OwnEvidence.
func (e *teeEvidence) Evidence(ctx context.Context, c self.Claims) ([]byte, error) {
	for {
		running, doc, err := e.held(c)
		if running == nil {
			return doc, err
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for own evidence: %w", ctx.Err())
		case <-running.done:
			if running.claims.Same(&c) {
				return running.doc, running.err
			}
		}
	}
}

// held returns what there is to show, and starts a collection where it is time
// for one. Where there is nothing it returns the collection to wait for.
func (e *teeEvidence) held(c self.Claims) (*collection, []byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock()
	within := func(t time.Time, d time.Duration) bool { // not where the clock was set back
		age := now.Sub(t)
		return !t.IsZero() && age >= 0 && age < d
	}
	same := e.claims.Same(&c)
	good := same && e.doc != nil && within(e.at, ownHeld)
	wait := same && e.err != nil && within(e.failed, ownRetry)
	if e.running == nil && !wait && !(good && within(e.at, ownAge)) {
		e.start(c, now)
	}
	switch {
	case good:
		return nil, e.doc, e.err
	case same && e.err != nil && within(e.failed, ownRetry+ownTimeout):
		return nil, nil, e.err // also while it is tried again
	}
	return e.running, nil, nil
}

// start begins a collection. It is for all who come while it runs: who asked first
// may go.
func (e *teeEvidence) start(c self.Claims, now time.Time) {
	c.At = now.UTC().Format(time.RFC3339)
	r := &collection{claims: c, done: make(chan struct{})}
	e.running = r
	go func() {
		ctx, cancel := context.WithTimeout(e.ctx, ownTimeout)
		defer cancel()
		r.doc, r.err = e.collect(ctx, c)
		e.mu.Lock()
		defer e.mu.Unlock()
		if !e.claims.Same(&c) {
			e.claims, e.doc = c, nil
		}
		if e.err = r.err; r.err == nil {
			e.doc, e.at = r.doc, now
		} else {
			e.failed = e.clock()
		}
		e.running = nil
		close(r.done)
	}()
}

func (e *teeEvidence) collect(ctx context.Context, c self.Claims) ([]byte, error) {
	data, err := c.ReportData()
	if err != nil {
		return nil, err
	}
	cpu, err := e.machine.Over(ctx, data)
	if err != nil {
		return nil, fmt.Errorf("collecting own evidence: %w", err)
	}
	return (&self.Document{Profile: self.Profile, Claims: c, CPU: *cpu}).Marshal()
}

// Close ends what runs and closes the machine.
func (e *teeEvidence) Close() error {
	e.stop()
	e.mu.Lock()
	running := e.running
	e.mu.Unlock()
	if running != nil {
		<-running.done
	}
	return e.machine.Close()
}

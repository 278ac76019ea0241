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
	ownAge     = time.Hour        // after which it is collected anew
	ownRetry   = 10 * time.Second // after a failure
	ownTimeout = 30 * time.Second
)

// teeEvidence collects what the service shows of the TEE that it runs in. It is
// kept as long as it is over what the service says of itself: a reload or the
// turn of a key makes another.
type teeEvidence struct {
	machine platform.TEE
	clock   func() time.Time

	mu     sync.Mutex // held while it is collected: a machine is asked one at a time
	claims self.Claims
	at     time.Time // of doc, or of err
	doc    []byte
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
	return &teeEvidence{machine: t, clock: clock}, nil
}

// Evidence implements server.OwnEvidence.
func (e *teeEvidence) Evidence(ctx context.Context, c self.Claims) ([]byte, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := e.clock()
	age := now.Sub(e.at)
	if !e.at.IsZero() && age >= 0 && e.claims.Same(&c) && (e.err == nil && age < ownAge || e.err != nil && age < ownRetry) {
		return e.doc, e.err
	}
	c.At = now.UTC().Format(time.RFC3339)
	e.claims, e.at = c, now
	// It is for those who come after, too: who asked first may go.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), ownTimeout)
	defer cancel()
	e.doc, e.err = e.collect(ctx, c)
	return e.doc, e.err
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

// Close closes the machine.
func (e *teeEvidence) Close() error { return e.machine.Close() }

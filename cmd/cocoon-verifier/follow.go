package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
)

// followEach is the pace at which a running service asks the registry for
// manifests that it did not list before.
const followEach = 15 * time.Second

// startFollowing takes in what the registry lists from now on, until the service
// is closed.
func (s *service) startFollowing() {
	ctx, cancel := context.WithCancel(context.Background())
	ticker := time.NewTicker(followEach)
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.follow(ctx, ticker.C)
	}()
	s.ended = append(s.ended, closer(func() error {
		ticker.Stop()
		cancel()
		<-done
		return nil
	}))
}

// follow looks at each tick. What cannot be had is tried again at a later one:
// meanwhile evidence of such a machine is refused.
func (s *service) follow(ctx context.Context, tick <-chan time.Time) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick:
		}
		if err := s.takeIn(ctx); err != nil && ctx.Err() == nil {
			s.log.Warn("a manifest that the registry lists is not here yet", "error", err)
		}
	}
}

// takeIn fetches what the registry lists and this service does not have, a proof
// of a log that the policy wants too, and has the server decide by it. Requests
// and reloads do not wait for the network meanwhile.
func (s *service) takeIn(ctx context.Context) error {
	s.taking.Lock()
	defer s.taking.Unlock()
	s.mu.Lock()
	l := s.loaded
	s.mu.Unlock()
	if l.listed == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
	defer cancel()
	state, err := l.trust.Registry(ctx)
	if err != nil {
		return fmt.Errorf("reading registry: %w", err)
	}
	published, missing := l.listed.Listed(ctx, state)
	ms, err := appraise.OpenManifests(l.trust.Policy, published)
	missing = errors.Join(missing, err) // what could be had counts all the same

	had := l.trust.Manifests // written by this function alone
	if slices.EqualFunc(ms, had, same) {
		return missing
	}
	// Into the log before they count, and without a lock that a reload needs: the
	// log's disk may be stuck.
	use, err := s.server.TakeIn(ctx, ms)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.loaded != l || !use() {
		return nil // a reload has read all of it anew
	}
	l.trust.Manifests = ms
	announce(s.log, l.trust.Policy, slices.DeleteFunc(slices.Clone(ms), func(m *manifest.Verified) bool {
		return slices.ContainsFunc(had, func(o *manifest.Verified) bool { return same(o, m) })
	}))
	return missing
}

// same reports whether two manifests are one, with one proof of a log.
func same(a, b *manifest.Verified) bool {
	return a.SHA256 == b.SHA256 && bytes.Equal(a.Inclusion, b.Inclusion)
}

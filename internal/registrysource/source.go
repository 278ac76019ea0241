// Package registrysource reads a registry on the ledger for appraisals: it
// joins the ledger's proven state (package ledger) with the form in which
// package appraise wants it, which know nothing of one another.
package registrysource

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"cocoon/contracts/chain"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
)

// refresh is how long a state that was read serves further appraisals. The
// policy bounds its age apart from that.
const (
	refresh = 5 * time.Second
	timeout = 20 * time.Second
)

// Source reads one registry's account, at most once every five seconds. It is
// safe for concurrent use.
type Source struct {
	ledger *ledger.Ledger
	addr   toncell.Address
	want   policy.Registry

	load func(context.Context) (*registry.State, *chain.State, error)

	flight singleflight.Group // of the read that is under way
	mu     sync.Mutex
	last   *state // nil before the first
}

// state is what one read has brought.
type state struct {
	registry *appraise.Registry
	proven   *registry.State
	read     time.Time
}

// Open returns a source for the registry that a policy names, over the network
// of a global.config.json file. No server is asked yet.
func Open(config string, want *policy.Registry, log *slog.Logger) (*Source, error) {
	addr, err := toncell.ParseAddress(want.Address)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "registry.address", "correct the registry's address in the policy", "reading registry address: %w", err)
	}
	c, err := chain.OpenFile(config, chain.Options{})
	if err != nil {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	l := ledger.New(c, log)
	return newSource(l, addr, *want, func(ctx context.Context) (*registry.State, *chain.State, error) { return l.Registry(ctx, addr) }), nil
}

func newSource(l *ledger.Ledger, addr toncell.Address, want policy.Registry, load func(context.Context) (*registry.State, *chain.State, error)) *Source {
	return &Source{ledger: l, addr: addr, want: want, load: load}
}

// Ledger returns the ledger underneath.
func (s *Source) Ledger() *ledger.Ledger { return s.ledger }

// Close ends the connection.
func (s *Source) Close() error { return s.ledger.Chain().Close() }

// Address returns the registry's address.
func (s *Source) Address() toncell.Address { return s.addr }

// State returns what the registry says now of manifests and models.
func (s *Source) State(ctx context.Context) (*appraise.Registry, error) {
	st, _, err := s.get(ctx)
	return st, err
}

// Proven returns the registry's whole state, verifier keys included. It is
// the network's that the policy names, and no older than the policy allows.
func (s *Source) Proven(ctx context.Context) (*registry.State, error) {
	st, proven, err := s.get(ctx)
	if err != nil {
		return nil, err
	}
	if st.NetworkID != s.want.NetworkID {
		return nil, fault.Mismatch(fault.ExitRefused, "registry.network", "the registry's network", fmt.Sprint(s.want.NetworkID), fmt.Sprint(st.NetworkID),
			"give the global.config.json of the network that the policy names")
	}
	if age := time.Since(st.Time); age > time.Duration(s.want.MaxAgeSeconds)*time.Second {
		return nil, fault.Mismatch(fault.ExitRefused, "registry.stale", "the age of the registry's state", fmt.Sprintf("at most %d s", s.want.MaxAgeSeconds),
			age.Truncate(time.Second).String(), "use a lite-server that is in step with the network")
	}
	return proven, nil
}

// get returns the newest state. Who asks while one is being read waits for that
// read, and no longer than the own context lasts: a slow network takes its time
// once, and not once for each.
func (s *Source) get(ctx context.Context) (*appraise.Registry, *registry.State, error) {
	if st := s.fresh(); st != nil {
		return st.registry, st.proven, nil
	}
	read := s.flight.DoChan("", func() (any, error) {
		if st := s.fresh(); st != nil {
			return st, nil // another read has ended meanwhile
		}
		// Others wait for it, whatever becomes of who asked first.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
		defer cancel()
		reg, st, err := s.load(ctx)
		if err != nil {
			return nil, err
		}
		now := &state{State(s.want.Address, reg, st), reg, time.Now()}
		s.mu.Lock()
		s.last = now
		s.mu.Unlock()
		return now, nil
	})
	select {
	case r := <-read:
		if r.Err != nil {
			return nil, nil, r.Err
		}
		st := r.Val.(*state)
		return st.registry, st.proven, nil
	case <-ctx.Done():
		return nil, nil, fmt.Errorf("waiting for the registry's state: %w", ctx.Err())
	}
}

// fresh returns the last state while it serves, else nil.
func (s *Source) fresh() *state {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.last == nil || time.Since(s.last.read) >= refresh {
		return nil
	}
	return s.last
}

// State puts a registry's proven state into the form of an appraisal. address
// is the registry's, as the policy spells it.
func State(address string, reg *registry.State, st *chain.State) *appraise.Registry {
	out := &appraise.Registry{
		Address: address, NetworkID: st.GlobalID, Time: time.Unix(int64(st.Utime), 0),
		Manifests: map[digest.SHA256]appraise.ManifestState{}, Models: map[digest.SHA256]bool{},
	}
	for hash, m := range reg.Manifests {
		switch m.State {
		case registry.Active:
			out.Manifests[hash] = appraise.ManifestState{Listed: true}
		case registry.Grace:
			out.Manifests[hash] = appraise.ManifestState{Listed: true, Until: m.GraceUntil}
		}
	}
	for root, m := range reg.Models {
		out.Models[root] = m.Active
	}
	return out
}

package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/ledger"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
)

// Ledger says where to read the registry from.
type Ledger struct {
	Config string `json:"config"` // the network's global.config.json
}

// registryRefresh is how long a state that was read serves further
// verifications. The policy bounds its age apart from that.
const (
	registryRefresh = 5 * time.Second
	registryTimeout = 20 * time.Second
)

// registryReader reads the registry's account, proven by the ledger's client,
// at most once every registryRefresh.
type registryReader struct {
	ledger *ledger.Ledger
	addr   toncell.Address
	want   policy.Registry

	mu   sync.Mutex
	last *appraise.Registry
	read time.Time
}

func openRegistry(config string, want *policy.Registry, log *slog.Logger) (*registryReader, error) {
	addr, err := toncell.ParseAddress(want.Address)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "verifier.ledger", "correct the registry's address in the policy", "reading registry address: %w", err)
	}
	c, err := chain.OpenFile(config, chain.Options{})
	if err != nil {
		return nil, fmt.Errorf("opening ledger: %w", err)
	}
	return &registryReader{ledger: ledger.New(c, log), addr: addr, want: *want}, nil
}

// state returns what the registry says now.
func (r *registryReader) state(ctx context.Context) (*appraise.Registry, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.last != nil && time.Since(r.read) < registryRefresh {
		return r.last, nil
	}
	ctx, cancel := context.WithTimeout(ctx, registryTimeout)
	defer cancel()
	s, st, err := r.ledger.Registry(ctx, r.addr)
	if err != nil {
		return nil, err
	}
	out := &appraise.Registry{
		Address: r.want.Address, NetworkID: st.GlobalID, Time: time.Unix(int64(st.Utime), 0),
		Manifests: map[digest.SHA256]appraise.ManifestState{}, Models: map[digest.SHA256]bool{},
	}
	for hash, m := range s.Manifests {
		switch m.State {
		case registry.Active:
			out.Manifests[hash] = appraise.ManifestState{Listed: true}
		case registry.Grace:
			out.Manifests[hash] = appraise.ManifestState{Listed: true, Until: m.GraceUntil}
		}
	}
	for root, m := range s.Models {
		out.Models[root] = m.Active
	}
	r.last, r.read = out, time.Now()
	return out, nil
}

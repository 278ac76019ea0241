package server

import (
	"context"
	"time"

	"cocoon/measurements/digest"
	"cocoon/verifier/internal/lru"
)

// memory is the Journal of a server without one: it keeps the latest verdicts,
// for GetVerdict, and nothing outlives the process.
type memory struct {
	given *lru.Cache[Given]
	clock func() time.Time
}

func newMemory(max int, clock func() time.Time) *memory {
	return &memory{given: lru.New[Given](max), clock: clock}
}

// Append keeps a verdict.
func (m *memory) Append(_ context.Context, g *Given) error {
	key := [32]byte(g.EvidenceSHA256)
	m.given.Put(&key, *g)
	return nil
}

// Get returns the verdict on evidence.
func (m *memory) Get(_ context.Context, evidence digest.SHA256) (Given, bool, error) {
	key := [32]byte(evidence)
	g, ok := m.given.Get(&key)
	return g, ok && m.clock().Before(g.NotAfter), nil
}

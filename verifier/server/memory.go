package server

import (
	"context"
	"sync"
	"time"

	"cocoon/measurements/digest"
)

// memory is the Journal of a server without one: it keeps the latest verdicts,
// for GetVerdict, and nothing outlives the process. What it keeps is bounded in
// bytes: a verdict on a machine with eight GPUs is many times one without.
type memory struct {
	max   int64
	clock func() time.Time

	mu    sync.Mutex
	size  int64 // of what given has
	given map[digest.SHA256]Given
	order []digest.SHA256 // of given, from first on: the oldest first
	first int
}

// givenOverhead is what a verdict takes beside its texts.
const givenOverhead = 512

func newMemory(max int64, clock func() time.Time) *memory {
	return &memory{max: max, clock: clock, given: map[digest.SHA256]Given{}}
}

func sizeOf(g *Given) int64 {
	return int64(len(g.EAR)+len(g.Checks)+len(g.Cell)+len(g.Logged.Promise)) + givenOverhead
}

// Append keeps a verdict, and forgets the oldest where there is no room.
func (m *memory) Append(_ context.Context, g *Given) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	old, again := m.given[g.EvidenceSHA256]
	if again {
		m.size -= sizeOf(&old)
	} else {
		m.order = append(m.order, g.EvidenceSHA256)
	}
	m.given[g.EvidenceSHA256] = *g
	m.size += sizeOf(g)
	for m.size > m.max {
		oldest := m.given[m.order[m.first]]
		m.size -= sizeOf(&oldest)
		delete(m.given, m.order[m.first])
		m.first++
	}
	if m.first > len(m.order)/2 { // each is moved once at most
		m.order = append(m.order[:0], m.order[m.first:]...)
		m.first = 0
	}
	return nil
}

// Get returns the verdict on evidence.
func (m *memory) Get(_ context.Context, evidence digest.SHA256) (Given, bool, error) {
	m.mu.Lock()
	g, ok := m.given[evidence]
	m.mu.Unlock()
	return g, ok && m.clock().Before(g.NotAfter), nil
}

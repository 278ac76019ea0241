package shared

import (
	"context"
	"fmt"
	"time"

	"cocoon/verifier/internal/fetch"
)

// Bounds of what replicas share of what they fetched from the makers' services,
// each until it ends. Who asks for more than they hold fetches.
const (
	MaxFetched      = 1 << 12
	MaxFetchedBytes = 64 << 20
	maxFetched      = 4 << 20 // of one
)

// Fetched is what replicas fetched from the makers of hardware: collateral,
// certificates, revocation lists, manifests and answers about certificates. It is
// bytes alone: each replica verifies what it reads as if the service had sent it.
// See Under, which has the replicas' MACs on them.
type Fetched struct{ *Store }

// Under returns what was fetched by the replicas that have a secret in common, of
// at least 32 bytes, which the store does not have. It is for packages pcs, kds and
// services.
func (s Fetched) Under(secret []byte) (*fetch.Shared, error) { return fetch.NewShared(s, secret) }

func (s Fetched) latest() latest { return latest{s.Store, "fetched", MaxFetched, MaxFetchedBytes} }

// Get returns what is kept under a name, nil where nothing is, and no more than a
// byte over limit.
func (s Fetched) Get(ctx context.Context, name string, limit int) ([]byte, error) {
	b, err := s.rdb.GetRange(ctx, s.latest().key(name), 0, int64(limit)).Bytes()
	if err != nil {
		return nil, fmt.Errorf("asking for what was fetched: %w", err)
	}
	return b, nil
}

// Put keeps bytes under a name for a time.
func (s Fetched) Put(ctx context.Context, name string, b []byte, ttl time.Duration) error {
	if len(b) > maxFetched {
		return fmt.Errorf("sharing what was fetched: %d bytes", len(b))
	}
	if ttl.Milliseconds() <= 0 {
		return nil
	}
	if err := s.latest().put(ctx, name, b, ttl); err != nil {
		return fmt.Errorf("sharing what was fetched: %w", err)
	}
	return nil
}

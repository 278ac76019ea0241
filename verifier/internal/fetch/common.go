package fetch

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"log/slog"
	"time"
)

// Shared is a store that replicas of a service have in common. It is believed
// in nothing: what it has is verified as an answer of the source would be.
type Shared interface {
	// Get returns what is kept under a name, nil where nothing is. What is longer
	// than limit need not be returned whole.
	Get(ctx context.Context, name string, limit int) ([]byte, error)
	// Put keeps bytes under a name for a time.
	Put(ctx context.Context, name string, b []byte, ttl time.Duration) error
}

// SharedFor is the longest that an entry is kept in a Shared: what makers
// publish is mostly good for that long.
const SharedFor = 30 * 24 * time.Hour

// Common keeps entries in a Shared, in the form that a Disk's files have. A nil
// Common has nothing and keeps nothing.
type Common[V any] struct {
	store Shared
	disk  Disk[V]
	log   *slog.Logger
}

// NewCommon returns the entries of a scope (see Disk) in a store; nil without one.
func NewCommon[V any](store Shared, scope string, log *slog.Logger) *Common[V] {
	if store == nil {
		return nil
	}
	return &Common[V]{store: store, disk: Disk[V]{Scope: scope}, log: log}
}

func (c *Common[V]) name(key string) string {
	sum := sha256.Sum256([]byte(c.disk.name(key)))
	return hex.EncodeToString(sum[:])
}

// Load returns the entry of a key, of at most limit bytes; nil where there is
// none that can be read. A store that is away or lies costs a fetch.
func (c *Common[V]) Load(ctx context.Context, key string, limit int) *V {
	if c == nil {
		return nil
	}
	b, err := c.store.Get(ctx, c.name(key), limit)
	if err == nil && len(b) == 0 {
		return nil
	}
	var v *V
	if err == nil {
		v, err = c.disk.Parse(key, b, limit)
	}
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelWarn, "ignoring what the shared store has", slog.String("of", key), slog.Any("error", err))
		return nil
	}
	return v
}

// Store keeps the entry of a key for a time, SharedFor at most.
func (c *Common[V]) Store(ctx context.Context, key string, v *V, ttl time.Duration) {
	if c == nil || ttl <= 0 {
		return
	}
	b, err := c.disk.Marshal(key, v)
	if err == nil {
		err = c.store.Put(ctx, c.name(key), b, min(ttl, SharedFor))
	}
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelWarn, "what was fetched could not be shared", slog.String("of", key), slog.Any("error", err))
	}
}

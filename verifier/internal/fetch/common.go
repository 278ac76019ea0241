package fetch

import (
	"context"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"time"
)

// Store keeps bytes for replicas of a service. It is believed in nothing.
type Store interface {
	// Get returns what is kept under a name, nil where nothing is. What is longer
	// than limit need not be returned whole.
	Get(ctx context.Context, name string, limit int) ([]byte, error)
	// Put keeps bytes under a name for a time.
	Put(ctx context.Context, name string, b []byte, ttl time.Duration) error
}

// Shared is a Store with a key that the replicas have and the store has not.
// What an entry has is verified as an answer of the source would be, but when it
// was fetched no maker signs, and that decides for how long nobody is asked. So
// each entry carries a MAC over its name, its bytes and that time. Without the
// key nobody makes a replica believe that something was fetched lately: whoever
// writes to the store can lose entries, or bring back those of before, which age
// from when a replica fetched them.
type Shared struct {
	store Store
	key   []byte
}

// MinSecret is the shortest secret of replicas in bytes.
const MinSecret = 32

// sharedLabel is what the key is derived for (HKDF-SHA-256, RFC 5869).
const sharedLabel = "cocoon-shared-fetched v1"

// tagSize is the length of a MAC: HMAC-SHA-256 (RFC 2104). It comes first.
const tagSize = sha256.Size

// NewShared returns a store under a secret of its replicas, of at least MinSecret
// bytes.
func NewShared(store Store, secret []byte) (*Shared, error) {
	if len(secret) < MinSecret {
		return nil, fmt.Errorf("deriving key of shared entries: a secret of %d bytes, want %d", len(secret), MinSecret)
	}
	key, err := hkdf.Key(sha256.New, secret, nil, sharedLabel, sha256.Size)
	if err != nil {
		return nil, fmt.Errorf("deriving key of shared entries: %w", err)
	}
	return &Shared{store: store, key: key}, nil
}

// mac authenticates parts, each of a fixed length but for the last.
func (s *Shared) mac(parts ...string) []byte {
	h := hmac.New(sha256.New, s.key)
	for _, p := range parts {
		h.Write([]byte(p))
	}
	return h.Sum(nil)
}

// name is where an entry lies. It has the key in it, so that replicas of another
// secret do not overwrite what they cannot read.
func (s *Shared) name(of string) string { return hex.EncodeToString(s.mac("name  ", of)) }

var errUnauthentic = errors.New("no replica put it there: its MAC is of another key, name or content")

// Open returns the bytes that Seal was given for a name.
func (s *Shared) Open(name string, b []byte) ([]byte, error) {
	if len(b) < tagSize || !hmac.Equal(b[:tagSize], s.mac("entry ", name, string(b[tagSize:]))) {
		return nil, errUnauthentic
	}
	return b[tagSize:], nil
}

// Seal returns bytes for the store, to be kept under a name.
func (s *Shared) Seal(name string, b []byte) []byte {
	return append(s.mac("entry ", name, string(b)), b...)
}

// SharedFor is the longest that an entry is kept in a Store: what makers
// publish is mostly good for that long.
const SharedFor = 30 * 24 * time.Hour

// Common keeps entries in a Shared, in the form that a Disk's files have. A nil
// Common has nothing and keeps nothing.
type Common[V any] struct {
	shared *Shared
	disk   Disk[V]
	log    *slog.Logger
}

// NewCommon returns the entries of a scope (see Disk) in a store; nil without one.
func NewCommon[V any](shared *Shared, scope string, log *slog.Logger) *Common[V] {
	if shared == nil {
		return nil
	}
	return &Common[V]{shared: shared, disk: Disk[V]{Scope: scope}, log: log}
}

func (c *Common[V]) name(key string) string { return c.shared.name(c.disk.name(key)) }

// Load returns the entry of a key, of at most limit bytes, as a replica stored it;
// nil where there is none that can be read. A store that is away or lies costs a
// fetch.
func (c *Common[V]) Load(ctx context.Context, key string, limit int) *V {
	if c == nil {
		return nil
	}
	b, err := c.shared.store.Get(ctx, c.name(key), limit+tagSize)
	if err == nil && len(b) == 0 {
		return nil
	}
	if err == nil {
		b, err = c.shared.Open(c.name(key), b)
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
		name := c.name(key)
		err = c.shared.store.Put(ctx, name, c.shared.Seal(name, b), min(ttl, SharedFor))
	}
	if err != nil {
		c.log.LogAttrs(ctx, slog.LevelWarn, "what was fetched could not be shared", slog.String("of", key), slog.Any("error", err))
	}
}

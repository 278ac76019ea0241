// Package fetchtest has a store that replicas share, for tests of what is kept
// in one: it is honest, or away, or has what somebody made of its entries, with
// the replicas' secret or without.
package fetchtest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"cocoon/verifier/internal/fetch"
)

// Shared is a store under the secret of the test's replicas; nil without a store.
func Shared(s *Store) *fetch.Shared {
	if s == nil {
		return nil
	}
	out, err := fetch.NewShared(s, []byte("a secret of replicas, of the test"))
	if err != nil {
		panic(err)
	}
	return out
}

// Store implements fetch.Store. The zero value is empty.
type Store struct {
	mu   sync.Mutex
	kept map[string][]byte
	ttls map[string]time.Duration
	away bool
}

// ErrAway is what a store that is away answers.
var ErrAway = errors.New("the store is away")

// Away takes the store away, or brings it back.
func (s *Store) Away(away bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away = away
}

// Get implements fetch.Store.
func (s *Store) Get(_ context.Context, name string, _ int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, ErrAway
	}
	return s.kept[name], nil
}

// Put implements fetch.Store.
func (s *Store) Put(_ context.Context, name string, b []byte, ttl time.Duration) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return ErrAway
	}
	if s.kept == nil {
		s.kept, s.ttls = map[string][]byte{}, map[string]time.Duration{}
	}
	s.kept[name], s.ttls[name] = slices.Clone(b), ttl
	return nil
}

// TTLs returns how long each entry was to be kept.
func (s *Store) TTLs() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.ttls))
}

// Spoil returns a store with what change makes of each entry, and of another one,
// with the MACs of a replica: so nothing but what is in an entry gives it away.
func (s *Store) Spoil(change func(entry, other []byte) []byte) *Store {
	replicas := Shared(s)
	open := func(name string, b []byte) []byte {
		doc, err := replicas.Open(name, b)
		if err != nil {
			panic(err)
		}
		return doc
	}
	return s.each(func(name string, b []byte, other string, o []byte) []byte {
		return replicas.Seal(name, change(open(name, b), open(other, o)))
	})
}

// Forge returns a store with what somebody without the replicas' secret makes of
// each entry: change has the document, and its MAC stays.
func (s *Store) Forge(change func(entry []byte) []byte) *Store {
	at := len(Shared(s).Seal("", nil))
	return s.each(func(_ string, b []byte, _ string, _ []byte) []byte { return append(b[:at:at], change(b[at:])...) })
}

// each returns a store with what change makes of each entry and of the next one.
func (s *Store) each(change func(name string, entry []byte, other string, o []byte) []byte) *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Sorted(maps.Keys(s.kept))
	out := &Store{kept: map[string][]byte{}, ttls: map[string]time.Duration{}}
	for i, n := range names {
		other := names[(i+1)%len(names)]
		out.kept[n] = change(n, slices.Clone(s.kept[n]), other, slices.Clone(s.kept[other]))
	}
	return out
}

// Spoilers are what a replica that lies may have made of entries. The member is
// where an entry has its bytes. Unlike the others, the last cannot be told from an
// honest one but by verifying it.
func Spoilers(member string) map[string]func(entry, other []byte) []byte {
	return map[string]func(entry, other []byte) []byte{
		"half of it":   func(e, _ []byte) []byte { return e[:len(e)/2] },
		"no JSON":      func([]byte, []byte) []byte { return []byte("hello") },
		"another's":    func(_, other []byte) []byte { return other },
		"another byte": func(e, _ []byte) []byte { return Flip(e, member) },
	}
}

// Fetched returns an entry that says that it was fetched at a time.
func Fetched(entry []byte, at time.Time) []byte {
	return edit(entry, func(e map[string]any) error {
		e["fetched"] = at.UTC().Format(time.RFC3339Nano)
		return nil
	})
}

// Flip changes the last byte of an entry's bytes.
func Flip(entry []byte, member string) []byte {
	return edit(entry, func(e map[string]any) error {
		b, err := base64.StdEncoding.DecodeString(e[member].(string))
		if err == nil {
			b[len(b)-1] ^= 1
			e[member] = b
		}
		return err
	})
}

func edit(entry []byte, change func(e map[string]any) error) []byte {
	var doc map[string]any
	err := json.Unmarshal(entry, &doc)
	if err == nil {
		if err = change(doc["entry"].(map[string]any)); err == nil {
			entry, err = json.Marshal(doc)
		}
	}
	if err != nil {
		panic(fmt.Sprintf("an entry of another form: %v", err))
	}
	return entry
}

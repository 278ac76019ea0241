// Package fetchtest has a store that replicas share, for tests of what is kept
// in one: it is honest, or away, or has what somebody made of its entries.
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
)

// Store implements fetch.Shared. The zero value is empty.
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

// Get implements fetch.Shared.
func (s *Store) Get(_ context.Context, name string, _ int) ([]byte, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.away {
		return nil, ErrAway
	}
	return s.kept[name], nil
}

// Put implements fetch.Shared.
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

// Spoil returns a store with what change makes of each entry, and of another one.
func (s *Store) Spoil(change func(entry, other []byte) []byte) *Store {
	s.mu.Lock()
	defer s.mu.Unlock()
	names := slices.Sorted(maps.Keys(s.kept))
	out := &Store{kept: map[string][]byte{}, ttls: map[string]time.Duration{}}
	for i, n := range names {
		out.kept[n] = change(slices.Clone(s.kept[n]), slices.Clone(s.kept[names[(i+1)%len(names)]]))
	}
	return out
}

// Spoilers are what a store that lies may have made of its entries. The member
// is where an entry has its bytes. Unlike the others, the last cannot be told
// from an honest one but by verifying it.
func Spoilers(member string) map[string]func(entry, other []byte) []byte {
	return map[string]func(entry, other []byte) []byte{
		"half of it":   func(e, _ []byte) []byte { return e[:len(e)/2] },
		"no JSON":      func([]byte, []byte) []byte { return []byte("hello") },
		"another's":    func(_, other []byte) []byte { return other },
		"another byte": func(e, _ []byte) []byte { return Flip(e, member) },
	}
}

// Flip changes the last byte of an entry's bytes.
func Flip(entry []byte, member string) []byte {
	var doc map[string]any
	err := json.Unmarshal(entry, &doc)
	if err == nil {
		e := doc["entry"].(map[string]any)
		var b []byte
		if b, err = base64.StdEncoding.DecodeString(e[member].(string)); err == nil {
			b[len(b)-1] ^= 1
			e[member] = b
			entry, err = json.Marshal(doc)
		}
	}
	if err != nil {
		panic(fmt.Sprintf("an entry of another form: %v", err))
	}
	return entry
}

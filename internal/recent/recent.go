// Package recent keeps what was found out about large texts that come again and
// again, as the collateral that every machine of a kind brings along. In come a
// text and what else the finding rested on, out comes the finding. A text is known
// by all of its bytes, which costs a fraction of hashing it.
package recent

import (
	"bytes"
	"sync"
)

// List is a bounded list that forgets the least recently used text. Texts are
// looked for one after the other: it is for a few of them. It is safe for
// concurrent use.
type List[K comparable, V any] struct {
	entries, size int // bounds

	mu    sync.Mutex
	known []*entry[K, V] // the latest first
}

type entry[K comparable, V any] struct {
	key   K
	text  []byte
	value V
}

// New returns an empty list of at most entries texts of at most size bytes each.
func New[K comparable, V any](entries, size int) *List[K, V] {
	return &List[K, V]{entries: entries, size: size}
}

// Get returns what is known of a text under a key.
func (l *List[K, V]) Get(key K, text []byte) (v V, ok bool) {
	if len(text) > l.size {
		return v, false
	}
	e := l.find(func(e *entry[K, V]) bool { return e.key == key && bytes.Equal(e.text, text) })
	if e == nil {
		return v, false
	}
	return e.value, true
}

// Prefix returns the length of a text known under a key with which b begins; 0
// where there is none.
func (l *List[K, V]) Prefix(key K, b []byte) int {
	e := l.find(func(e *entry[K, V]) bool { return e.key == key && bytes.HasPrefix(b, e.text) })
	if e == nil {
		return 0
	}
	return len(e.text)
}

// Put keeps what was found of a text, and a copy of the text. One that is too
// large is not kept.
func (l *List[K, V]) Put(key K, text []byte, v V) {
	if len(text) > l.size || l.entries <= 0 {
		return
	}
	e := &entry[K, V]{key, bytes.Clone(text), v}
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, o := range l.known { // another caller's may be there by now
		if o.key == key && bytes.Equal(o.text, text) {
			l.known[i] = e
			return
		}
	}
	if len(l.known) < l.entries {
		l.known = append(l.known, nil)
	}
	copy(l.known[1:], l.known)
	l.known[0] = e
}

// find returns an entry, which becomes the latest.
func (l *List[K, V]) find(is func(*entry[K, V]) bool) *entry[K, V] {
	l.mu.Lock()
	defer l.mu.Unlock()
	for i, e := range l.known {
		if is(e) {
			copy(l.known[1:i+1], l.known)
			l.known[0] = e
			return e
		}
	}
	return nil
}

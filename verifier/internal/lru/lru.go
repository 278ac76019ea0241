// Package lru has a bounded map from SHA-256 hashes to verified things, for the
// verifier's caches: safe for concurrent use, and without allocation on the way.
package lru

import "sync"

// Cache is a bounded map that forgets the least recently used entry. It keeps
// its entries in one array, linked by index, so that neither a hit nor a miss
// in a full cache allocates.
type Cache[V any] struct {
	mu    sync.Mutex
	max   int
	index map[[32]byte]int32
	nodes []node[V]
	head  int32 // most recent; -1: empty
	tail  int32 // least recent
}

type node[V any] struct {
	key        [32]byte
	value      V
	prev, next int32
}

// Bound returns the most entries that the cache holds.
func (l *Cache[V]) Bound() int { return l.max }

// New returns an empty Cache that holds at most max entries; with 0 or fewer it
// holds nothing.
func New[V any](max int) *Cache[V] {
	return &Cache[V]{max: max, index: map[[32]byte]int32{}, head: -1, tail: -1}
}

// Len returns the number of entries.
func (l *Cache[V]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.index)
}

// Get returns the value of a key and marks it as used.
func (l *Cache[V]) Get(key *[32]byte) (V, bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	i, ok := l.index[*key]
	if !ok {
		var zero V
		return zero, false
	}
	l.unlink(i)
	l.pushFront(i)
	return l.nodes[i].value, true
}

// Put sets the value of a key, in the place of the least recently used entry
// where the cache is full.
func (l *Cache[V]) Put(key *[32]byte, v V) {
	if l.max <= 0 {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if i, ok := l.index[*key]; ok {
		l.nodes[i].value = v
		l.unlink(i)
		l.pushFront(i)
		return
	}
	var i int32
	if len(l.nodes) < l.max {
		i = int32(len(l.nodes))
		l.nodes = append(l.nodes, node[V]{})
	} else {
		i = l.tail
		l.unlink(i)
		delete(l.index, l.nodes[i].key)
	}
	l.nodes[i].key, l.nodes[i].value = *key, v
	l.index[*key] = i
	l.pushFront(i)
}

func (l *Cache[V]) unlink(i int32) {
	n := &l.nodes[i]
	if n.prev >= 0 {
		l.nodes[n.prev].next = n.next
	} else {
		l.head = n.next
	}
	if n.next >= 0 {
		l.nodes[n.next].prev = n.prev
	} else {
		l.tail = n.prev
	}
}

func (l *Cache[V]) pushFront(i int32) {
	n := &l.nodes[i]
	n.prev, n.next = -1, l.head
	if l.head >= 0 {
		l.nodes[l.head].prev = i
	} else {
		l.tail = i
	}
	l.head = i
}

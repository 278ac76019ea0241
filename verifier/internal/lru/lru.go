// Package lru has the bounded map in which verifications are kept: in come
// SHA-256 keys over everything that a verification depended on, out comes what
// it found.
package lru

import "sync"

// Cache is a bounded map that forgets the least recently used entry. It keeps
// its entries in one array, linked by index, so that neither a hit nor a miss
// in a full cache allocates. It is safe for concurrent use.
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

// New returns an empty cache of at most max entries; of none where max is not
// positive.
func New[V any](max int) *Cache[V] {
	return &Cache[V]{max: max, index: map[[32]byte]int32{}, head: -1, tail: -1}
}

// Max returns the bound that New was given.
func (l *Cache[V]) Max() int { return l.max }

// Len returns the number of entries.
func (l *Cache[V]) Len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.index)
}

// Get returns the entry of a key, if there is one.
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

// Put sets the entry of a key.
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

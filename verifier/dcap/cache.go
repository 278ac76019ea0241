package dcap

import (
	"crypto/ecdsa"
	"sync"
)

// Default bounds of a Cache.
const (
	DefaultChains  = 4096  // PCK chains: one for each platform
	DefaultReports = 16384 // QE reports: one for each attestation key
)

// Cache keeps what need not be verified twice: PCK chains, and QE reports
// where CacheOptions.Reports allows. An entry's key is the SHA-256 of
// everything that its verification depended on, the hash of the collateral
// set (and so the CRLs) and of the roots among it: an entry made under other
// collateral is never found again. Times are checked at each verification.
// It is bounded and safe for concurrent use.
type Cache struct {
	chains  lru[*Entry]
	reports lru[*ecdsa.PublicKey]
}

// CacheOptions bound a Cache.
type CacheOptions struct {
	Chains  int // most PCK chains kept; 0: DefaultChains
	Reports int // most QE reports kept; 0: DefaultReports; negative: none
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	if o.Chains == 0 {
		o.Chains = DefaultChains
	}
	if o.Reports == 0 {
		o.Reports = DefaultReports
	}
	return &Cache{chains: newLRU[*Entry](o.Chains), reports: newLRU[*ecdsa.PublicKey](o.Reports)}
}

// Len returns the number of chains and QE reports kept.
func (c *Cache) Len() (chains, reports int) { return c.chains.len(), c.reports.len() }

// lru is a bounded map that forgets the least recently used entry. It keeps
// its entries in one array, linked by index, so that neither a hit nor a miss
// in a full cache allocates.
type lru[V any] struct {
	mu    sync.Mutex
	max   int
	index map[[32]byte]int32
	nodes []lruNode[V]
	head  int32 // most recent; -1: empty
	tail  int32 // least recent
}

type lruNode[V any] struct {
	key        [32]byte
	value      V
	prev, next int32
}

func newLRU[V any](max int) lru[V] {
	return lru[V]{max: max, index: map[[32]byte]int32{}, head: -1, tail: -1}
}

func (l *lru[V]) len() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.index)
}

func (l *lru[V]) get(key *[32]byte) (V, bool) {
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

func (l *lru[V]) put(key *[32]byte, v V) {
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
		l.nodes = append(l.nodes, lruNode[V]{})
	} else {
		i = l.tail
		l.unlink(i)
		delete(l.index, l.nodes[i].key)
	}
	l.nodes[i].key, l.nodes[i].value = *key, v
	l.index[*key] = i
	l.pushFront(i)
}

func (l *lru[V]) unlink(i int32) {
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

func (l *lru[V]) pushFront(i int32) {
	n := &l.nodes[i]
	n.prev, n.next = -1, l.head
	if l.head >= 0 {
		l.nodes[l.head].prev = i
	} else {
		l.tail = i
	}
	l.head = i
}

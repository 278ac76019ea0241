package rim

import (
	"crypto/sha256"
	"sync"
)

// maxCached is how many documents a Cache keeps; a full one is emptied, which
// costs a few milliseconds for each document that is used again.
const maxCached = 256

// Cache keeps documents that verified, by the hash of their bytes and of the
// roots. Times are checked at each verification. It is safe for concurrent
// use; a nil Cache keeps nothing.
type Cache struct {
	mu   sync.Mutex
	docs map[cacheKey]*Document
}

type cacheKey struct{ doc, roots [32]byte }

// NewCache returns an empty cache.
func NewCache() *Cache { return &Cache{docs: map[cacheKey]*Document{}} }

func (c *Cache) get(doc []byte, roots *Roots) *Document {
	if c == nil {
		return nil
	}
	key := cacheKey{sha256.Sum256(doc), roots.hash}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.docs[key]
}

func (c *Cache) put(doc []byte, roots *Roots, d *Document) {
	if c == nil {
		return
	}
	key := cacheKey{sha256.Sum256(doc), roots.hash}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.docs) >= maxCached {
		clear(c.docs)
	}
	c.docs[key] = d
}

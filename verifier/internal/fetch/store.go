package fetch

import (
	"container/list"
	"fmt"
	"os"
	"path/filepath"
)

// LRU is a bounded map that forgets what was used least recently. It is not
// safe for concurrent use.
type LRU[K comparable, V any] struct {
	max   int
	order *list.List // of lruItem, most recent first
	items map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
}

// NewLRU returns an empty map for limit entries.
func NewLRU[K comparable, V any](limit int) *LRU[K, V] {
	return &LRU[K, V]{max: limit, order: list.New(), items: map[K]*list.Element{}}
}

// Get returns an entry and marks it as used.
func (l *LRU[K, V]) Get(key K) (V, bool) {
	el, ok := l.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	l.order.MoveToFront(el)
	return el.Value.(*lruItem[K, V]).value, true
}

// Put stores an entry and forgets the least recently used one over the limit.
func (l *LRU[K, V]) Put(key K, value V) {
	if el, ok := l.items[key]; ok {
		el.Value.(*lruItem[K, V]).value = value
		l.order.MoveToFront(el)
		return
	}
	l.items[key] = l.order.PushFront(&lruItem[K, V]{key, value})
	if l.order.Len() > l.max {
		last := l.order.Back()
		l.order.Remove(last)
		delete(l.items, last.Value.(*lruItem[K, V]).key)
	}
}

// Remove forgets an entry.
func (l *LRU[K, V]) Remove(key K) {
	if el, ok := l.items[key]; ok {
		l.order.Remove(el)
		delete(l.items, key)
	}
}

// WriteAtomic writes a file by way of a temporary one beside it, so that a
// reader sees the old file or the new one and a crash leaves no half.
func WriteAtomic(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err == nil {
		err = f.Sync()
	}
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

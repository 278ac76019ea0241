package pcs

import (
	"container/list"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/jcs"
	"cocoon/verifier/internal/atomicfile"
)

// lru is a bounded map that forgets what was used least recently. It is not
// safe for concurrent use: Client's mutex guards it.
type lru[K comparable, V any] struct {
	max   int
	order *list.List // of lruItem, most recent first
	items map[K]*list.Element
}

type lruItem[K comparable, V any] struct {
	key   K
	value V
}

func newLRU[K comparable, V any](limit int) *lru[K, V] {
	return &lru[K, V]{max: limit, order: list.New(), items: map[K]*list.Element{}}
}

func (l *lru[K, V]) get(key K) (V, bool) {
	el, ok := l.items[key]
	if !ok {
		var zero V
		return zero, false
	}
	l.order.MoveToFront(el)
	return el.Value.(*lruItem[K, V]).value, true
}

func (l *lru[K, V]) put(key K, value V) {
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

func (l *lru[K, V]) remove(key K) {
	if el, ok := l.items[key]; ok {
		l.order.Remove(el)
		delete(l.items, key)
	}
}

// entry is a part with the times that decide when it is asked for again.
// Issue and Next are hints: what is returned is always judged by
// collateral.Verify, so a wrong hint costs a request and never trust.
type entry struct {
	part
	Fetched time.Time `json:"fetched"`
	Issue   time.Time `json:"issue"`
	Next    time.Time `json:"next"`
}

// covers reports whether the entry's own times include now.
func (e *entry) covers(now time.Time) bool {
	return !now.Before(e.Issue) && !now.After(e.Next)
}

// file is the shape of a cache file. Name guards against files that were
// moved; the format's version is part of it.
type file struct {
	Name  string `json:"name"`
	Entry entry  `json:"entry"`
}

// disk keeps parts as files, one each. It is believed in nothing: an
// unreadable, foreign or corrupt file is a miss.
type disk struct {
	dir   string
	scope string // source and roots; entries of other scopes are never seen
}

// name identifies a part within its scope.
func (d *disk) name(ref partRef) string { return "v1 " + d.scope + " " + ref.String() }

func (d *disk) path(ref partRef) string {
	sum := sha256.Sum256([]byte(d.name(ref)))
	return filepath.Join(d.dir, hex.EncodeToString(sum[:16])+".json")
}

// errMiss is returned for a part that is not there.
var errMiss = errors.New("not cached")

// load reads a part. Any error means a miss; the text is for the log.
func (d *disk) load(ref partRef) (*entry, error) {
	f, err := os.Open(d.path(ref))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errMiss
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Base64 in JSON is a third longer than what it holds.
	limit := 2*ref.kind.limit() + 2*maxHeader
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	e, err := d.parse(ref, b, limit)
	if err != nil {
		return nil, fmt.Errorf("reading cache file %s: %w", f.Name(), err)
	}
	return e, nil
}

// parse reads what a cache file holds.
func (d *disk) parse(ref partRef, b []byte, limit int) (*entry, error) {
	var doc file
	if err := jcs.Decode(b, limit, &doc); err != nil {
		return nil, err
	}
	if doc.Name != d.name(ref) {
		return nil, fmt.Errorf("it holds %.128q", doc.Name)
	}
	return &doc.Entry, nil
}

// store writes a part: to a temporary file first, which then takes the
// place, so that a reader sees the old file or the new one and a crash
// leaves no half.
func (d *disk) store(ref partRef, e *entry) error {
	b, err := jcs.Marshal(file{Name: d.name(ref), Entry: *e})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("making cache directory: %w", err)
	}
	return atomicfile.Write(d.path(ref), b)
}

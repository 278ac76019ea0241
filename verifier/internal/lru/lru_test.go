package lru

import (
	"testing"
)

func TestLRUForgetsTheLeastRecentlyUsed(t *testing.T) {
	key := func(n byte) *[32]byte { return &[32]byte{n} }
	l := New[int](3)
	for n := range byte(3) {
		l.Put(key(n), int(n))
	}
	l.Get(key(0))     // 1 is now the oldest
	l.Put(key(2), 20) // known: replaced, not added
	l.Put(key(3), 3)  // 1 goes
	l.Put(key(4), 4)  // 0 goes
	want := map[byte]int{2: 20, 3: 3, 4: 4}
	for n := range byte(6) {
		v, ok := l.Get(key(n))
		if w, has := want[n]; ok != has || v != w {
			t.Errorf("key %d: %d, %t", n, v, ok)
		}
	}
	if l.Len() != 3 || len(l.nodes) != 3 {
		t.Errorf("%d entries in %d nodes", l.Len(), len(l.nodes))
	}
	for n := range byte(100) {
		l.Put(key(n), int(n))
	}
	if v, ok := l.Get(key(99)); !ok || v != 99 || l.Len() != 3 || len(l.nodes) != 3 {
		t.Errorf("after 100 more: %d entries in %d nodes", l.Len(), len(l.nodes))
	}
	none := New[int](-1)
	none.Put(key(1), 1)
	if none.Len() != 0 {
		t.Error("a cache without room kept an entry")
	}
}

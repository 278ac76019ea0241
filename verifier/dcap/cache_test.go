package dcap

import (
	"testing"
)

func TestLRUForgetsTheLeastRecentlyUsed(t *testing.T) {
	key := func(n byte) *[32]byte { return &[32]byte{n} }
	l := newLRU[int](3)
	for n := range byte(3) {
		l.put(key(n), int(n))
	}
	l.get(key(0))     // 1 is now the oldest
	l.put(key(2), 20) // known: replaced, not added
	l.put(key(3), 3)  // 1 goes
	l.put(key(4), 4)  // 0 goes
	want := map[byte]int{2: 20, 3: 3, 4: 4}
	for n := range byte(6) {
		v, ok := l.get(key(n))
		if w, has := want[n]; ok != has || v != w {
			t.Errorf("key %d: %d, %t", n, v, ok)
		}
	}
	if l.len() != 3 || len(l.nodes) != 3 {
		t.Errorf("%d entries in %d nodes", l.len(), len(l.nodes))
	}
	for n := range byte(100) {
		l.put(key(n), int(n))
	}
	if v, ok := l.get(key(99)); !ok || v != 99 || l.len() != 3 || len(l.nodes) != 3 {
		t.Errorf("after 100 more: %d entries in %d nodes", l.len(), len(l.nodes))
	}
	none := newLRU[int](-1)
	none.put(key(1), 1)
	if none.len() != 0 {
		t.Error("a cache without room kept an entry")
	}
}

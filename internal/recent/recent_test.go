package recent

import (
	"sync"
	"testing"
)

func TestKnowsATextByAllOfIt(t *testing.T) {
	l := New[int, string](4, 16)
	l.Put(1, []byte("a text"), "found")
	for name, c := range map[string]struct {
		key  int
		text string
		want string
	}{
		"the text":                   {1, "a text", "found"},
		"another of its length":      {1, "a texT", ""},
		"its beginning":              {1, "a tex", ""},
		"more than it":               {1, "a text!", ""},
		"the text under another key": {2, "a text", ""},
		"nothing":                    {1, "", ""},
	} {
		if got, ok := l.Get(c.key, []byte(c.text)); got != c.want || ok != (c.want != "") {
			t.Errorf("%s: got %q, %v", name, got, ok)
		}
	}
	for in, want := range map[string]int{"a text": 6, "a text and more": 6, "a tex": 0, "A text and more": 0} {
		if got := l.Prefix(1, []byte(in)); got != want {
			t.Errorf("prefix of %q: %d bytes, want %d", in, got, want)
		}
	}
	if l.Prefix(2, []byte("a text")) != 0 {
		t.Error("found under another key")
	}
}

func TestForgetsTheLeastRecentlyUsed(t *testing.T) {
	l := New[int, int](3, 4)
	put := func(s string) { l.Put(0, []byte(s), len(s)) }
	known := func(s string) bool { _, ok := l.Get(0, []byte(s)); return ok }
	for _, s := range []string{"a", "b", "c"} {
		put(s)
	}
	known("a")
	put("b") // known: replaced, not added
	put("d")
	if !known("a") || known("b") || !known("c") || !known("d") {
		t.Error("the wrong text was forgotten")
	}
	put("large")
	if known("large") {
		t.Error("a text over the limit is kept")
	}
}

func TestKeepsACopy(t *testing.T) {
	l := New[int, int](1, 16)
	text := []byte("before")
	l.Put(0, text, 1)
	copy(text, "after!")
	if _, ok := l.Get(0, text); ok {
		t.Error("the caller's bytes are kept")
	}
}

func TestIsSafeForConcurrentUse(t *testing.T) {
	l := New[int, int](4, 16)
	var wg sync.WaitGroup
	for g := range 4 {
		wg.Go(func() {
			for i := range 1000 {
				text := []byte{byte(i % 6), byte(g % 2)}
				if v, ok := l.Get(0, text); ok && v != i%6 {
					t.Errorf("got %d, want %d", v, i%6)
				}
				l.Put(0, text, i%6)
			}
		})
	}
	wg.Wait()
}

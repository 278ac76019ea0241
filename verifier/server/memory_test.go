package server

import (
	"context"
	"strings"
	"testing"
	"time"

	"cocoon/measurements/digest"
)

// TestVerdictsAreKeptWithinTheirBytes gives small and large ones: the latest are
// there, as many as there is room for, and what is counted is what is kept.
func TestVerdictsAreKeptWithinTheirBytes(t *testing.T) {
	const max = 100 << 10
	now := time.Unix(1_800_000_000, 0)
	m := newMemory(max, func() time.Time { return now })
	ctx := context.Background()
	key := func(i int) digest.SHA256 { return digest.Sum256([]byte{byte(i), byte(i >> 8)}) }
	for i := range 1000 {
		g := Given{EvidenceSHA256: key(i), EAR: strings.Repeat("e", i*37%(20<<10)), Cell: "c", NotAfter: now.Add(time.Second)}
		if err := m.Append(ctx, &g); err != nil {
			t.Fatal(err)
		}
		if i%3 == 0 { // the same again
			if err := m.Append(ctx, &g); err != nil {
				t.Fatal(err)
			}
		}
		var size int64
		for _, g := range m.given {
			size += sizeOf(&g)
		}
		if size != m.size || size > max || len(m.order)-m.first != len(m.given) {
			t.Fatalf("after %d: %d bytes counted, %d kept; %d in order, %d kept", i, m.size, size, len(m.order)-m.first, len(m.given))
		}
	}
	kept := len(m.given)
	if kept < 3 || kept > max/givenOverhead || len(m.order) > 3*kept+8 {
		t.Errorf("%d are kept, in a list of %d", kept, len(m.order))
	}
	for i := range 1000 {
		g, ok, err := m.Get(ctx, key(i))
		if want := i >= 1000-kept; ok != want || err != nil || ok && len(g.EAR) != i*37%(20<<10) {
			t.Errorf("verdict %d: there %v, want %v, %v", i, ok, want, err)
		}
	}
	now = now.Add(time.Second)
	if _, ok, _ := m.Get(ctx, key(999)); ok {
		t.Error("an expired verdict is there")
	}
	// One that is larger than all the room is not kept, and nothing else is.
	if err := m.Append(ctx, &Given{EvidenceSHA256: key(5000), EAR: strings.Repeat("e", max)}); err != nil || len(m.given) != 0 || m.size != 0 {
		t.Errorf("%d kept, %d bytes, %v", len(m.given), m.size, err)
	}
}

package rtmr

import (
	"encoding/binary"
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func layout() HOB {
	return HOB{Base: 0x809000, Accepted: []Range{{0x800000, 0x6000}, {0x809000, 0x2000}, {0x80b000, 0x2000}}}
}

// stretch is a resource of the list, as it is read back.
type stretch struct {
	accepted      bool
	start, length uint64
}

func read(t *testing.T, b []byte) (end uint64, out []stretch) {
	t.Helper()
	le := binary.LittleEndian
	end = le.Uint64(b[48:])
	for b = b[56:]; len(b) > 0; b = b[48:] {
		if le.Uint16(b) != 3 || le.Uint16(b[2:]) != 48 || le.Uint32(b[28:]) != 7 {
			t.Fatalf("resource % x", b[:48])
		}
		out = append(out, stretch{le.Uint32(b[24:]) == resourceMemory, le.Uint64(b[32:]), le.Uint64(b[40:])})
	}
	return end, out
}

func TestMemoryIsDescribedInTheOrderOfAddresses(t *testing.T) {
	common := []stretch{{false, 0, 0x800000}, {true, 0x800000, 0x6000}, {false, 0x806000, 0x3000}, {true, 0x809000, 0x2000}, {true, 0x80b000, 0x2000}}
	for name, c := range map[string]struct {
		memory uint64
		rest   []stretch
	}{
		"1 GiB":        {1 << 30, []stretch{{false, 0x80d000, 1<<30 - 0x80d000}}},
		"2.7 GiB":      {splitAt - 1<<20, []stretch{{false, 0x80d000, splitAt - 1<<20 - 0x80d000}}},
		"at the split": {splitAt, []stretch{{false, 0x80d000, lowSplit - 0x80d000}, {false, fourGiB, splitAt - lowSplit}}},
		"1 TiB":        {1 << 40, []stretch{{false, 0x80d000, lowSplit - 0x80d000}, {false, fourGiB, 1<<40 - lowSplit}}},
	} {
		h := layout()
		b, err := h.Bytes(c.memory)
		if err != nil {
			t.Fatal(err)
		}
		end, got := read(t, b)
		if diff := cmp.Diff(append(append([]stretch{}, common...), c.rest...), got, cmp.AllowUnexported(stretch{})); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if end != 0x809000+uint64(len(b))+8 {
			t.Errorf("%s: the list ends at %#x", name, end)
		}
	}
}

func TestMachinesWithoutADescriptionAreRefused(t *testing.T) {
	with := func(change func(*HOB)) HOB {
		h := layout()
		change(&h)
		return h
	}
	for name, c := range map[string]struct {
		h      HOB
		memory uint64
	}{
		"no memory": {layout(), 0}, "too little": {layout(), 8 << 20}, "not whole": {layout(), 1<<30 + 1}, "too much": {layout(), 1 << 50},
		"no place":    {with(func(h *HOB) { h.Base = 0 }), 1 << 30},
		"no range":    {with(func(h *HOB) { h.Accepted = nil }), 1 << 30},
		"overlapping": {with(func(h *HOB) { h.Accepted[1].Start = 0x805000 }), 1 << 30},
		"half a page": {with(func(h *HOB) { h.Accepted[0].Length = 0x6800 }), 1 << 30},
		"above 4 GiB": {with(func(h *HOB) { h.Accepted[2].Start = fourGiB }), 16 << 30},
		"in the hole": {with(func(h *HOB) { h.Accepted[2].Start = 0x90000000 }), 16 << 30},
		"wrapping":    {with(func(h *HOB) { h.Accepted[2].Length = 1<<64 - 4096 }), 1 << 30},
	} {
		if _, err := c.h.Bytes(c.memory); !errors.Is(err, ErrMachine) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

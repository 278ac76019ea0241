package toncell

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"math/big"
	"testing"

	"github.com/xssnick/tonutils-go/tvm/cell"
	"pgregory.net/rapid"
)

var limits = Limits{Bytes: 4096, Cells: 64, Depth: 32}

func TestBuilderAndReaderAreInverse(t *testing.T) {
	addr := Address{Workchain: -1, Hash: sha256.Sum256([]byte("a"))}
	ref, err := NewBuilder().Uint(7, 8).Cell()
	if err != nil {
		t.Fatal(err)
	}
	c, err := NewBuilder().Uint(0xabcd, 16).Int32(-239).Bool(true).Coins(0).Coins(1).Coins(1<<64 - 1).
		Addr(addr).OptAddr(nil).Bits256(addr.Hash).MaybeRef(nil).MaybeRef(ref).Ref(ref).Cell()
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader(c)
	if r.Uint(16) != 0xabcd || r.Int32() != -239 || !r.Bool() || r.Coins() != 0 || r.Coins() != 1 || r.Coins() != 1<<64-1 ||
		r.Addr() != addr || r.OptAddr() != nil || r.Bits256() != addr.Hash || r.MaybeRef() != nil || r.MaybeRef() == nil || r.Ref() == nil {
		t.Error("what was read is not what was written")
	}
	if err := r.End(); err != nil {
		t.Error(err)
	}
}

func TestReaderRefusesWhatIsNotThere(t *testing.T) {
	empty, err := NewBuilder().Cell()
	if err != nil {
		t.Fatal(err)
	}
	bits := func(f func(*Builder) *Builder) *cell.Cell {
		c, err := f(NewBuilder()).Cell()
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	for name, tc := range map[string]struct {
		c    *cell.Cell
		read func(*Reader)
	}{
		"bits past the end":       {empty, func(r *Reader) { r.Uint(1) }},
		"bytes past the end":      {empty, func(r *Reader) { r.Bytes(3) }},
		"a missing reference":     {empty, func(r *Reader) { r.Ref() }},
		"a missing cell":          {nil, func(r *Reader) { r.Uint(1) }},
		"another tag":             {bits(func(b *Builder) *Builder { return b.Uint(1, 32) }), func(r *Reader) { r.Tag(2) }},
		"bits after the end":      {bits(func(b *Builder) *Builder { return b.Uint(1, 2) }), func(r *Reader) { r.Uint(1) }},
		"a reference after it":    {bits(func(b *Builder) *Builder { return b.Ref(empty) }), func(r *Reader) {}},
		"an external address":     {bits(func(b *Builder) *Builder { return b.Uint(1, 2) }), func(r *Reader) { r.OptAddr() }},
		"no address":              {bits(func(b *Builder) *Builder { return b.OptAddr(nil) }), func(r *Reader) { r.Addr() }},
		"an anycast address":      {bits(func(b *Builder) *Builder { return b.Uint(5, 3).Uint(0, 64) }), func(r *Reader) { r.OptAddr() }},
		"coins over 64 bits":      {bits(func(b *Builder) *Builder { return b.Uint(9, 4).Uint(1, 8).Uint(0, 64) }), func(r *Reader) { r.Coins() }},
		"coins in too many bytes": {bits(func(b *Builder) *Builder { return b.Uint(2, 4).Uint(7, 16) }), func(r *Reader) { r.Coins() }},
	} {
		r := NewReader(tc.c)
		tc.read(r)
		if err := r.End(); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestDictReadsWhatTheLibraryWrites(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		d := NewDict()
		want := map[[32]byte]uint64{}
		for range rapid.IntRange(0, 40).Draw(t, "n") {
			key := sha256.Sum256([]byte{rapid.Byte().Draw(t, "key")})
			if rapid.Bool().Draw(t, "near") { // shared prefixes and runs of one bit
				key = [32]byte{31: rapid.Byte().Draw(t, "low")}
			}
			v := rapid.Uint64().Draw(t, "v")
			c, err := NewBuilder().Uint(v, 64).Cell()
			if err != nil {
				t.Fatal(err)
			}
			if err := SetDict256(d, key, c); err != nil {
				t.Fatal(err)
			}
			want[key] = v
		}
		c, err := NewBuilder().Dict(d).Cell()
		if err != nil {
			t.Fatal(err)
		}
		last := big.NewInt(-1)
		r := NewReader(c)
		r.Dict(256, len(want), func(k *big.Int, v *Reader) error {
			if k.Cmp(last) <= 0 {
				t.Fatalf("key %x after %x", k, last)
			}
			last = k
			if got := v.Uint(64); got != want[Key256(k)] {
				t.Fatalf("key %x has %d, want %d", k, got, want[Key256(k)])
			}
			delete(want, Key256(k))
			return v.End()
		})
		if err := r.End(); err != nil || len(want) != 0 {
			t.Fatalf("%v, %d entries not read", err, len(want))
		}
	})
}

// A few cells that share children would be 2^256 entries.
func TestDictOfSharedCellsEndsAtItsLimit(t *testing.T) {
	c, err := NewBuilder().Uint(0, 2).Cell() // hml_short of length 0: a leaf at depth 256
	if err != nil {
		t.Fatal(err)
	}
	for range 256 {
		if c, err = NewBuilder().Uint(0, 2).Ref(c).Ref(c).Cell(); err != nil {
			t.Fatal(err)
		}
	}
	root, err := NewBuilder().MaybeRef(c).Cell()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	r := NewReader(root)
	r.Dict(256, 1000, func(*big.Int, *Reader) error { n++; return nil })
	if err := r.End(); !errors.Is(err, ErrMalformed) || n != 1000 {
		t.Errorf("%v after %d entries", err, n)
	}
}

func TestAddressesInBothForms(t *testing.T) {
	a := Address{Workchain: 0, Hash: sha256.Sum256([]byte("x"))}
	for _, s := range []string{a.String(), a.Addr().String(), a.Addr().Bounce(false).String()} {
		if got, err := ParseAddress(s); err != nil || got != a {
			t.Errorf("%s: %v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "0:", "0:00", "300:" + a.String()[2:], "+0" + a.String()[1:], a.Addr().String()[:47] + "A", "x" + a.String(), a.String() + "00"} {
		if got, err := ParseAddress(s); err == nil {
			t.Errorf("%q was read as %v", s, got)
		}
	}
}

func TestParseBOCKeepsItsLimits(t *testing.T) {
	chain := func(n int) *cell.Cell {
		var c *cell.Cell
		for i := range n {
			b := NewBuilder().Uint(uint64(i), 16)
			if c != nil {
				b.Ref(c)
			}
			var err error
			if c, err = b.Cell(); err != nil {
				t.Fatal(err)
			}
		}
		return c
	}
	good := chain(20)
	got, err := ParseBOC(good.ToBOC(), limits)
	if err != nil || !bytes.Equal(got.Hash(), good.Hash()) {
		t.Fatalf("%v", err)
	}
	huge := good.ToBOC()
	huge[6] = 0xff // cell count
	for name, b := range map[string][]byte{
		"empty": nil, "too deep": chain(40).ToBOC(), "too many cells": chain(65).ToBOC(),
		"cut short": good.ToBOC()[:30], "a count that is not there": huge, "no magic": make([]byte, 64), "too long": make([]byte, 5000),
	} {
		if _, err := ParseBOC(b, limits); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseBOC(f *testing.F) {
	c, err := NewBuilder().Uint(1, 7).Cell()
	if err != nil {
		f.Fatal(err)
	}
	d, err := NewBuilder().Ref(c).Ref(c).Uint(5, 64).Cell()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.ToBOC())
	f.Add(d.ToBOC())
	f.Add(d.ToBOCWithFlags(false))
	f.Fuzz(func(t *testing.T, b []byte) {
		root, err := ParseBOC(b, limits)
		if err != nil {
			return
		}
		r := NewReader(root)
		r.Dict(256, 100, func(*big.Int, *Reader) error { return nil })
		if again, err := ParseBOC(root.ToBOC(), limits); err != nil || !bytes.Equal(again.Hash(), root.Hash()) {
			t.Fatalf("a parsed bag does not survive: %v", err)
		}
	})
}

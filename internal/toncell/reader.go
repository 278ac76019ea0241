package toncell

import (
	"fmt"
	"math/big"
	"math/bits"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Reader takes a cell apart. After the first error every read returns zero
// values; End returns that error.
type Reader struct {
	s   *cell.Slice
	err error
}

// NewReader starts at the first bit of c; a nil or exotic cell is an error.
func NewReader(c *cell.Cell) *Reader {
	if c == nil {
		return &Reader{err: fmt.Errorf("reading a missing cell: %w", ErrMalformed)}
	}
	if c.GetType() != cell.OrdinaryCellType {
		return &Reader{err: fmt.Errorf("reading an exotic cell: %w", ErrMalformed)}
	}
	return &Reader{s: c.BeginParse()}
}

func (r *Reader) fail(what string, err error) {
	if r.err == nil {
		r.err = fmt.Errorf("reading %s: %w: %w", what, ErrMalformed, err)
	}
}

// Fail records an error of the caller's.
func (r *Reader) Fail(format string, args ...any) {
	if r.err == nil {
		r.err = fmt.Errorf("%w: "+format, append([]any{ErrMalformed}, args...)...)
	}
}

// Err returns the first error.
func (r *Reader) Err() error { return r.err }

// End returns the first error, or one if bits or references are left.
func (r *Reader) End() error {
	if r.err == nil && (r.s.BitsLeft() != 0 || r.s.RefsNum() != 0) {
		r.Fail("%d bits and %d references after the end", r.s.BitsLeft(), r.s.RefsNum())
	}
	return r.err
}

// Uint reads n ≤ 64 bits, big-endian.
func (r *Reader) Uint(n uint) uint64 {
	if r.err != nil {
		return 0
	}
	v, err := r.s.LoadUInt(n)
	if err != nil {
		r.fail(fmt.Sprintf("uint%d", n), err)
		return 0
	}
	return v
}

// Int32 reads a signed 32-bit integer.
func (r *Reader) Int32() int32 { return int32(uint32(r.Uint(32))) }

// Bool reads one bit.
func (r *Reader) Bool() bool { return r.Uint(1) == 1 }

// Tag reads a 32-bit constructor tag and refuses another one.
func (r *Reader) Tag(want uint32) {
	if got := uint32(r.Uint(32)); r.err == nil && got != want {
		r.Fail("tag %08x, want %08x", got, want)
	}
}

// Bytes reads n whole bytes.
func (r *Reader) Bytes(n int) []byte {
	if r.err != nil {
		return make([]byte, n)
	}
	b, err := r.s.LoadSlice(uint(n) * 8)
	if err != nil || len(b) != n {
		r.fail(fmt.Sprintf("%d bytes", n), err)
		return make([]byte, n)
	}
	return b
}

// Bits256 reads a 256-bit value.
func (r *Reader) Bits256() [32]byte { return [32]byte(r.Bytes(32)) }

// Coins reads an amount of nanoton (VarUInteger 16); more than 2^64-1, which
// no network has, is an error.
func (r *Reader) Coins() uint64 {
	if r.err != nil {
		return 0
	}
	n := uint(r.Uint(4)) * 8
	if r.err != nil || n == 0 {
		return 0
	}
	v, err := r.s.LoadBigUInt(n)
	if err != nil {
		r.fail("coins", err)
		return 0
	}
	if !v.IsUint64() {
		r.Fail("amount %s is over 2^64-1", v)
		return 0
	}
	// A longer encoding of the same number would give one amount two hashes.
	if uint(v.BitLen()+7)/8*8 != n {
		r.Fail("amount %s in %d bits", v, n)
		return 0
	}
	return v.Uint64()
}

// OptAddr reads addr_none (nil) or addr_std without anycast.
func (r *Reader) OptAddr() *Address {
	switch kind := r.Uint(2); {
	case r.err != nil:
		return nil
	case kind == 0:
		return nil
	case kind == 2:
		if r.Bool() {
			r.Fail("anycast address")
			return nil
		}
		a := &Address{Workchain: int8(uint8(r.Uint(8)))}
		a.Hash = r.Bits256()
		return a
	default:
		r.Fail("address kind %d", kind)
		return nil
	}
}

// Addr reads addr_std without anycast.
func (r *Reader) Addr() Address {
	a := r.OptAddr()
	if a == nil {
		if r.err == nil {
			r.Fail("address missing")
		}
		return Address{}
	}
	return *a
}

// Ref reads the next reference; nil after an error.
func (r *Reader) Ref() *cell.Cell {
	if r.err != nil {
		return nil
	}
	c, err := r.s.LoadRefCell()
	if err != nil {
		r.fail("reference", err)
		return nil
	}
	return c
}

// MaybeRef reads a bit and, where it is set, a reference.
func (r *Reader) MaybeRef() *cell.Cell {
	if !r.Bool() {
		return nil
	}
	return r.Ref()
}

// Dict reads a HashmapE with keyBits-bit keys and calls each with the key and
// a reader over the value, in ascending order. More than limit entries are an
// error: shared cells could make few cells into endless entries.
func (r *Reader) Dict(keyBits, limit int, each func(key *big.Int, value *Reader) error) {
	root := r.MaybeRef()
	if r.err != nil || root == nil {
		return
	}
	w := dictWalk{limit: limit, each: each}
	if err := w.node(root, keyBits, new(big.Int)); err != nil {
		r.fail("dictionary", err)
	}
}

type dictWalk struct {
	limit, count int
	each         func(*big.Int, *Reader) error
}

// node reads hm_edge: a label, then a leaf or two branches.
func (w *dictWalk) node(c *cell.Cell, left int, prefix *big.Int) error {
	r := NewReader(c)
	n, label := r.label(left)
	if r.err != nil {
		return r.err
	}
	key := new(big.Int).Or(new(big.Int).Lsh(prefix, uint(n)), label)
	left -= n
	if left == 0 {
		if w.count++; w.count > w.limit {
			return fmt.Errorf("more than %d entries: %w", w.limit, ErrMalformed)
		}
		return w.each(key, r)
	}
	for branch := range int64(2) {
		child := r.Ref()
		if r.err != nil {
			return r.err
		}
		sub := new(big.Int).Lsh(key, 1)
		if err := w.node(child, left-1, sub.Or(sub, big.NewInt(branch))); err != nil {
			return err
		}
	}
	return r.End()
}

// label reads HmLabel for at most m bits.
func (r *Reader) label(m int) (int, *big.Int) {
	width := uint(bits.Len(uint(m)))
	n, same := 0, false
	var bit uint64
	switch {
	case !r.Bool(): // hml_short$0: unary length
		for r.Bool() {
			if n++; n > m {
				break
			}
		}
	case !r.Bool(): // hml_long$10
		n = int(r.Uint(width))
	default: // hml_same$11
		same = true
		bit = r.Uint(1)
		n = int(r.Uint(width))
	}
	if n > m {
		r.Fail("label of %d bits, %d left", n, m)
	}
	if r.err != nil {
		return 0, new(big.Int)
	}
	if same {
		v := new(big.Int)
		if bit == 1 {
			v.Sub(v.Lsh(big.NewInt(1), uint(n)), big.NewInt(1))
		}
		return n, v
	}
	if n == 0 {
		return 0, new(big.Int)
	}
	v, err := r.s.LoadBigUInt(uint(n))
	if err != nil {
		r.fail("label", err)
		return 0, new(big.Int)
	}
	return n, v
}

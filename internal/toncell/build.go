package toncell

import (
	"errors"
	"math/big"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Builder writes a cell and keeps its first error.
type Builder struct {
	b   *cell.Builder
	err error
}

// NewBuilder starts an empty cell.
func NewBuilder() *Builder { return &Builder{b: cell.BeginCell()} }

func (b *Builder) do(err error) *Builder {
	b.err = errors.Join(b.err, err)
	return b
}

// Uint writes v in n ≤ 64 bits.
func (b *Builder) Uint(v uint64, n uint) *Builder { return b.do(b.b.StoreUInt(v, n)) }

// Int32 writes a signed 32-bit integer.
func (b *Builder) Int32(v int32) *Builder { return b.Uint(uint64(uint32(v)), 32) }

// Bool writes one bit.
func (b *Builder) Bool(v bool) *Builder { return b.do(b.b.StoreBoolBit(v)) }

// Bytes writes whole bytes.
func (b *Builder) Bytes(v []byte) *Builder { return b.do(b.b.StoreSlice(v, uint(len(v))*8)) }

// Bits256 writes a 256-bit value.
func (b *Builder) Bits256(v [32]byte) *Builder { return b.Bytes(v[:]) }

// Coins writes an amount of nanoton.
func (b *Builder) Coins(v uint64) *Builder {
	return b.do(b.b.StoreBigCoins(new(big.Int).SetUint64(v)))
}

// Addr writes addr_std.
func (b *Builder) Addr(a Address) *Builder { return b.OptAddr(&a) }

// OptAddr writes addr_std, or addr_none for nil.
func (b *Builder) OptAddr(a *Address) *Builder {
	if a == nil {
		return b.Uint(0, 2)
	}
	return b.Uint(4, 3).Uint(uint64(uint8(a.Workchain)), 8).Bits256(a.Hash)
}

// Ref writes a reference.
func (b *Builder) Ref(c *cell.Cell) *Builder {
	if c == nil {
		return b.do(errors.New("storing a missing cell"))
	}
	return b.do(b.b.StoreRef(c))
}

// MaybeRef writes a bit and, for a cell, the reference.
func (b *Builder) MaybeRef(c *cell.Cell) *Builder { return b.do(b.b.StoreMaybeRef(c)) }

// Dict writes a HashmapE.
func (b *Builder) Dict(d *cell.Dictionary) *Builder { return b.do(b.b.StoreDict(d)) }

// Cell ends the cell.
func (b *Builder) Cell() (*cell.Cell, error) {
	if b.err != nil {
		return nil, b.err
	}
	return b.b.EndCell(), nil
}

// NewDict returns an empty dictionary with 256-bit keys.
func NewDict() *cell.Dictionary { return cell.NewDict(256) }

// SetDict256 sets a 256-bit key to a value cell.
func SetDict256(d *cell.Dictionary, key [32]byte, value *cell.Cell) error {
	return d.SetIntKey(new(big.Int).SetBytes(key[:]), value)
}

// Key256 returns a dictionary's 256-bit key as bytes.
func Key256(key *big.Int) (out [32]byte) {
	key.FillBytes(out[:])
	return out
}

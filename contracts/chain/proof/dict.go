package proof

import (
	"errors"
	"fmt"
	"math/bits"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

func bitAt(b []byte, i uint) uint64 { return uint64(b[i/8]>>(7-i%8)) & 1 }

// extra says what lies before a dictionary's value.
type extra int

const (
	skipNothing extra = iota
	skipBalance       // DepthBalanceInfo of ShardAccounts
)

// lookup walks a Hashmap or HashmapAug (root, or nil for the empty one) along
// key. It returns a reader at the value; nil, nil when the dictionary provably
// does not contain the key; ErrUnproven when the path meets a pruned branch.
// ("The Open Network" 3.3.3; HashmapAug of block.tlb: a fork's augmentation
// follows its references, so the walk does not meet it.)
func lookup(root *cell.Cell, key []byte, size uint, e extra) (*reader, error) {
	if root == nil {
		return nil, nil
	}
	at := uint(0)
	for {
		if root.GetType() != cell.OrdinaryCellType {
			return nil, fmt.Errorf("%w: the path to %x is pruned", ErrUnproven, key)
		}
		r := newReader(root)
		same, length := r.label(key, at, size-at)
		if r.err != nil {
			return nil, invalid("parsing a dictionary: %w", r.err)
		}
		if !same {
			return nil, nil
		}
		at += length
		if at == size {
			if e == skipBalance {
				r.uint(5)
				r.currencies()
			}
			if r.err != nil {
				return nil, invalid("parsing a dictionary: %w", r.err)
			}
			return r, nil
		}
		left, right := r.ref(), r.ref()
		if r.err != nil {
			return nil, invalid("parsing a dictionary: %w", r.err)
		}
		if root = left; bitAt(key, at) == 1 {
			root = right
		}
		at++
	}
}

// label reads an HmLabel of at most limit bits and says whether it continues
// key from bit at.
func (r *reader) label(key []byte, at, limit uint) (same bool, length uint) {
	width := uint(bits.Len(limit))
	var n uint
	var repeated uint64
	var uniform bool
	if !r.bit() { // hml_short$0
		for r.bit() {
			n++
			if n > limit {
				r.err = errors.New("label too long")
				return false, 0
			}
		}
	} else if !r.bit() { // hml_long$10
		n = uint(r.uint(width))
	} else { // hml_same$11
		uniform = true
		repeated = r.uint(1)
		n = uint(r.uint(width))
	}
	if r.err == nil && n > limit {
		r.err = errors.New("label too long")
	}
	if r.err != nil {
		return false, 0
	}
	same = true
	for i := range n {
		bit := repeated
		if !uniform {
			bit = r.uint(1)
		}
		same = same && bit == bitAt(key, at+i)
	}
	return same, n
}

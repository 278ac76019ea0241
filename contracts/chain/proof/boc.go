package proof

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Limits of a bag of cells.
const (
	// MaxBoC bounds a serialised bag of cells, in bytes.
	MaxBoC = 4 << 20
	// maxCells bounds the cells of one bag.
	maxCells = 1 << 17
	// maxDepth is the deepest tree the TVM knows.
	maxDepth = 1024
)

var errBoC = errors.New("malformed bag of cells")

// DecodeBoC decodes a bag of cells with exactly the given number of roots and
// checks each cell with CheckCells.
func DecodeBoC(b []byte, roots int) (cs []*cell.Cell, err error) {
	if err := checkBoCHeader(b, roots); err != nil {
		return nil, err
	}
	// The library's decoder panics on some malformed bags (lengths that pass
	// the end, depth over its limit); to the caller that is one more refusal.
	defer func() {
		if r := recover(); r != nil {
			cs, err = nil, fmt.Errorf("%w: %v", errBoC, r)
		}
	}()
	cs, err = cell.FromBOCMultiRoot(b)
	if err != nil {
		return nil, fmt.Errorf("decoding a bag of cells: %w", err)
	}
	if len(cs) != roots {
		return nil, fmt.Errorf("%w: %d roots instead of %d", errBoC, len(cs), roots)
	}
	if err := CheckCells(cs...); err != nil {
		return nil, err
	}
	return cs, nil
}

// checkBoCHeader reads the header (TL-B serialized_boc#b5ee9c72) far enough to
// bound what the decoder will allocate.
func checkBoCHeader(b []byte, roots int) error {
	if len(b) > MaxBoC {
		return fmt.Errorf("%w: %d bytes, over the limit of %d", errBoC, len(b), MaxBoC)
	}
	if len(b) < 10 || !bytes.Equal(b[:4], []byte{0xb5, 0xee, 0x9c, 0x72}) {
		return fmt.Errorf("%w: no magic", errBoC)
	}
	size, offset := int(b[4]&7), int(b[5])
	if size < 1 || size > 4 || offset < 1 || offset > 8 {
		return fmt.Errorf("%w: field sizes %d and %d", errBoC, size, offset)
	}
	if b[4]&0xa0 != 0 {
		return fmt.Errorf("%w: an index is not accepted", errBoC)
	}
	if len(b) < 6+3*size+offset+roots*size {
		return fmt.Errorf("%w: short header", errBoC)
	}
	number := func(i int) uint64 {
		var v uint64
		for _, c := range b[6+i*size : 6+(i+1)*size] {
			v = v<<8 | uint64(c)
		}
		return v
	}
	if number(0) > maxCells || number(0) > uint64(len(b)) {
		return fmt.Errorf("%w: %d cells", errBoC, number(0))
	}
	if number(1) != uint64(roots) {
		return fmt.Errorf("%w: %d roots instead of %d", errBoC, number(1), roots)
	}
	return nil
}

// CheckCells checks that every cell below the roots is well-formed: level
// masks follow from the children, a pruned branch is exactly its hashes and
// depths and has no references, a Merkle proof states its child's hash and
// depth. The client library's decoder believes the sender in all of these; a
// pruned branch with references, for one, would hang a forged subtree below a
// true hash. ("The Open Network", 3.1.2–3.1.7; CellSerializationInfo and
// DataCell::create of the node.)
func CheckCells(roots ...*cell.Cell) error {
	seen := map[*cell.Cell]struct{}{}
	var walk func(c *cell.Cell, depth int) error
	walk = func(c *cell.Cell, depth int) error {
		if c == nil || depth > maxDepth {
			return fmt.Errorf("%w: too deep", errBoC)
		}
		if _, ok := seen[c]; ok {
			return nil
		}
		if len(seen) >= maxCells {
			return fmt.Errorf("%w: too many cells", errBoC)
		}
		seen[c] = struct{}{}
		raw := c.ToRawUnsafe()
		for _, ref := range raw.Refs {
			if err := walk(ref, depth+1); err != nil {
				return err
			}
		}
		return checkCell(c, raw)
	}
	for _, c := range roots {
		if err := walk(c, 0); err != nil {
			return err
		}
	}
	return nil
}

func checkCell(c *cell.Cell, raw cell.RawUnsafeCell) error {
	var below byte
	for _, ref := range raw.Refs {
		below |= ref.ToRawUnsafe().LevelMask.Mask
	}
	mask := raw.LevelMask.Mask
	if !raw.IsSpecial {
		if raw.BitsSz > 1023 || len(raw.Refs) > 4 || mask != below {
			return fmt.Errorf("%w: ordinary cell of level mask %d over %d", errBoC, mask, below)
		}
		return nil
	}
	ok := false
	switch c.GetType() {
	case cell.PrunedCellType:
		// One hash and depth for each level in the mask.
		ok = len(raw.Refs) == 0 && mask >= 1 && mask <= 7 && raw.Data[1] == mask &&
			raw.BitsSz == 16+272*uint(bits.OnesCount8(mask))
	case cell.MerkleProofCellType:
		child := raw.Refs[0]
		ok = mask == below>>1 && bytes.Equal(raw.Data[1:33], child.Hash(0)) &&
			binary.BigEndian.Uint16(raw.Data[33:]) == child.Depth(0)
	case cell.MerkleUpdateCellType:
		ok = mask == below>>1
		for i, child := range raw.Refs {
			ok = ok && bytes.Equal(raw.Data[1+32*i:33+32*i], child.Hash(0)) &&
				binary.BigEndian.Uint16(raw.Data[65+2*i:]) == child.Depth(0)
		}
	case cell.LibraryCellType:
		ok = len(raw.Refs) == 0 && mask == 0 && raw.BitsSz == 8+256
	}
	if !ok {
		return fmt.Errorf("%w: special cell of type %d", errBoC, c.GetType())
	}
	return nil
}

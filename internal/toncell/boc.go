// Package toncell reads and writes TON cells from untrusted sources: bags of
// cells under stated limits, and a reader over one cell that keeps its first
// error. The formats are those of TON's crypto/tl/boc.tlb and block.tlb; the
// cells themselves are tonutils-go's.
package toncell

import (
	"errors"
	"fmt"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Limits of a bag of cells.
type Limits struct {
	Bytes int // longest encoding
	Cells int // most cells
	Depth int // deepest tree
}

// ErrMalformed marks data that is not what its format says.
var ErrMalformed = errors.New("malformed cells")

const bocMagic = 0xb5ee9c72

// ParseBOC reads a bag with exactly one root and no exotic cells. Nothing is
// allocated before the header's counts are within the limits.
func ParseBOC(data []byte, lim Limits) (root *cell.Cell, err error) {
	if len(data) > lim.Bytes {
		return nil, fmt.Errorf("parsing bag of cells of %d bytes, limit %d: %w", len(data), lim.Bytes, ErrMalformed)
	}
	if err := checkHeader(data, lim); err != nil {
		return nil, fmt.Errorf("parsing bag of cells: %w", err)
	}
	// The library indexes by lengths it has not checked; a panic there is a
	// malformed bag.
	defer func() {
		if p := recover(); p != nil {
			root, err = nil, fmt.Errorf("parsing bag of cells: %w", ErrMalformed)
		}
	}()
	root, err = cell.FromBOC(data)
	if err != nil {
		return nil, fmt.Errorf("parsing bag of cells: %w: %w", ErrMalformed, err)
	}
	if err := checkTree(root, lim); err != nil {
		return nil, fmt.Errorf("parsing bag of cells: %w", err)
	}
	return root, nil
}

// checkHeader reads serialized_boc#b5ee9c72 up to the counts.
func checkHeader(data []byte, lim Limits) error {
	num := func(off, n int) int {
		v := 0
		for _, b := range data[off : off+n] {
			v = v<<8 | int(b)
		}
		return v
	}
	if len(data) < 6 || num(0, 4) != bocMagic {
		return fmt.Errorf("no bag of cells: %w", ErrMalformed)
	}
	refSize, offSize := int(data[4]&7), int(data[5])
	if refSize < 1 || refSize > 2 || offSize < 1 || offSize > 4 || len(data) < 6+3*refSize+offSize {
		return fmt.Errorf("header sizes: %w", ErrMalformed)
	}
	cells, roots, absent := num(6, refSize), num(6+refSize, refSize), num(6+2*refSize, refSize)
	total := num(6+3*refSize, offSize)
	if cells < 1 || cells > lim.Cells || roots != 1 || absent != 0 || total > len(data) {
		return fmt.Errorf("%d cells, %d roots, %d absent, %d bytes: %w", cells, roots, absent, total, ErrMalformed)
	}
	return nil
}

// checkTree bounds the depth and refuses exotic cells. Shared cells are
// visited once.
func checkTree(root *cell.Cell, lim Limits) error {
	if int(root.Depth()) > lim.Depth {
		return fmt.Errorf("depth %d over %d: %w", root.Depth(), lim.Depth, ErrMalformed)
	}
	seen := map[*cell.Cell]bool{}
	stack := []*cell.Cell{root}
	for len(stack) > 0 {
		c := stack[len(stack)-1]
		stack = stack[:len(stack)-1]
		if seen[c] {
			continue
		}
		seen[c] = true
		if c.GetType() != cell.OrdinaryCellType {
			return fmt.Errorf("exotic cell: %w", ErrMalformed)
		}
		for i := range int(c.RefsNum()) {
			ref, err := c.PeekRef(i)
			if err != nil {
				return fmt.Errorf("reference %d: %w: %w", i, ErrMalformed, err)
			}
			stack = append(stack, ref)
		}
	}
	return nil
}

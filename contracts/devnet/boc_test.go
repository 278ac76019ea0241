package devnet

import (
	"bytes"
	"math/rand"
	"testing"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/proof"
)

// TestBagsOfCellsAreReadBack writes random trees with shared cells, of all bit
// lengths, and reads them with the strict reader.
func TestBagsOfCellsAreReadBack(t *testing.T) {
	rnd := rand.New(rand.NewSource(3))
	for round := range 300 {
		cells := []*cell.Cell{cell.BeginCell().EndCell()}
		for range 1 + rnd.Intn(400) {
			b := cell.BeginCell()
			bits := uint(rnd.Intn(1024))
			data := make([]byte, (bits+7)/8)
			rnd.Read(data)
			b.MustStoreSlice(data, bits)
			for range min(rnd.Intn(5), len(cells)) {
				b.MustStoreRef(cells[rnd.Intn(len(cells))])
			}
			cells = append(cells, b.EndCell())
		}
		root := cells[len(cells)-1]
		if round%3 == 0 { // special cells, too
			root = stateUpdate(root, cells[0])
		}
		bag := encodeBoC(root)
		got, err := proof.DecodeBoC(bag, 1)
		if err != nil {
			t.Fatalf("round %d: %v", round, err)
		}
		if !bytes.Equal(got[0].Hash(), root.Hash()) || !bytes.Equal(encodeBoC(got[0]), bag) {
			t.Fatalf("round %d: another tree", round)
		}
	}
}

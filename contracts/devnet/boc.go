package devnet

import (
	"encoding/binary"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// encodeBoC writes a bag of cells with one root ("The Open Network", section
// 3.1; no index, no checksum). The client library's writer orders cells
// differently from call to call; a block's file hash must not change.
func encodeBoC(root *cell.Cell) []byte {
	index := map[string]int{}
	var after []*cell.Cell // children before parents
	var visit func(*cell.Cell)
	visit = func(c *cell.Cell) {
		if _, seen := index[string(c.Hash())]; seen {
			return
		}
		index[string(c.Hash())] = -1 // cells have no cycles; this marks the visit
		for _, ref := range c.ToRawUnsafe().Refs {
			visit(ref)
		}
		index[string(c.Hash())] = len(after)
		after = append(after, c)
	}
	visit(root)
	n := len(after)
	refSize := byteLen(n)
	var cells []byte
	for i := n - 1; i >= 0; i-- {
		raw := after[i].ToRawUnsafe()
		d1 := byte(len(raw.Refs)) | raw.LevelMask.Mask<<5
		if raw.IsSpecial {
			d1 |= 8
		}
		full, rest := raw.BitsSz/8, raw.BitsSz%8
		data := append([]byte(nil), raw.Data[:(raw.BitsSz+7)/8]...)
		if rest > 0 { // a one bit behind the data, then zeros
			mask := byte(0xff) << (8 - rest)
			data[full] = data[full]&mask | 1<<(7-rest)
		}
		cells = append(cells, d1, byte(full+(raw.BitsSz+7)/8))
		cells = append(cells, data...)
		for _, ref := range raw.Refs {
			cells = appendInt(cells, n-1-index[string(ref.Hash())], refSize)
		}
	}
	offSize := byteLen(len(cells))
	out := []byte{0xb5, 0xee, 0x9c, 0x72, byte(refSize), byte(offSize)}
	out = appendInt(out, n, refSize)
	out = appendInt(out, 1, refSize)
	out = appendInt(out, 0, refSize)
	out = appendInt(out, len(cells), offSize)
	out = appendInt(out, 0, refSize)
	return append(out, cells...)
}

// byteLen returns how many bytes the numbers up to n take.
func byteLen(n int) int {
	size := 1
	for n >= 1<<(8*size) {
		size++
	}
	return size
}

func appendInt(b []byte, v, size int) []byte {
	return append(b, binary.BigEndian.AppendUint64(nil, uint64(v))[8-size:]...)
}

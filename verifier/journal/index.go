package journal

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"cocoon/measurements/digest"
)

// By says which hash of an entry a lookup goes by.
type By byte

// The hashes that entries can be found by.
const (
	ByEvidence By = iota // SHA-256 of the evidence document
	ByVerdict            // SHA-256 of the EAR token, or a manifest's
	ByCell               // hash of the common cell
	bys
)

// An index file belongs to one full segment: for each By a sorted table of
// SegmentEntries rows, each a hash and the entry's place in the segment (4
// bytes). It can be computed from the segment at any time; what it says is
// checked against the entry it leads to.
const indexRow = 32 + 4

func indexPath(dir string, n uint64) string {
	return filepath.Join(dir, "segments", fmt.Sprintf("%010d.idx", n))
}

func keyOf(e *Entry, by By) digest.SHA256 {
	switch by {
	case ByVerdict:
		if e.isManifest() {
			return e.Manifest
		}
		return e.Verdict
	case ByCell:
		return e.Cell
	default:
		return e.Evidence
	}
}

// keys are the hashes of the entries of one segment, in order, for each By.
type keys struct {
	first uint64 // index of the segment's first entry
	by    [bys][]digest.SHA256
}

func newKeys(first uint64) *keys { return &keys{first: first} }

func (k *keys) len() int { return len(k.by[ByEvidence]) }

func (k *keys) add(e *Entry) {
	for by := range bys {
		k.by[by] = append(k.by[by], keyOf(e, by))
	}
}

// clone returns a view of the keys that are there now; keys are only added.
func (k *keys) clone() *keys {
	if k == nil {
		return nil
	}
	c := *k
	return &c
}

// readKeys returns the keys of a segment whose entries' texts are given one
// after another.
func readKeys(n uint64, texts []byte) (*keys, error) {
	k := newKeys(n * SegmentEntries)
	for at := 0; at < len(texts); at += EntrySize {
		e, err := ParseEntry(entryText(texts[at : at+EntrySize]))
		if err != nil {
			return nil, damaged("segment %d: %w", n, err)
		}
		k.add(e)
	}
	return k, nil
}

// find returns the places of entries with a hash; at most limit, the latest
// first.
func (k *keys) find(by By, key digest.SHA256, limit int) []uint32 {
	var out []uint32
	for i, d := range slices.Backward(k.by[by]) {
		if d == key {
			if out = append(out, uint32(i)); len(out) == limit {
				break
			}
		}
	}
	return out
}

// index returns the index file of a full segment.
func (k *keys) index() []byte {
	out := make([]byte, 0, int(bys)*k.len()*indexRow)
	for _, ds := range k.by {
		order := make([]uint32, len(ds))
		for i := range order {
			order[i] = uint32(i)
		}
		slices.SortFunc(order, func(a, b uint32) int {
			return cmp.Or(bytes.Compare(ds[a][:], ds[b][:]), cmp.Compare(a, b))
		})
		for _, i := range order {
			out = append(out, ds[i][:]...)
			out = binary.BigEndian.AppendUint32(out, i)
		}
	}
	return out
}

// findIn returns the places in a full segment of entries with a hash, by its
// index file; at most limit, the latest first.
func findIn(dir string, n uint64, by By, key digest.SHA256, limit int) ([]uint32, error) {
	f, err := os.Open(indexPath(dir, n))
	if err != nil {
		return nil, fmt.Errorf("opening index: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	row := make([]byte, indexRow)
	read := func(i int) error {
		_, err := f.ReadAt(row, (int64(by)*SegmentEntries+int64(i))*indexRow)
		if errors.Is(err, io.EOF) {
			return damaged("index %d is cut", n)
		}
		return err
	}
	// The first row after those of the key.
	lo, hi := 0, SegmentEntries
	for lo < hi {
		mid := (lo + hi) / 2
		if err := read(mid); err != nil {
			return nil, fmt.Errorf("reading index: %w", err)
		}
		if bytes.Compare(row[:32], key[:]) <= 0 {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	var out []uint32
	for i := lo - 1; i >= 0 && len(out) < limit; i-- {
		if err := read(i); err != nil {
			return nil, fmt.Errorf("reading index: %w", err)
		}
		if !bytes.Equal(row[:32], key[:]) {
			break
		}
		at := binary.BigEndian.Uint32(row[32:])
		if at >= SegmentEntries {
			return nil, damaged("index %d leads out of its segment", n)
		}
		out = append(out, at)
	}
	return out, nil
}

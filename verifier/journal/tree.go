package journal

import (
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/transparency-dev/merkle/compact"
	"github.com/transparency-dev/merkle/rfc6962"
	"golang.org/x/mod/sumdb/tlog"

	"cocoon/measurements/digest"
)

// The file "hashes" has every complete node of the tree, 32 bytes each, in the
// order in which they become complete (tlog.StoredHashIndex). It is append
// only, and can be computed from the segments at any time.
const hashesFile = "hashes"

var ranges = &compact.RangeFactory{Hash: rfc6962.DefaultHasher.HashChildren}

// hashReader reads nodes from the file of hashes.
type hashReader struct{ r io.ReaderAt }

// ReadHashes is tlog.HashReader.
func (h hashReader) ReadHashes(indexes []int64) ([]tlog.Hash, error) {
	out := make([]tlog.Hash, len(indexes))
	for i, x := range indexes {
		if _, err := h.r.ReadAt(out[i][:], x*sha256.Size); err != nil {
			return nil, fmt.Errorf("reading tree node %d: %w", x, err)
		}
	}
	return out, nil
}

// frontierAt returns the complete subtrees of the first size entries.
func frontierAt(r io.ReaderAt, size uint64) (*compact.Range, error) {
	ids := compact.RangeNodes(0, size, nil)
	hashes := make([][]byte, len(ids))
	for i, id := range ids {
		hs, err := hashReader{r}.ReadHashes([]int64{tlog.StoredHashIndex(int(id.Level), int64(id.Index))})
		if err != nil {
			return nil, err
		}
		hashes[i] = hs[0][:]
	}
	f, err := ranges.NewRange(0, size, hashes)
	if err != nil {
		return nil, fmt.Errorf("reading tree: %w", err)
	}
	return f, nil
}

// grow returns the subtrees after more leaves, and the nodes that became
// complete, in the order of the file. The given range is not changed.
func grow(f *compact.Range, leaves []digest.SHA256) (*compact.Range, []byte, error) {
	next, err := ranges.NewRange(0, f.End(), append([][]byte(nil), f.Hashes()...))
	if err != nil {
		return nil, nil, fmt.Errorf("growing tree: %w", err)
	}
	nodes := make([]byte, 0, 2*len(leaves)*sha256.Size)
	for i := range leaves {
		if err := next.Append(leaves[i][:], func(_ compact.NodeID, h []byte) { nodes = append(nodes, h...) }); err != nil {
			return nil, nil, fmt.Errorf("growing tree: %w", err)
		}
	}
	return next, nodes, nil
}

// rootOf returns the root hash over a frontier (RFC 6962 section 2.1).
func rootOf(f *compact.Range) (digest.SHA256, error) {
	if f.End() == 0 {
		return digest.Sum256(nil), nil
	}
	root, err := f.GetRootHash(nil)
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("computing root: %w", err)
	}
	return digest.SHA256(root), nil
}

// nodesLen is the length of the file of hashes for a number of entries.
func nodesLen(size uint64) int64 { return tlog.StoredHashCount(int64(size)) * sha256.Size }

// inclusion returns the path from an entry to the root of a tree of size
// entries.
func inclusion(r io.ReaderAt, index, size uint64) ([]digest.SHA256, error) {
	p, err := tlog.ProveRecord(int64(size), int64(index), hashReader{r})
	if err != nil {
		return nil, fmt.Errorf("proving inclusion: %w", err)
	}
	return digests(p), nil
}

// consistency returns the path between two states of the tree.
func consistency(r io.ReaderAt, from, to uint64) ([]digest.SHA256, error) {
	if from == 0 || from == to {
		return nil, nil
	}
	p, err := tlog.ProveTree(int64(to), int64(from), hashReader{r})
	if err != nil {
		return nil, fmt.Errorf("proving consistency: %w", err)
	}
	return digests(p), nil
}

func digests(hs []tlog.Hash) []digest.SHA256 {
	out := make([]digest.SHA256, len(hs))
	for i, h := range hs {
		out[i] = digest.SHA256(h)
	}
	return out
}

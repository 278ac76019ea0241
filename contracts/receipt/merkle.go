package receipt

import (
	"crypto/sha256"
	"fmt"
	"math/bits"
)

// LeafHash returns SHA-256(0x00 ‖ data) (RFC 6962, section 2.1).
func LeafHash(data []byte) Hash {
	h := sha256.New()
	h.Write([]byte{0})
	h.Write(data)
	return Hash(h.Sum(nil))
}

func nodeHash(l, r Hash) Hash {
	var buf [65]byte
	buf[0] = 1
	copy(buf[1:], l[:])
	copy(buf[33:], r[:])
	return sha256.Sum256(buf[:])
}

// Tree grows a Merkle tree leaf by leaf, holding one hash for each level.
type Tree struct {
	n     uint64
	peaks []Hash // roots of the full subtrees, largest first
}

// Append adds a leaf.
func (t *Tree) Append(leaf Hash) {
	t.peaks = append(t.peaks, leaf)
	for n := t.n; n&1 == 1; n >>= 1 {
		k := len(t.peaks)
		t.peaks = append(t.peaks[:k-2], nodeHash(t.peaks[k-2], t.peaks[k-1]))
	}
	t.n++
}

// Len returns the number of leaves.
func (t *Tree) Len() uint64 { return t.n }

// Root returns the tree's root; SHA-256 of nothing for an empty tree.
func (t *Tree) Root() Hash {
	if t.n == 0 {
		return sha256.Sum256(nil)
	}
	root := t.peaks[len(t.peaks)-1]
	for i := len(t.peaks) - 2; i >= 0; i-- {
		root = nodeHash(t.peaks[i], root)
	}
	return root
}

// Root returns the root over leaves.
func Root(leaves []Hash) Hash {
	var t Tree
	for _, l := range leaves {
		t.Append(l)
	}
	return t.Root()
}

// Prove returns the audit path of leaf i (RFC 6962, section 2.1.1).
func Prove(leaves []Hash, i uint64) ([]Hash, error) {
	n := uint64(len(leaves))
	if i >= n {
		return nil, fmt.Errorf("proving leaf %d of %d", i, n)
	}
	var path []Hash
	for len(leaves) > 1 {
		k := uint64(1) << (bits.Len64(uint64(len(leaves)-1)) - 1)
		if i < k {
			path, leaves = append(path, Root(leaves[k:])), leaves[:k]
		} else {
			path, leaves, i = append(path, Root(leaves[:k])), leaves[k:], i-k
		}
	}
	for a, b := 0, len(path)-1; a < b; a, b = a+1, b-1 {
		path[a], path[b] = path[b], path[a]
	}
	return path, nil
}

// Included reports whether leaf is at index i of the tree with n leaves and
// this root (RFC 9162, section 2.1.3.2).
func Included(leaf Hash, i, n uint64, path []Hash, root Hash) bool {
	if i >= n || len(path) > 64 {
		return false
	}
	fn, sn, r := i, n-1, leaf
	for _, p := range path {
		if sn == 0 {
			return false
		}
		if fn&1 == 1 || fn == sn {
			r = nodeHash(p, r)
			for fn&1 == 0 && fn != 0 {
				fn, sn = fn>>1, sn>>1
			}
		} else {
			r = nodeHash(r, p)
		}
		fn, sn = fn>>1, sn>>1
	}
	return sn == 0 && r == root
}

package devnet

import (
	"math/big"
	"math/bits"

	"github.com/xssnick/tonutils-go/tvm/cell"
)

// augTree is a persistent HashmapAug with balances as augmentation: the
// accounts of a state (DepthBalanceInfo) and the transactions of a block
// (CurrencyCollection). A change makes new nodes on one path only, so the
// trees of past blocks stay alive at little cost. The nil tree is empty.
type augTree struct {
	keyBits uint
	key     []byte // of some leaf below; its first depth+labelLen bits are shared by all
	depth   uint   // bits above this node
	label   uint   // bits of the node's label
	left    *augTree
	right   *augTree
	value   *cell.Cell // of a leaf: stored inline
	balance *big.Int
	kind    augKind
	cell    *cell.Cell
}

// augKind selects how a balance is written: DepthBalanceInfo has a 5-bit
// split depth before the CurrencyCollection.
type augKind int

const (
	augAccounts     augKind = iota // extra: DepthBalanceInfo
	augTransactions                // extra: CurrencyCollection
)

func keyBit(key []byte, i uint) uint { return uint(key[i/8]>>(7-i%8)) & 1 }

// set returns the tree with key mapped to value, whose share of the sum is
// balance.
func (t *augTree) set(kind augKind, keyBits uint, key []byte, value *cell.Cell, balance *big.Int) *augTree {
	return t.insert(kind, keyBits, key, 0, value, balance)
}

func (t *augTree) insert(kind augKind, keyBits uint, key []byte, depth uint, value *cell.Cell, balance *big.Int) *augTree {
	if t == nil {
		n := &augTree{keyBits: keyBits, key: key, depth: depth, label: keyBits - depth, value: value, balance: balance, kind: kind}
		return n.seal()
	}
	same := uint(0)
	for same < t.label && keyBit(key, depth+same) == keyBit(t.key, depth+same) {
		same++
	}
	n := *t
	if same == t.label {
		if t.value != nil {
			n.value, n.balance = value, balance
			return n.seal()
		}
		if keyBit(key, depth+same) == 0 {
			n.left = t.left.insert(kind, keyBits, key, depth+same+1, value, balance)
		} else {
			n.right = t.right.insert(kind, keyBits, key, depth+same+1, value, balance)
		}
		return n.seal()
	}
	// The label splits: the old node moves below a new fork.
	old := n
	old.depth, old.label = depth+same+1, t.label-same-1
	leaf := (*augTree)(nil).insert(kind, keyBits, key, depth+same+1, value, balance)
	fork := &augTree{keyBits: keyBits, key: key, depth: depth, label: same, kind: kind}
	if keyBit(key, depth+same) == 0 {
		fork.left, fork.right = leaf, old.seal()
	} else {
		fork.left, fork.right = old.seal(), leaf
	}
	return fork.seal()
}

// remove returns the tree without key.
func (t *augTree) remove(key []byte) *augTree {
	if t == nil {
		return nil
	}
	for i := uint(0); i < t.label; i++ {
		if keyBit(key, t.depth+i) != keyBit(t.key, t.depth+i) {
			return t
		}
	}
	if t.value != nil {
		return nil
	}
	n := *t
	if keyBit(key, t.depth+t.label) == 0 {
		n.left = t.left.remove(key)
	} else {
		n.right = t.right.remove(key)
	}
	child := n.left
	if child == nil {
		child = n.right
	} else if n.right != nil {
		return n.seal()
	}
	// One child is left: it takes over the fork's label.
	c := *child
	c.label += child.depth - t.depth
	c.depth = t.depth
	return c.seal()
}

// get returns the value at key, or nil.
func (t *augTree) get(key []byte) *cell.Cell {
	for t != nil {
		for i := uint(0); i < t.label; i++ {
			if keyBit(key, t.depth+i) != keyBit(t.key, t.depth+i) {
				return nil
			}
		}
		if t.value != nil {
			return t.value
		}
		if keyBit(key, t.depth+t.label) == 0 {
			t = t.left
		} else {
			t = t.right
		}
	}
	return nil
}

// each calls f for every leaf in key order.
func (t *augTree) each(f func(key []byte, value *cell.Cell)) {
	if t == nil {
		return
	}
	if t.value != nil {
		f(t.key, t.value)
		return
	}
	t.left.each(f)
	t.right.each(f)
}

func (t *augTree) sum() *big.Int {
	if t == nil {
		return new(big.Int)
	}
	return t.balance
}

// seal computes the node's cell.
func (t *augTree) seal() *augTree {
	b := cell.BeginCell()
	storeLabel(b, t.key, t.depth, t.label, t.keyBits-t.depth)
	if t.value == nil {
		t.balance = new(big.Int).Add(t.left.balance, t.right.balance)
		b.MustStoreRef(t.left.cell).MustStoreRef(t.right.cell)
	}
	storeExtra(b, t.kind, t.balance)
	if t.value != nil {
		b.MustStoreBuilder(t.value.ToBuilder())
	}
	t.cell = b.EndCell()
	return t
}

// storeRoot writes the tree as a HashmapAugE: ahme_empty$0 or ahme_root$1.
func (t *augTree) storeRoot(b *cell.Builder, kind augKind) {
	if t == nil {
		b.MustStoreBoolBit(false)
		storeExtra(b, kind, new(big.Int))
		return
	}
	b.MustStoreBoolBit(true).MustStoreRef(t.cell)
	storeExtra(b, kind, t.balance)
}

func storeExtra(b *cell.Builder, kind augKind, balance *big.Int) {
	if kind == augAccounts {
		b.MustStoreUInt(0, 5)
	}
	storeCurrencies(b, balance)
}

// storeCurrencies writes a CurrencyCollection without extra currencies.
func storeCurrencies(b *cell.Builder, nano *big.Int) {
	b.MustStoreBigCoins(nano).MustStoreBoolBit(false)
}

// storeLabel writes the HmLabel for n bits of key from bit at, where at most
// limit bits could follow, in the shortest form (TL-B hml_short, hml_long,
// hml_same), which is the only one that validators accept.
func storeLabel(b *cell.Builder, key []byte, at, n, limit uint) {
	width := uint(bits.Len(limit))
	same := n > 0
	for i := uint(1); i < n; i++ {
		same = same && keyBit(key, at+i) == keyBit(key, at)
	}
	switch {
	case same && n > 1 && width < 2*n-1:
		b.MustStoreUInt(uint64(0b110|keyBit(key, at)), 3).MustStoreUInt(uint64(n), width)
		return
	case width < n:
		b.MustStoreUInt(0b10, 2).MustStoreUInt(uint64(n), width)
	default:
		b.MustStoreUInt(0, 1)
		for range n {
			b.MustStoreUInt(1, 1)
		}
		b.MustStoreUInt(0, 1)
	}
	for i := range n {
		b.MustStoreUInt(uint64(keyBit(key, at+i)), 1)
	}
}

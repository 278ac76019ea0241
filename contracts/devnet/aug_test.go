package devnet

import (
	"math/big"
	"math/rand"
	"testing"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// TestAugTreeIsTheDictionaryOfItsLeaves compares trees grown and shrunk in
// random order with the client library's reading of them.
func TestAugTreeIsTheDictionaryOfItsLeaves(t *testing.T) {
	rnd := rand.New(rand.NewSource(1))
	for round := range 50 {
		var tree *augTree
		want := map[string]int64{}
		var keys [][]byte
		for range 1 + rnd.Intn(60) {
			key := make([]byte, 32)
			// Short alphabets make long common prefixes and runs of one bit.
			for i := range key {
				key[i] = byte(rnd.Intn(2) * 0xff)
			}
			if rnd.Intn(3) == 0 && len(keys) > 0 {
				key = keys[rnd.Intn(len(keys))]
			}
			keys = append(keys, key)
			if rnd.Intn(4) == 0 {
				tree = tree.remove(key)
				delete(want, string(key))
				continue
			}
			v := rnd.Int63n(1e15)
			tree = tree.set(augAccounts, 256, key, cell.BeginCell().MustStoreInt(v, 64).EndCell(), big.NewInt(v))
			want[string(key)] = v
		}
		if len(want) == 0 {
			if tree != nil {
				t.Fatalf("round %d: an empty tree is not nil", round)
			}
			continue
		}
		kvs, err := tree.cell.AsDict(256).LoadAll()
		if err != nil {
			t.Fatal(err)
		}
		if len(kvs) != len(want) {
			t.Fatalf("round %d: %d leaves, want %d", round, len(kvs), len(want))
		}
		sum := new(big.Int)
		for _, kv := range kvs {
			var extra tlb.DepthBalanceInfo
			if err := tlb.LoadFromCell(&extra, kv.Value); err != nil {
				t.Fatal(err)
			}
			v := kv.Value.MustLoadInt(64)
			if want[string(kv.Key.MustLoadSlice(256))] != v || extra.Currencies.Coins.Nano().Int64() != v {
				t.Fatalf("round %d: a leaf has %d and %s", round, v, extra.Currencies.Coins.Nano())
			}
			sum.Add(sum, big.NewInt(v))
		}
		if tree.sum().Cmp(sum) != 0 {
			t.Fatalf("round %d: sum %s, want %s", round, tree.sum(), sum)
		}
		again := (*augTree)(nil)
		for _, i := range rnd.Perm(len(keys)) {
			if v, ok := want[string(keys[i])]; ok {
				again = again.set(augAccounts, 256, keys[i], cell.BeginCell().MustStoreInt(v, 64).EndCell(), big.NewInt(v))
			}
		}
		if string(again.cell.Hash()) != string(tree.cell.Hash()) {
			t.Fatalf("round %d: the tree depends on the order of changes", round)
		}
	}
}

// TestLabelsAreTheShortest compares with the library's dictionary, which
// writes canonical labels.
func TestLabelsAreTheShortest(t *testing.T) {
	rnd := rand.New(rand.NewSource(2))
	for range 200 {
		d := cell.NewDict(32)
		var keys [][]byte
		for range 1 + rnd.Intn(4) {
			key := []byte{byte(rnd.Intn(2) * 0xff), byte(rnd.Intn(2) * 0xff), byte(rnd.Intn(4)), byte(rnd.Intn(256))}
			keys = append(keys, key)
			if err := d.Set(cell.BeginCell().MustStoreSlice(key, 32).EndCell(), cell.BeginCell().MustStoreUInt(1, 1).EndCell()); err != nil {
				t.Fatal(err)
			}
		}
		checkLabels(t, d.AsCell(), keys, 0, 32)
	}
}

// checkLabels walks a plain dictionary and rewrites each of its labels.
func checkLabels(t *testing.T, c *cell.Cell, keys [][]byte, depth, size uint) {
	t.Helper()
	n := size - depth
	if c.RefsNum() == 2 {
		n = 0
		for same := true; same; {
			for _, k := range keys {
				same = same && keyBit(k, depth+n) == keyBit(keys[0], depth+n)
			}
			if same {
				n++
			}
		}
	}
	b := cell.BeginCell()
	storeLabel(b, keys[0], depth, n, size-depth)
	got := b.EndCell()
	want, err := c.BeginParse().LoadSlice(got.BitsSize())
	if err != nil {
		t.Fatal(err)
	}
	if raw := got.BeginParse().MustLoadSlice(got.BitsSize()); string(raw) != string(want) {
		t.Fatalf("label %x, want %x", raw, want)
	}
	if c.RefsNum() != 2 {
		return
	}
	for bit := range uint(2) {
		var below [][]byte
		for _, k := range keys {
			if keyBit(k, depth+n) == bit {
				below = append(below, k)
			}
		}
		checkLabels(t, c.MustPeekRef(int(bit)), below, depth+n+1, size)
	}
}

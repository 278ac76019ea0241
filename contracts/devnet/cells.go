package devnet

import (
	"bytes"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"math/big"

	"github.com/xssnick/tonutils-go/adnl"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// The builders below write the types of crypto/block/block.tlb by hand; the
// names in the comments are that file's.

const (
	masterchain = -1
	basechain   = 0
	wholeShard  = -1 << 63 // shard id 8000000000000000
	// catchainSeqno is constant: there is one validator and no rotation.
	catchainSeqno = 1
)

// header is what both blocks of a height and both states share.
type header struct {
	seqno   uint32
	utime   uint32
	startLT uint64
	endLT   uint64
	seed    [32]byte
	prev    [2]ton.BlockIDExt // previous shard and master block
	prevLT  uint64            // end LT of the previous blocks
}

// shardIdent writes ShardIdent of a whole workchain.
func shardIdent(b *cell.Builder, workchain int32) {
	b.MustStoreUInt(0, 2).MustStoreUInt(0, 6).MustStoreInt(int64(workchain), 32).MustStoreUInt(0, 64)
}

// extBlkRef writes ExtBlkRef.
func extBlkRef(b *cell.Builder, endLT uint64, id *ton.BlockIDExt) {
	b.MustStoreUInt(endLT, 64).MustStoreUInt(uint64(id.SeqNo), 32).
		MustStoreSlice(id.RootHash, 256).MustStoreSlice(id.FileHash, 256)
}

// zeroCurrencies writes an empty CurrencyCollection n times.
func zeroCurrencies(b *cell.Builder, n int) {
	for range n {
		storeCurrencies(b, new(big.Int))
	}
}

// blockInfo writes BlockInfo. Every master block is a key block.
func (c *chainParams) blockInfo(h *header, workchain int32) *cell.Cell {
	master := workchain == masterchain
	b := cell.BeginCell().MustStoreUInt(0x9bc7a987, 32).MustStoreUInt(0, 32).
		MustStoreBoolBit(!master).
		MustStoreUInt(0, 5). // after_merge … want_merge
		MustStoreBoolBit(master).
		MustStoreUInt(0, 1). // vert_seqno_incr
		MustStoreUInt(0, 8). // flags: no gen_software
		MustStoreUInt(uint64(h.seqno), 32).
		MustStoreUInt(0, 32)
	shardIdent(b, workchain)
	b.MustStoreUInt(uint64(h.utime), 32).
		MustStoreUInt(h.startLT, 64).
		MustStoreUInt(h.endLT, 64).
		MustStoreUInt(uint64(c.validatorSetHash), 32).
		MustStoreUInt(catchainSeqno, 32).
		MustStoreUInt(uint64(h.seqno-1), 32). // min_ref_mc_seqno
		MustStoreUInt(uint64(h.seqno-1), 32)  // prev_key_block_seqno
	prev := &h.prev[0]
	if master {
		prev = &h.prev[1]
	} else {
		ref := cell.BeginCell()
		extBlkRef(ref, h.prevLT, &h.prev[1])
		b.MustStoreRef(ref.EndCell())
	}
	ref := cell.BeginCell()
	extBlkRef(ref, h.prevLT, prev)
	return b.MustStoreRef(ref.EndCell()).EndCell()
}

// flow is the value flow of a block, in nanoton.
type flow struct {
	from, to, imported, exported, fees, minted *big.Int
}

func zeroFlow() flow {
	z := new(big.Int)
	return flow{z, z, z, z, z, z}
}

// valueFlow writes ValueFlow.
func valueFlow(f flow) *cell.Cell {
	in := cell.BeginCell()
	for _, v := range []*big.Int{f.from, f.to, f.imported, f.exported} {
		storeCurrencies(in, v)
	}
	out := cell.BeginCell()
	zeroCurrencies(out, 3) // fees_imported, recovered, created
	storeCurrencies(out, f.minted)
	b := cell.BeginCell().MustStoreUInt(0xb8e48dfb, 32).MustStoreRef(in.EndCell())
	storeCurrencies(b, f.fees)
	return b.MustStoreRef(out.EndCell()).EndCell()
}

// stateUpdate writes the MERKLE_UPDATE between two states with both sides
// pruned: a lite client needs the two hashes only.
func stateUpdate(from, to *cell.Cell) *cell.Cell {
	data := append([]byte{byte(cell.MerkleUpdateCellType)}, from.Hash()...)
	data = append(data, to.Hash()...)
	data = binary.BigEndian.AppendUint16(data, from.Depth())
	data = binary.BigEndian.AppendUint16(data, to.Depth())
	return cell.FromRawUnsafe(cell.RawUnsafeCell{
		IsSpecial: true, BitsSz: uint(len(data) * 8), Data: data,
		Refs: []*cell.Cell{pruned(from), pruned(to)},
	})
}

// pruned writes the pruned branch of level 1 for an ordinary cell.
func pruned(c *cell.Cell) *cell.Cell {
	data := append([]byte{byte(cell.PrunedCellType), 1}, c.Hash()...)
	data = binary.BigEndian.AppendUint16(data, c.Depth())
	return cell.FromRawUnsafe(cell.RawUnsafeCell{
		IsSpecial: true, LevelMask: cell.LevelMask{Mask: 1}, BitsSz: uint(len(data) * 8), Data: data,
	})
}

// blockExtra writes BlockExtra with empty message descriptors.
func (c *chainParams) blockExtra(h *header, accountBlocks *augTree, custom *cell.Cell) *cell.Cell {
	in := cell.BeginCell().MustStoreUInt(0, 1).MustStoreBigCoins(new(big.Int))
	zeroCurrencies(in, 1)
	out := cell.BeginCell().MustStoreUInt(0, 1)
	zeroCurrencies(out, 1)
	accounts := cell.BeginCell()
	accountBlocks.storeRoot(accounts, augTransactions)
	return cell.BeginCell().MustStoreUInt(0x4a33f6fd, 32).
		MustStoreRef(in.EndCell()).MustStoreRef(out.EndCell()).MustStoreRef(accounts.EndCell()).
		MustStoreSlice(h.seed[:], 256).
		MustStoreSlice(c.validator.Public().(ed25519.PublicKey), 256).
		MustStoreMaybeRef(custom).EndCell()
}

// block writes Block.
func (c *chainParams) block(info, flow, update, extra *cell.Cell) *cell.Cell {
	return cell.BeginCell().MustStoreUInt(0x11ef55aa, 32).MustStoreInt(int64(c.globalID), 32).
		MustStoreRef(info).MustStoreRef(flow).MustStoreRef(update).MustStoreRef(extra).EndCell()
}

// shardState writes ShardStateUnsplit; accounts is the tree of the workchain
// and custom the McStateExtra of the masterchain.
func (c *chainParams) shardState(h *header, workchain int32, accounts *augTree, custom *cell.Cell) *cell.Cell {
	queue := cell.BeginCell().MustStoreUInt(0, 1).MustStoreUInt(0, 64). // out_queue: empty, lt 0
										MustStoreUInt(0, 1). // proc_info
										MustStoreUInt(0, 1)  // extra
	tree := cell.BeginCell()
	accounts.storeRoot(tree, augAccounts)
	stats := cell.BeginCell().MustStoreUInt(0, 64).MustStoreUInt(0, 64)
	storeCurrencies(stats, accounts.sum())
	zeroCurrencies(stats, 1)
	stats.MustStoreUInt(0, 1) // libraries
	if workchain != masterchain && h.seqno > 0 {
		ref := cell.BeginCell()
		extBlkRef(ref, h.prevLT, &h.prev[1])
		stats.MustStoreBoolBit(true).MustStoreBuilder(ref)
	} else {
		stats.MustStoreBoolBit(false)
	}
	b := cell.BeginCell().MustStoreUInt(0x9023afe2, 32).MustStoreInt(int64(c.globalID), 32)
	shardIdent(b, workchain)
	return b.MustStoreUInt(uint64(h.seqno), 32).MustStoreUInt(0, 32).
		MustStoreUInt(uint64(h.utime), 32).MustStoreUInt(h.endLT, 64).
		MustStoreUInt(uint64(h.seqno), 32). // min_ref_mc_seqno
		MustStoreRef(queue.EndCell()).
		MustStoreUInt(0, 1). // before_split
		MustStoreRef(tree.EndCell()).
		MustStoreRef(stats.EndCell()).
		MustStoreMaybeRef(custom).EndCell()
}

// shardHashes writes the root of ShardHashes: workchain 0 with one shard.
func shardHashes(h *header, shard *ton.BlockIDExt) *cell.Cell {
	funds := cell.BeginCell()
	zeroCurrencies(funds, 2)
	leaf := cell.BeginCell().MustStoreUInt(0, 1). // bt_leaf
							MustStoreUInt(0xa, 4).
							MustStoreUInt(uint64(shard.SeqNo), 32).
							MustStoreUInt(uint64(h.seqno), 32).
							MustStoreUInt(h.startLT, 64).MustStoreUInt(h.endLT, 64).
							MustStoreSlice(shard.RootHash, 256).MustStoreSlice(shard.FileHash, 256).
							MustStoreUInt(0, 5). // before_split … nx_cc_updated
							MustStoreUInt(0, 3). // flags
							MustStoreUInt(catchainSeqno, 32).
							MustStoreInt(wholeShard, 64).
							MustStoreUInt(uint64(h.seqno-1), 32).
							MustStoreUInt(uint64(h.utime), 32).
							MustStoreUInt(0, 1). // fsm_none
							MustStoreRef(funds.EndCell()).EndCell()
	root := cell.BeginCell()
	storeLabel(root, make([]byte, 4), 0, 32, 32) // workchain 0
	return root.MustStoreRef(leaf).EndCell()
}

// configParams writes ConfigParams: the config contract's address and the
// dictionary.
func (c *chainParams) configParams(b *cell.Builder) {
	b.MustStoreSlice(bytes.Repeat([]byte{0x55}, 32), 256).MustStoreRef(c.config)
}

// mcBlockExtra writes McBlockExtra.
func (c *chainParams) mcBlockExtra(hashes *cell.Cell) *cell.Cell {
	b := cell.BeginCell().MustStoreUInt(0xcca5, 16).MustStoreBoolBit(true).MustStoreMaybeRef(hashes).
		MustStoreUInt(0, 1) // shard_fees: empty, two zero sums
	zeroCurrencies(b, 2)
	b.MustStoreRef(cell.BeginCell().MustStoreUInt(0, 3).EndCell())
	c.configParams(b)
	return b.EndCell()
}

// mcStateExtra writes McStateExtra.
func (c *chainParams) mcStateExtra(h *header, hashes *cell.Cell, total *big.Int) *cell.Cell {
	info := cell.BeginCell().MustStoreUInt(0, 16).
		MustStoreUInt(uint64(c.validatorSetHash), 32).MustStoreUInt(catchainSeqno, 32).MustStoreUInt(0, 1).
		MustStoreUInt(0, 1).MustStoreUInt(0, 1).MustStoreUInt(0, 64). // prev_blocks: empty, KeyMaxLt
		MustStoreBoolBit(true).                                       // after_key_block
		MustStoreUInt(0, 1)                                           // last_key_block
	b := cell.BeginCell().MustStoreUInt(0xcc26, 16).MustStoreMaybeRef(hashes)
	c.configParams(b)
	b.MustStoreRef(info.EndCell())
	storeCurrencies(b, total)
	return b.EndCell()
}

// blockID names a serialised block.
func blockID(workchain int32, seqno uint32, root *cell.Cell, boc []byte) ton.BlockIDExt {
	file := sha256.Sum256(boc)
	return ton.BlockIDExt{Workchain: workchain, Shard: wholeShard, SeqNo: seqno, RootHash: root.Hash(), FileHash: file[:]}
}

// chainParams are fixed for the life of a chain.
type chainParams struct {
	globalID         int32
	validator        ed25519.PrivateKey
	validatorSetHash uint32
	config           *cell.Cell
}

// newChainParams puts the chain's identity and validator into the config that
// emulation uses: parameter 19 (global id) and 34 (validators).
func newChainParams(base *cell.Cell, validator ed25519.PrivateKey, globalID int32) (*chainParams, error) {
	pub := validator.Public().(ed25519.PublicKey)
	descr := cell.BeginCell().MustStoreUInt(0x73, 8).MustStoreUInt(0x8e81278a, 32).MustStoreSlice(pub, 256).
		MustStoreUInt(1, 64).MustStoreSlice(make([]byte, 32), 256).EndCell()
	list := cell.NewDict(16)
	if err := list.SetIntKey(new(big.Int), descr); err != nil {
		return nil, fmt.Errorf("writing the validator set: %w", err)
	}
	set := cell.BeginCell().MustStoreUInt(0x12, 8).MustStoreUInt(0, 32).MustStoreUInt(1<<32-1, 32).
		MustStoreUInt(1, 16).MustStoreUInt(1, 16).MustStoreUInt(1, 64).MustStoreDict(list).EndCell()
	params := base.AsDict(32)
	for id, value := range map[int64]*cell.Cell{
		19: cell.BeginCell().MustStoreInt(int64(globalID), 32).EndCell(),
		34: set,
	} {
		if err := params.SetIntKey(big.NewInt(id), cell.BeginCell().MustStoreRef(value).EndCell()); err != nil {
			return nil, fmt.Errorf("writing config parameter %d: %w", id, err)
		}
	}
	// The short hash of a validator set is the CRC-32C of this TL object.
	b, err := tl.Serialize(ton.ValidatorSetHashable{
		CCSeqno:    catchainSeqno,
		Validators: []ton.ValidatorItemHashable{{Key: pub, Weight: 1, Addr: make([]byte, 32)}},
	}, true)
	if err != nil {
		return nil, fmt.Errorf("hashing the validator set: %w", err)
	}
	return &chainParams{
		globalID: globalID, validator: validator, config: params.AsCell(),
		validatorSetHash: crc32.Checksum(b, crc32.MakeTable(crc32.Castagnoli)),
	}, nil
}

// sign signs a master block as its only validator.
func (c *chainParams) sign(id *ton.BlockIDExt) (*ton.SignatureSet, error) {
	msg, err := tl.Serialize(ton.BlockID{RootHash: id.RootHash, FileHash: id.FileHash}, true)
	if err != nil {
		return nil, fmt.Errorf("signing a block: %w", err)
	}
	node, err := tl.Hash(adnl.PublicKeyED25519{Key: c.validator.Public().(ed25519.PublicKey)})
	if err != nil {
		return nil, fmt.Errorf("signing a block: %w", err)
	}
	return &ton.SignatureSet{
		ValidatorSetHash: int32(c.validatorSetHash), CatchainSeqno: catchainSeqno,
		Signatures: []ton.Signature{{NodeIDShort: node, Signature: ed25519.Sign(c.validator, msg)}},
	}, nil
}

// hashUpdate writes HASH_UPDATE of an account.
func hashUpdate(from, to []byte) *cell.Cell {
	return cell.BeginCell().MustStoreUInt(0x72, 8).MustStoreSlice(from, 256).MustStoreSlice(to, 256).EndCell()
}

// accountBlock writes AccountBlock.
func accountBlock(addr []byte, txs *augTree, update *cell.Cell) *cell.Cell {
	b := cell.BeginCell().MustStoreUInt(5, 4).MustStoreSlice(addr, 256).MustStoreBuilder(txs.cell.ToBuilder())
	return b.MustStoreRef(update).EndCell()
}

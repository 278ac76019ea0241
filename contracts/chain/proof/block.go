package proof

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Errors that callers tell apart with errors.Is.
var (
	// ErrInvalid is a proof that does not prove what it is shown for.
	ErrInvalid = errors.New("invalid proof")
	// ErrUnproven is a claim without a proof: the path to the account is
	// pruned, so that nothing follows about it, absence included.
	ErrUnproven = errors.New("unproven")
)

func invalid(format string, args ...any) error {
	return fmt.Errorf("%w: %w", ErrInvalid, fmt.Errorf(format, args...))
}

// unwrap returns the body of a Merkle proof of the cell with this hash. The
// cells must have passed CheckCells, which ties the stated hash to the body.
func unwrap(p *cell.Cell, hash []byte) (*cell.Cell, error) {
	if p == nil || p.GetType() != cell.MerkleProofCellType {
		return nil, invalid("not a Merkle proof")
	}
	raw := p.ToRawUnsafe()
	if !bytes.Equal(raw.Data[1:33], hash) {
		return nil, invalid("it proves %x instead of %x", raw.Data[1:33], hash)
	}
	return raw.Refs[0], nil
}

// block is what is read of a proven Block.
type block struct {
	globalID      int32
	seqno         uint32
	notMaster     bool
	key           bool
	workchain     int32
	utime         uint32
	validatorHash uint32
	catchainSeqno uint32
	newState      []byte     // hash of the state after the block
	prev          *cell.Cell // BlkPrevInfo of a master block, perhaps pruned
	extra         *cell.Cell // BlockExtra, perhaps pruned
}

// parseBlock reads a block proof; the header must be in it. (block.tlb: Block,
// BlockInfo.)
func parseBlock(p *cell.Cell, rootHash []byte) (*block, error) {
	body, err := unwrap(p, rootHash)
	if err != nil {
		return nil, err
	}
	r := newReader(body)
	r.magic(0x11ef55aa, 32)
	b := &block{globalID: int32(r.uint(32))}
	info := r.ref()
	r.ref() // value flow
	update := r.ref()
	b.extra = r.ref()
	if r.err != nil {
		return nil, invalid("parsing a block: %w", r.err)
	}
	h := newReader(info)
	h.magic(0x9bc7a987, 32)
	h.uint(32) // version
	b.notMaster = h.bit()
	h.uint(5) // after_merge … want_merge
	b.key = h.bit()
	h.uint(1)
	h.uint(8)
	b.seqno = uint32(h.uint(32))
	h.uint(32) // vert_seq_no
	prefix, workchain, _ := h.shardIdent()
	b.workchain = workchain
	b.utime = uint32(h.uint(32))
	h.uint(64)
	h.uint(64)
	b.validatorHash = uint32(h.uint(32))
	b.catchainSeqno = uint32(h.uint(32))
	if h.err == nil && !b.notMaster && (workchain != address.MasterchainID || prefix != 0) {
		h.err = errors.New("a master block outside the masterchain")
	}
	if h.err == nil && !b.notMaster {
		b.prev = h.ref() // master blocks have no master_ref before it
	}
	if h.err != nil {
		return nil, invalid("parsing a block header: %w", h.err)
	}
	if update.GetType() == cell.MerkleUpdateCellType {
		b.newState = update.ToRawUnsafe().Data[33:65]
	}
	return b, nil
}

// Previous returns the master block before id, as the header of id names it;
// bag is the header's proof. (block.tlb: ExtBlkRef.)
func Previous(id *ton.BlockIDExt, bag []byte) (ton.BlockIDExt, error) {
	var prev ton.BlockIDExt
	cells, err := DecodeBoC(bag, 1)
	if err != nil {
		return prev, invalid("reading a block header: %w", err)
	}
	b, err := parseBlock(cells[0], id.RootHash)
	if err != nil {
		return prev, err
	}
	if b.notMaster || b.seqno != id.SeqNo || b.seqno == 0 {
		return prev, invalid("block %d is not the master block %d", b.seqno, id.SeqNo)
	}
	r := newReader(b.prev)
	r.uint(64) // end_lt
	seqno := uint32(r.uint(32))
	root, file := r.bytes(256), r.bytes(256)
	if r.err == nil && seqno != id.SeqNo-1 {
		r.err = fmt.Errorf("block %d follows block %d", id.SeqNo, seqno)
	}
	if r.err != nil {
		return prev, invalid("reading the block before block %d: %w", id.SeqNo, r.err)
	}
	return ton.BlockIDExt{Workchain: id.Workchain, Shard: id.Shard, SeqNo: seqno, RootHash: root, FileHash: file}, nil
}

func (r *reader) magic(want uint64, bits uint) {
	if got := r.uint(bits); r.err == nil && got != want {
		r.err = fmt.Errorf("constructor %x instead of %x", got, want)
	}
}

// shardIdent reads ShardIdent: prefix length, workchain, prefix.
func (r *reader) shardIdent() (bits uint, workchain int32, prefix uint64) {
	r.magic(0, 2)
	bits = uint(r.uint(6))
	workchain = int32(r.uint(32))
	prefix = r.uint(64)
	if r.err == nil && bits > 60 {
		r.err = errors.New("shard prefix too long")
	}
	return bits, workchain, prefix
}

// state is what is read of a proven ShardStateUnsplit.
type state struct {
	accounts *cell.Cell // ShardAccounts, perhaps pruned
	custom   *cell.Cell // McStateExtra, perhaps pruned, or nil
}

// parseState reads a state proof for the state after a block.
func parseState(p *cell.Cell, b *block) (*state, error) {
	if b.newState == nil {
		return nil, invalid("a block without its state update")
	}
	body, err := unwrap(p, b.newState)
	if err != nil {
		return nil, err
	}
	r := newReader(body)
	r.magic(0x9023afe2, 32)
	globalID := int32(r.uint(32))
	_, workchain, _ := r.shardIdent()
	seqno := uint32(r.uint(32))
	r.uint(32) // vert_seq_no
	r.uint(32)
	r.uint(64)
	r.uint(32) // min_ref_mc_seqno
	r.ref()    // out_msg_queue_info
	r.uint(1)  // before_split
	s := &state{accounts: r.ref()}
	r.ref() // statistics
	s.custom = r.maybeRef()
	if r.err == nil && (globalID != b.globalID || workchain != b.workchain || seqno != b.seqno) {
		r.err = errors.New("the state is not of its block")
	}
	if r.err != nil {
		return nil, invalid("parsing a state: %w", r.err)
	}
	return s, nil
}

// findShard returns the shard block that a master state names for an address:
// the leaf of the workchain's tree that the address leads to, so that a server
// cannot answer with another shard, where the account is not.
func findShard(s *state, addr *address.Address) (*ton.BlockIDExt, error) {
	if s.custom == nil {
		return nil, invalid("not a masterchain state")
	}
	r := newReader(s.custom)
	r.magic(0xcc26, 16)
	hashes := r.maybeRef()
	if r.err != nil {
		return nil, invalid("parsing the masterchain's state: %w", r.err)
	}
	leaf, err := lookup(hashes, binary.BigEndian.AppendUint32(nil, uint32(addr.Workchain())), 32, skipNothing)
	if err != nil {
		return nil, fmt.Errorf("finding workchain %d: %w", addr.Workchain(), err)
	}
	if leaf == nil {
		return nil, invalid("no workchain %d", addr.Workchain())
	}
	node := leaf.ref()
	if leaf.err != nil {
		return nil, invalid("parsing the shards: %w", leaf.err)
	}
	id := addr.Data()
	for depth := uint(0); ; depth++ {
		n := newReader(node)
		if !n.bit() {
			return shardDescr(n, addr.Workchain(), depth, id)
		}
		left, right := n.ref(), n.ref()
		if n.err != nil || depth >= 60 {
			return nil, fmt.Errorf("%w: the path to the shard of %s", ErrUnproven, addr.StringRaw())
		}
		if node = left; bitAt(id, depth) == 1 {
			node = right
		}
	}
}

// shardDescr reads ShardDescr (both constructors) at the end of a path of
// depth bits of an address.
func shardDescr(n *reader, workchain int32, depth uint, addr []byte) (*ton.BlockIDExt, error) {
	tag := n.uint(4)
	seqno := n.uint(32)
	n.uint(32)
	n.uint(64)
	n.uint(64)
	root, file := n.bytes(256), n.bytes(256)
	if n.err == nil && tag != 0xa && tag != 0xb {
		n.err = fmt.Errorf("constructor %x", tag)
	}
	if n.err != nil {
		if errors.Is(n.err, errSpecial) {
			return nil, fmt.Errorf("%w: the shard of an account is pruned", ErrUnproven)
		}
		return nil, invalid("parsing a shard description: %w", n.err)
	}
	prefix := binary.BigEndian.Uint64(addr)
	mark := uint64(1) << (63 - depth)
	return &ton.BlockIDExt{Workchain: workchain, Shard: int64(prefix&^(mark<<1-1) | mark), SeqNo: uint32(seqno),
		RootHash: root, FileHash: file}, nil
}

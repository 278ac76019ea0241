package lite

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/contracts/chain/proof"
)

// Reader reads TL values; the first error sticks, and what follows is zero.
type Reader struct {
	b   []byte
	err error
}

var errShort = errors.New("answer too short")

func (r *Reader) fixed(n int) []byte {
	if r.err != nil || n > len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		return make([]byte, n)
	}
	v := r.b[:n]
	r.b = r.b[n:]
	return v
}

func (r *Reader) uint32() uint32 { return binary.LittleEndian.Uint32(r.fixed(4)) }
func (r *Reader) uint64() uint64 { return binary.LittleEndian.Uint64(r.fixed(8)) }

// bytes reads a TL byte string: a length of one or four bytes, the bytes, and
// padding to four.
func (r *Reader) bytes() []byte {
	n, head := int(r.fixed(1)[0]), 1
	if n == 0xfe {
		l := r.fixed(3)
		n, head = int(l[0])|int(l[1])<<8|int(l[2])<<16, 4
	} else if n == 0xff {
		r.err = errors.Join(r.err, errors.New("byte string too long"))
	}
	if r.err != nil || n > len(r.b) {
		if r.err == nil {
			r.err = errShort
		}
		return nil
	}
	v := r.fixed(n)
	if pad := (head + n) % 4; pad != 0 {
		r.fixed(4 - pad)
	}
	return v
}

// list reads the length of a vector whose elements take at least size bytes.
func (r *Reader) list(size int) int {
	n := r.uint32()
	if r.err == nil && uint64(n)*uint64(size) > uint64(len(r.b)) {
		r.err = errShort
	}
	if r.err != nil {
		return 0
	}
	return int(n)
}

func (r *Reader) bool() bool {
	switch v := r.uint32(); v {
	case tl.CRC("boolTrue = Bool"):
		return true
	case tl.CRC("boolFalse = Bool"):
	default:
		if r.err == nil {
			r.err = fmt.Errorf("%08x is not a Bool", v)
		}
	}
	return false
}

func (r *Reader) block() ton.BlockIDExt {
	return ton.BlockIDExt{Workchain: int32(r.uint32()), Shard: int64(r.uint64()), SeqNo: r.uint32(),
		RootHash: r.fixed(32), FileHash: r.fixed(32)}
}

// Error is liteServer.error.
type Error struct {
	Code int32
	Text string
}

// Error gives code and text as the server sent them.
func (e *Error) Error() string { return fmt.Sprintf("lite-server error %d: %q", e.Code, e.Text) }

// maxErrorText bounds what is kept of a server's words.
const maxErrorText = 4096

// Constructors of the answers (lite_api.tl).
const (
	schemaError        = "liteServer.error code:int message:string = liteServer.Error"
	schemaMaster       = "liteServer.masterchainInfo last:tonNode.blockIdExt state_root_hash:int256 init:tonNode.zeroStateIdExt = liteServer.MasterchainInfo"
	schemaAccount      = "liteServer.accountState id:tonNode.blockIdExt shardblk:tonNode.blockIdExt shard_proof:bytes proof:bytes state:bytes = liteServer.AccountState"
	schemaSent         = "liteServer.sendMsgStatus status:int = liteServer.SendMsgStatus"
	schemaConfig       = "liteServer.configInfo mode:# id:tonNode.blockIdExt state_proof:bytes config_proof:bytes = liteServer.ConfigInfo"
	schemaTransactions = "liteServer.transactionList ids:(vector tonNode.blockIdExt) transactions:bytes = liteServer.TransactionList"
	schemaHeader       = "liteServer.blockHeader id:tonNode.blockIdExt mode:# header_proof:bytes = liteServer.BlockHeader"
	schemaPartial      = "liteServer.partialBlockProof complete:Bool from:tonNode.blockIdExt to:tonNode.blockIdExt steps:(vector liteServer.BlockLink) = liteServer.PartialBlockProof"
	schemaForward      = "liteServer.blockLinkForward to_key_block:Bool from:tonNode.blockIdExt to:tonNode.blockIdExt dest_proof:bytes config_proof:bytes signatures:liteServer.SignatureSet = liteServer.BlockLink"
	// The first form was renamed later, but kept the constructor of its old name.
	schemaSignatures = "liteServer.signatureSet validator_set_hash:int catchain_seqno:int signatures:(vector liteServer.signature) = liteServer.SignatureSet"
	schemaSimplex    = "liteServer.signatureSet.simplex cc_seqno:int validator_set_hash:int signatures:(vector liteServer.signature) session_id:int256 slot:int candidate:bytes = liteServer.SignatureSet"
)

// open checks the constructor of an answer; a server's error becomes *Error.
func open(b []byte, schema string) (*Reader, error) {
	r := &Reader{b: b}
	id := r.uint32()
	if r.err == nil && id == tl.CRC(schemaError) {
		e := &Error{Code: int32(r.uint32())}
		text := r.bytes()
		e.Text = string(text[:min(len(text), maxErrorText)])
		if r.err == nil {
			return nil, e
		}
	}
	if r.err == nil && id != tl.CRC(schema) {
		r.err = fmt.Errorf("constructor %08x instead of %08x", id, tl.CRC(schema))
	}
	return r, r.done()
}

func (r *Reader) done() error {
	if r.err != nil {
		return fmt.Errorf("reading a lite-server's answer: %w", r.err)
	}
	return nil
}

// end is done for an answer that has been read whole.
func (r *Reader) end() error {
	if r.err == nil && len(r.b) != 0 {
		r.err = errors.New("trailing data")
	}
	return r.done()
}

// MasterchainInfo reads the newest master block.
func MasterchainInfo(b []byte) (ton.BlockIDExt, error) {
	r, err := open(b, schemaMaster)
	if err != nil {
		return ton.BlockIDExt{}, err
	}
	id := r.block()
	r.fixed(32)          // state hash
	r.fixed(4 + 32 + 32) // zero state
	return id, r.end()
}

// AccountState reads the answer to getAccountState. Its cells are well-formed
// but prove nothing yet.
func AccountState(b []byte) (*proof.AccountAnswer, error) {
	r, err := open(b, schemaAccount)
	if err != nil {
		return nil, err
	}
	r.block()
	r.block()
	shard, account, state := r.bytes(), r.bytes(), r.bytes()
	if err := r.end(); err != nil {
		return nil, err
	}
	a := &proof.AccountAnswer{}
	if len(shard) > 0 {
		if a.ShardProof, err = proof.DecodeBoC(shard, 2); err != nil {
			return nil, err
		}
	}
	if a.Proof, err = proof.DecodeBoC(account, 2); err != nil {
		return nil, err
	}
	if len(state) > 0 {
		one, err := proof.DecodeBoC(state, 1)
		if err != nil {
			return nil, err
		}
		a.State = one[0]
	}
	return a, nil
}

// SendStatus reads the answer to sendMessage; 1 is success.
func SendStatus(b []byte) (int32, error) {
	r, err := open(b, schemaSent)
	if err != nil {
		return 0, err
	}
	status := int32(r.uint32())
	return status, r.end()
}

// ConfigInfo reads the two proofs of a config.
func ConfigInfo(b []byte) (block, state []byte, err error) {
	r, err := open(b, schemaConfig)
	if err != nil {
		return nil, nil, err
	}
	r.uint32()
	r.block()
	block, state = r.bytes(), r.bytes()
	return block, state, r.end()
}

// TransactionList reads a list of transactions as one bag of cells, empty for
// none, and their number.
func TransactionList(b []byte) (bag []byte, n int, err error) {
	r, err := open(b, schemaTransactions)
	if err != nil {
		return nil, 0, err
	}
	n = r.list(80)
	for range n {
		r.block()
	}
	bag = r.bytes()
	return bag, n, r.end()
}

// BlockHeader reads the proof of a block's header.
func BlockHeader(b []byte) ([]byte, error) {
	r, err := open(b, schemaHeader)
	if err != nil {
		return nil, err
	}
	r.block()
	r.uint32()
	bag := r.bytes()
	return bag, r.end()
}

// BlockProof reads a chain of forward links, where it ends, and whether it is
// complete. Links backwards are refused: trust starts at a key block and goes
// forward only.
func BlockProof(b []byte) (links []proof.Link, to ton.BlockIDExt, err error) {
	r, err := open(b, schemaPartial)
	if err != nil {
		return nil, to, err
	}
	r.bool()
	r.block()
	to = r.block()
	for range min(r.list(4), proof.MaxLinks) {
		if id := r.uint32(); r.err == nil && id != tl.CRC(schemaForward) {
			r.err = fmt.Errorf("link of constructor %08x is not a forward link", id)
		}
		l := proof.Link{ToKey: r.bool()}
		r.block()
		l.To = r.block()
		l.Dest, l.Config = r.bytes(), r.bytes()
		r.signatures(&l)
		if r.err != nil {
			break
		}
		links = append(links, l)
	}
	return links, to, r.end()
}

// signatures reads a signature set of either consensus. The two forms start
// with the same two numbers in opposite order, so the constructor decides.
func (r *Reader) signatures(l *proof.Link) {
	s := &l.Signatures
	id := r.uint32()
	switch {
	case r.err != nil:
		return
	case id == tl.CRC(schemaSignatures):
		s.ValidatorSetHash, s.CatchainSeqno = int32(r.uint32()), int32(r.uint32())
	case id == tl.CRC(schemaSimplex):
		s.CatchainSeqno, s.ValidatorSetHash = int32(r.uint32()), int32(r.uint32())
		l.Simplex = &proof.Simplex{}
	default:
		r.err = fmt.Errorf("signature set of constructor %08x is not known", id)
		return
	}
	for range r.list(36) {
		s.Signatures = append(s.Signatures, ton.Signature{NodeIDShort: r.fixed(32), Signature: r.bytes()})
	}
	if l.Simplex != nil {
		l.Simplex.Session = [32]byte(r.fixed(32))
		l.Simplex.Slot = r.uint32()
		l.Simplex.Candidate = r.bytes()
	}
}

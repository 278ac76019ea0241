package proof

import (
	"encoding/binary"
	"errors"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
)

// Limits of a chain of links.
const (
	// MaxLinks bounds the links from the trusted block to a block.
	MaxLinks      = 4096
	maxSignatures = 1024
)

// Link leads from a trusted key block forward to a later master block: the
// key block's config names the validators that signed the later one
// (liteServer.blockLinkForward). Links of both consensus protocols may follow
// each other: a network changes over at some block.
type Link struct {
	To         ton.BlockIDExt
	ToKey      bool
	Dest       []byte // bag of cells: proof of To's header
	Config     []byte // bag of cells: proof of the config in the key block
	Signatures ton.SignatureSet
	Simplex    *Simplex // nil for a block of the older consensus
}

// Config parameters that decide who signs master blocks.
const (
	paramCatchain   = 28
	paramValidators = 34
)

// Follow checks links from a trusted key block and returns the block they end
// at. Only the last link may lead to a block that is not a key block.
func Follow(trusted ton.BlockIDExt, links []Link) (ton.BlockIDExt, error) {
	if len(links) > MaxLinks {
		return trusted, invalid("%d links", len(links))
	}
	at := trusted
	for i, l := range links {
		if err := l.check(at); err != nil {
			return trusted, err
		}
		if !l.ToKey && i != len(links)-1 {
			return trusted, invalid("a link starts at block %d, which is not a key block", l.To.SeqNo)
		}
		at = l.To
	}
	return at, nil
}

func (l *Link) check(from ton.BlockIDExt) error {
	if l.To.Workchain != address.MasterchainID || l.To.SeqNo <= from.SeqNo || !hashed(&l.To) || !hashed(&from) {
		return invalid("a link from block %d to block %d", from.SeqNo, l.To.SeqNo)
	}
	dest, err := DecodeBoC(l.Dest, 1)
	if err != nil {
		return invalid("reading a link: %w", err)
	}
	config, err := DecodeBoC(l.Config, 1)
	if err != nil {
		return invalid("reading a link: %w", err)
	}
	to, err := parseBlock(dest[0], l.To.RootHash)
	if err != nil {
		return err
	}
	if to.notMaster || to.seqno != l.To.SeqNo || to.key != l.ToKey {
		return invalid("the header of block %d says otherwise", l.To.SeqNo)
	}
	catchain, set, err := keyBlockConfig(config[0], &from)
	if err != nil {
		return err
	}
	validators, err := ton.GetMainValidators(&l.To, catchain, set, to.catchainSeqno)
	if err != nil {
		return invalid("choosing validators: %w", err)
	}
	if uint32(l.Signatures.ValidatorSetHash) != to.validatorHash || uint32(l.Signatures.CatchainSeqno) != to.catchainSeqno ||
		len(l.Signatures.Signatures) > maxSignatures {
		return invalid("signatures of another validator set")
	}
	if err := l.checkSignatures(validators); err != nil {
		return invalid("checking the signatures of block %d: %w", l.To.SeqNo, err)
	}
	return nil
}

func hashed(id *ton.BlockIDExt) bool { return len(id.RootHash) == 32 && len(id.FileHash) == 32 }

// keyBlockConfig reads the two parameters from a proven key block.
func keyBlockConfig(p *cell.Cell, from *ton.BlockIDExt) (catchain tlb.CatchainConfig, set tlb.ValidatorSetAny, err error) {
	b, err := parseBlock(p, from.RootHash)
	if err != nil {
		return catchain, set, err
	}
	if b.notMaster || !b.key || b.seqno != from.SeqNo {
		return catchain, set, invalid("block %d is not a key block", from.SeqNo)
	}
	r := newReader(b.extra)
	r.magic(0x4a33f6fd, 32)
	r.ref()
	r.ref()
	r.ref()
	r.bytes(512) // rand_seed, created_by
	custom := r.maybeRef()
	if r.err != nil || custom == nil {
		return catchain, set, invalid("parsing a key block: %w", errors.Join(r.err, errNoExtra(custom)))
	}
	e := newReader(custom)
	e.magic(0xcca5, 16)
	if !e.bit() && e.err == nil {
		e.err = errors.New("no key block")
	}
	e.maybeRef() // shard_hashes
	e.maybeRef() // shard_fees
	e.currencies()
	e.currencies()
	e.ref() // signatures and special messages
	e.bytes(256)
	dict := e.ref()
	if e.err != nil {
		return catchain, set, invalid("parsing a key block's config: %w", e.err)
	}
	cc, err1 := param(dict, paramCatchain)
	vs, err2 := param(dict, paramValidators)
	if err := errors.Join(err1, err2); err != nil {
		return catchain, set, err
	}
	err1 = tlb.LoadFromCell(&catchain, cc.BeginParse())
	err2 = tlb.LoadFromCell(&set, vs.BeginParse())
	if err := errors.Join(err1, err2); err != nil {
		return catchain, set, invalid("parsing the validators: %w", err)
	}
	return catchain, set, nil
}

func errNoExtra(c *cell.Cell) error {
	if c == nil {
		return errors.New("no masterchain part")
	}
	return nil
}

// param returns a config parameter whose cells are all ordinary, so that the
// library's parsers can be used on it.
func param(dict *cell.Cell, id uint32) (*cell.Cell, error) {
	r, err := lookup(dict, binary.BigEndian.AppendUint32(nil, id), 32, skipNothing)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return nil, invalid("no config parameter %d", id)
	}
	c := r.ref()
	if r.err != nil {
		return nil, invalid("parsing config parameter %d: %w", id, r.err)
	}
	if c.ToRawUnsafe().LevelMask.Mask != 0 || !ordinary(c) {
		return nil, invalid("config parameter %d is pruned", id)
	}
	return c, nil
}

func ordinary(c *cell.Cell) bool {
	raw := c.ToRawUnsafe()
	if raw.IsSpecial {
		return false
	}
	for _, ref := range raw.Refs {
		if !ordinary(ref) {
			return false
		}
	}
	return true
}

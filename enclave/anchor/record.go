package anchor

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/ton"

	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/jcs"
	"cocoon/internal/toncell"
)

// Format names the record.
const Format = "cocoon-anchor/1"

const (
	fileName  = "anchor.json"
	maxRecord = 4 << 10
)

// Record is what the data disk carries. The disk is encrypted and
// authenticated: the host can put back an older record, and write none.
type Record struct {
	Format     string          `json:"format"`
	Worker     toncell.Address `json:"worker"`     // the contract that counts the boots
	Generation uint64          `json:"generation"` // of the last boot that took the disk
	KeyBlock   Block           `json:"key_block"`  // of the chain that the contract is on
}

// Block is a master block.
type Block struct {
	Seqno    uint32        `json:"seqno"`
	RootHash hexbytes.Hash `json:"root_hash"`
	FileHash hexbytes.Hash `json:"file_hash"`
}

// NewBlock returns id as it is kept.
func NewBlock(id ton.BlockIDExt) Block {
	b := Block{Seqno: id.SeqNo}
	copy(b.RootHash[:], id.RootHash)
	copy(b.FileHash[:], id.FileHash)
	return b
}

// ID returns the block as package chain takes it.
func (b *Block) ID() *ton.BlockIDExt {
	return &ton.BlockIDExt{Workchain: address.MasterchainID, Shard: -1 << 63, SeqNo: b.Seqno, RootHash: b.RootHash[:], FileHash: b.FileHash[:]}
}

// Read returns the record in the disk's directory; nil if it has none.
func Read(dir string) (*Record, error) {
	path := filepath.Join(dir, fileName)
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil && fi.Size() > maxRecord {
		err = errors.New("it is too long")
	}
	var doc []byte
	if err == nil {
		doc, err = os.ReadFile(path)
	}
	if err != nil {
		return nil, unreadable(err)
	}
	return Parse(doc)
}

// Parse reads a record.
func Parse(doc []byte) (*Record, error) {
	var r Record
	err := jcs.DecodeCanonical(doc, maxRecord, &r)
	if err == nil && (r.Format != Format || r.Generation == 0) {
		err = fmt.Errorf("format %.32q, generation %d", r.Format, r.Generation)
	}
	if err != nil {
		return nil, unreadable(err)
	}
	return &r, nil
}

func unreadable(err error) error {
	return fault.New(fault.ExitParse, CodeRecord, remedyDisk, "reading the data disk's anchor: %w", err)
}

// write puts the record on the disk; after a power cut it is the old or the
// new one.
func (r *Record) write(dir string) error {
	doc, err := jcs.Marshal(r)
	if err != nil {
		return fmt.Errorf("writing the data disk's anchor: %w", err)
	}
	if err := durable.Write(filepath.Join(dir, fileName), doc, 0o600); err != nil {
		return fmt.Errorf("writing the data disk's anchor: %w", err)
	}
	return nil
}

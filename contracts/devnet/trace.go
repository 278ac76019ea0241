package devnet

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"sort"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"go.etcd.io/bbolt"
)

// Trace is a chain's whole history in a form that another executor can repeat:
// the accounts of block 1 and every transaction since, with what its execution
// depends on. Cells are bags of cells. It fits the memory for chains of some
// ten thousand transactions, such as tests make.
type Trace struct {
	Config  []byte         `json:"config"`  // root of the config dictionary
	Genesis []TraceAccount `json:"genesis"` // in order of their ids
	Steps   []TraceStep    `json:"steps"`   // in order of their logical times
	Final   []TraceAccount `json:"final"`   // of the newest block, in order of their ids
}

// TraceAccount is a ShardAccount.
type TraceAccount struct {
	ID      string `json:"id"` // of an account in workchain 0, hex
	Account []byte `json:"account"`
}

// TraceStep is one transaction.
type TraceStep struct {
	ID          string `json:"id"`
	Message     []byte `json:"message"`
	Now         uint32 `json:"now"`
	LT          uint64 `json:"lt,string"`
	Seed        string `json:"seed"` // of the block, hex
	Transaction []byte `json:"transaction"`
}

// Trace returns the chain's history up to the newest block.
func (d *Devnet) Trace() (*Trace, error) {
	c := d.chain
	c.produce.Lock()
	defer c.produce.Unlock()
	genesis, err := d.id.accounts()
	if err != nil {
		return nil, err
	}
	t := &Trace{Config: encodeBoC(c.params.config), Genesis: traceAccounts(genesis), Final: traceAccounts(c.lastHeight().accounts)}
	seeds := map[uint32]string{}
	err = c.store.eachTransaction(func(addr []byte, seqno uint32, tx *cell.Cell) error {
		seed, ok := seeds[seqno]
		if !ok {
			h, err := c.bySeqno(seqno)
			if err != nil {
				return err
			}
			seed = hex.EncodeToString(h.seed[:])
			seeds[seqno] = seed
		}
		var parsed tlb.Transaction
		if err := tlb.LoadFromCell(&parsed, tx.BeginParse()); err != nil {
			return err
		}
		msg, err := inMessage(tx)
		if err != nil {
			return err
		}
		t.Steps = append(t.Steps, TraceStep{ID: hex.EncodeToString(addr), Message: encodeBoC(msg),
			Now: parsed.Now, LT: parsed.LT, Seed: seed, Transaction: encodeBoC(tx)})
		return nil
	})
	if err != nil {
		return nil, err
	}
	sort.Slice(t.Steps, func(i, j int) bool { return t.Steps[i].LT < t.Steps[j].LT })
	return t, nil
}

func traceAccounts(tree *augTree) []TraceAccount {
	var out []TraceAccount
	tree.each(func(key []byte, value *cell.Cell) {
		out = append(out, TraceAccount{hex.EncodeToString(key), encodeBoC(value)})
	})
	return out
}

// inMessage returns the cell of the message that a transaction executed (TL-B
// Transaction: ^[in_msg:(Maybe ^Message) …] is its first reference).
func inMessage(tx *cell.Cell) (*cell.Cell, error) {
	io, err := tx.PeekRef(0)
	if err != nil {
		return nil, err
	}
	s := io.BeginParse()
	if in, err := s.LoadBoolBit(); err != nil || !in {
		return nil, fmt.Errorf("a transaction without a message: %v", err)
	}
	return s.LoadRefCell()
}

// eachTransaction calls f for every transaction, in order of account and
// logical time.
func (s *store) eachTransaction(f func(addr []byte, seqno uint32, tx *cell.Cell) error) error {
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketTxs)).ForEach(func(k, v []byte) error {
			if len(k) != 40 || len(v) < 4 {
				return fmt.Errorf("a record of %d and %d bytes", len(k), len(v))
			}
			c, err := fromBoC(v[4:])
			if err != nil {
				return err
			}
			return f(append([]byte(nil), k[:32]...), binary.BigEndian.Uint32(v), c)
		})
	})
	if err != nil {
		return corrupt(fmt.Errorf("reading the transactions: %w", err))
	}
	return nil
}

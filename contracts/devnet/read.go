package devnet

import (
	"bytes"
	"fmt"
	"sort"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"go.etcd.io/bbolt"

	"cocoon/contracts/chain/proof"
)

// What the explorer reads of a chain. These go straight to the store, without
// proofs: a page of the devnet's own process.

// Block is one height.
type Block struct {
	Seqno uint32
	Time  time.Time
	Hash  []byte // of the master block
	// Transactions are in the order of (account, logical time).
	Transactions []Transaction
}

// Transaction is one of an account in workchain 0.
type Transaction struct {
	tlb.Transaction
	Account []byte // id
	Seqno   uint32 // of its block
}

// Account is an account in workchain 0.
type Account struct {
	ID []byte
	proof.Account
}

// Block returns a height with its transactions, or nil.
func (d *Devnet) Block(seqno uint32) (*Block, error) {
	h, err := d.chain.bySeqno(seqno)
	if err != nil || h == nil {
		return nil, err
	}
	ids, err := blockTransactions(h.shardBlock)
	if err != nil {
		return nil, err
	}
	b := &Block{Seqno: seqno, Time: time.Unix(int64(h.utime), 0).UTC(), Hash: h.master.RootHash}
	for _, id := range ids {
		c, at, err := d.chain.store.transaction(id.Account, id.LT)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return nil, corrupt(fmt.Errorf("transaction %d of block %d is not stored", id.LT, seqno))
		}
		tx, err := parseStored(id.Account, at, c)
		if err != nil {
			return nil, err
		}
		b.Transactions = append(b.Transactions, *tx)
	}
	return b, nil
}

func parseStored(account []byte, seqno uint32, c *cell.Cell) (*Transaction, error) {
	tx := &Transaction{Account: account, Seqno: seqno}
	if err := tlb.LoadFromCell(&tx.Transaction, c.BeginParse()); err != nil {
		return nil, corrupt(fmt.Errorf("reading a transaction: %w", err))
	}
	tx.Hash = c.Hash()
	return tx, nil
}

// Accounts returns up to n accounts, those with the newest transactions first,
// and how many there are.
func (d *Devnet) Accounts(n int) ([]Account, int, error) {
	var out []Account
	var failed error
	d.chain.lastHeight().accounts.each(func(id []byte, value *cell.Cell) {
		a, err := parseShardAccount(id, value)
		if err != nil {
			failed = err
			return
		}
		out = append(out, *a)
	})
	if failed != nil {
		return nil, 0, failed
	}
	sort.SliceStable(out, func(i, j int) bool { return out[i].LastLT > out[j].LastLT })
	return out[:min(n, len(out))], len(out), nil
}

func parseShardAccount(id []byte, value *cell.Cell) (*Account, error) {
	s := value.BeginParse()
	state, err := s.LoadRefCell()
	if err != nil {
		return nil, err
	}
	acc, err := proof.ParseAccount(state)
	if err != nil {
		return nil, err
	}
	return &Account{ID: id, Account: *acc}, nil
}

// Account returns an account of the newest block, or nil.
func (d *Devnet) Account(id []byte) (*Account, error) {
	v := d.chain.lastHeight().accounts.get(id)
	if v == nil {
		return nil, nil
	}
	return parseShardAccount(id, v)
}

// History returns up to n of an account's transactions before a logical time,
// newest first; 0 starts at the newest.
func (d *Devnet) History(id []byte, before uint64, n int) ([]Transaction, error) {
	var out []Transaction
	if before == 0 {
		before--
	}
	err := d.chain.store.db.View(func(tx *bbolt.Tx) error {
		c := tx.Bucket([]byte(bucketTxs)).Cursor()
		k, v := c.Seek(txKey(id, before))
		if k == nil {
			k, v = c.Last()
		}
		for ; k != nil && len(out) < n; k, v = c.Prev() {
			if bytes.Compare(k, txKey(id, before)) >= 0 {
				continue
			}
			if !bytes.HasPrefix(k, id) || len(v) < 4 {
				break
			}
			b, err := fromBoC(v[4:])
			if err != nil {
				return err
			}
			t, err := parseStored(append([]byte(nil), id...), uint32(v[0])<<24|uint32(v[1])<<16|uint32(v[2])<<8|uint32(v[3]), b)
			if err != nil {
				return err
			}
			out = append(out, *t)
		}
		return nil
	})
	return out, err
}

package devnet

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"cocoon/internal/fault"
)

// store keeps the chain in one bbolt file. A height is written in one
// transaction (blocks, accounts, transactions, queue), and nothing of it is
// visible to clients before that transaction is on disk: a process killed at
// any moment comes back with every confirmed block.
//
//	meta    "identity" -> JSON identity, "skew" -> int64 nanoseconds
//	blocks  seqno u32 BE -> JSON record
//	shard, master  seqno u32 BE -> bag of cells
//	accounts  account id -> bag of cells of its ShardAccount, newest only
//	txs     account id ‖ lt u64 BE -> seqno u32 BE ‖ bag of cells
//	queue   position u32 BE -> bag of cells of a message, newest only
//	dead    seqno u32 BE ‖ position u32 BE -> bag of cells of a message
type store struct{ db *bbolt.DB }

const (
	bucketMeta     = "meta"
	bucketBlocks   = "blocks"
	bucketShard    = "shard"
	bucketMaster   = "master"
	bucketAccounts = "accounts"
	bucketTxs      = "txs"
	bucketQueue    = "queue"
	bucketDead     = "dead"

	storeFormat = 1
)

// identity is what makes one devnet this devnet.
type identity struct {
	Format    int      `json:"format"`
	GlobalID  int32    `json:"global_id"`
	Validator []byte   `json:"validator_seed"`
	Server    []byte   `json:"server_seed"`
	Faucet    []byte   `json:"faucet_seed"`
	Wallets   [][]byte `json:"wallet_seeds,omitempty"`
	ZeroRoot  [32]byte `json:"zero_root"`
	ZeroFile  [32]byte `json:"zero_file"`
	Genesis   uint32   `json:"genesis_utime"`
}

// record is the part of a height that is not in its blocks' bags of cells.
type record struct {
	Utime       uint32         `json:"utime"`
	EndLT       uint64         `json:"end_lt"`
	Seed        [32]byte       `json:"seed"`
	Shard       ton.BlockIDExt `json:"shard"`
	Master      ton.BlockIDExt `json:"master"`
	ShardState  []byte         `json:"shard_state"`
	MasterState []byte         `json:"master_state"`
}

func openStore(dir string) (*store, error) {
	path := filepath.Join(dir, "chain.db")
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fault.New(fault.ExitInternal, "ton.devnet.dir_in_use", "stop the other devnet or name another --state",
			"opening %s: %w", path, err)
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "ton.devnet.corrupt", "remove the directory to start a new chain",
			"opening %s: %w", path, err)
	}
	s := &store{db}
	err = db.Update(func(tx *bbolt.Tx) error {
		for _, name := range []string{bucketMeta, bucketBlocks, bucketShard, bucketMaster, bucketAccounts, bucketTxs, bucketQueue, bucketDead} {
			if _, err := tx.CreateBucketIfNotExists([]byte(name)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("preparing %s: %w", path, err), db.Close())
	}
	return s, nil
}

func (s *store) close() error { return s.db.Close() }

func key32(v uint32) []byte { return binary.BigEndian.AppendUint32(nil, v) }

// identity returns nil for a new store.
func (s *store) identity() (*identity, error) {
	var id *identity
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte(bucketMeta)).Get([]byte("identity"))
		if b == nil {
			return nil
		}
		id = &identity{}
		return json.Unmarshal(b, id)
	})
	if err == nil && id != nil && id.Format != storeFormat {
		err = fmt.Errorf("format %d is not %d", id.Format, storeFormat)
	}
	if err != nil {
		return nil, corrupt(fmt.Errorf("reading the identity: %w", err))
	}
	return id, nil
}

func corrupt(err error) error {
	return fault.New(fault.ExitParse, "ton.devnet.corrupt", "remove the directory to start a new chain",
		"reading the stored chain: %w", err)
}

func (s *store) setSkew(d time.Duration) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketMeta)).Put([]byte("skew"), binary.BigEndian.AppendUint64(nil, uint64(d)))
	})
	if err != nil {
		return fmt.Errorf("storing the clock: %w", err)
	}
	return nil
}

func (s *store) skew() (time.Duration, error) {
	var d time.Duration
	err := s.db.View(func(tx *bbolt.Tx) error {
		if b := tx.Bucket([]byte(bucketMeta)).Get([]byte("skew")); len(b) == 8 {
			d = time.Duration(binary.BigEndian.Uint64(b))
		}
		return nil
	})
	return d, err
}

// genesis writes identity and first height of a new chain at once.
func (s *store) genesis(id *identity, h *height) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		b, err := json.Marshal(id)
		if err != nil {
			return err
		}
		if err := tx.Bucket([]byte(bucketMeta)).Put([]byte("identity"), b); err != nil {
			return err
		}
		var failed error
		h.accounts.each(func(addr []byte, value *cell.Cell) {
			failed = errors.Join(failed, tx.Bucket([]byte(bucketAccounts)).Put(addr, encodeBoC(value)))
		})
		return errors.Join(failed, putHeight(tx, h))
	})
	if err != nil {
		return fmt.Errorf("storing the first block: %w", err)
	}
	return nil
}

func putHeight(tx *bbolt.Tx, h *height) error {
	rec, err := json.Marshal(record{Utime: h.utime, EndLT: h.endLT, Seed: h.seed, Shard: h.shard, Master: h.master,
		ShardState: h.shardStateHash, MasterState: h.mcStHash})
	if err != nil {
		return err
	}
	key := key32(h.seqno)
	return errors.Join(
		tx.Bucket([]byte(bucketBlocks)).Put(key, rec),
		tx.Bucket([]byte(bucketShard)).Put(key, h.shardBoC),
		tx.Bucket([]byte(bucketMaster)).Put(key, h.masterBoC))
}

// commit writes one height.
func (s *store) commit(h *height, x *executor) error {
	err := s.db.Update(func(tx *bbolt.Tx) error {
		if err := putHeight(tx, h); err != nil {
			return err
		}
		accounts := tx.Bucket([]byte(bucketAccounts))
		for addr := range x.touched {
			var err error
			if value := x.accounts.get([]byte(addr)); value != nil {
				err = accounts.Put([]byte(addr), encodeBoC(value))
			} else {
				err = accounts.Delete([]byte(addr))
			}
			if err != nil {
				return err
			}
		}
		txs := tx.Bucket([]byte(bucketTxs))
		for _, t := range x.txs {
			if err := txs.Put(txKey(t.addr, t.lt), append(key32(h.seqno), encodeBoC(t.cell)...)); err != nil {
				return err
			}
		}
		if err := tx.DeleteBucket([]byte(bucketQueue)); err != nil {
			return err
		}
		queue, err := tx.CreateBucket([]byte(bucketQueue))
		if err != nil {
			return err
		}
		for i, m := range x.queue {
			if err := queue.Put(key32(uint32(i)), encodeBoC(m.msg)); err != nil {
				return err
			}
		}
		dead := tx.Bucket([]byte(bucketDead))
		for i, m := range x.dead {
			if err := dead.Put(append(key32(h.seqno), key32(uint32(i))...), encodeBoC(m.msg)); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("storing block %d: %w", h.seqno, err)
	}
	return nil
}

func txKey(addr []byte, lt uint64) []byte {
	return binary.BigEndian.AppendUint64(append([]byte(nil), addr...), lt)
}

// queue returns the waiting messages in delivery order.
func (s *store) queue() ([]queued, error) {
	var q []queued
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketQueue)).ForEach(func(_, v []byte) error {
			c, err := fromBoC(v)
			if err != nil {
				return err
			}
			m, _, err := parseQueued(c)
			q = append(q, m)
			return err
		})
	})
	if err != nil {
		return nil, corrupt(fmt.Errorf("reading the message queue: %w", err))
	}
	return q, nil
}

// fromBoC copies first: bbolt's memory ends with the transaction, and cells
// keep pointing into their input.
func fromBoC(b []byte) (*cell.Cell, error) {
	return cell.FromBOC(append([]byte(nil), b...))
}

// transaction returns a transaction and its block's seqno, or nil.
func (s *store) transaction(addr []byte, lt uint64) (*cell.Cell, uint32, error) {
	var c *cell.Cell
	var seqno uint32
	err := s.db.View(func(tx *bbolt.Tx) (err error) {
		v := tx.Bucket([]byte(bucketTxs)).Get(txKey(addr, lt))
		if len(v) < 4 {
			return nil
		}
		seqno = binary.BigEndian.Uint32(v)
		c, err = fromBoC(v[4:])
		return err
	})
	if err != nil {
		return nil, 0, corrupt(fmt.Errorf("reading a transaction: %w", err))
	}
	return c, seqno, nil
}

// height reads a height's blocks, without states; nil if there is none.
func (s *store) height(seqno uint32) (*height, error) {
	var h *height
	err := s.db.View(func(tx *bbolt.Tx) error {
		key := key32(seqno)
		b := tx.Bucket([]byte(bucketBlocks)).Get(key)
		if b == nil {
			return nil
		}
		var r record
		if err := json.Unmarshal(b, &r); err != nil {
			return err
		}
		h = &height{seqno: seqno, utime: r.Utime, endLT: r.EndLT, seed: r.Seed, shard: r.Shard, master: r.Master,
			shardStateHash: r.ShardState, mcStHash: r.MasterState,
			shardBoC:  append([]byte(nil), tx.Bucket([]byte(bucketShard)).Get(key)...),
			masterBoC: append([]byte(nil), tx.Bucket([]byte(bucketMaster)).Get(key)...)}
		var err1, err2 error
		h.shardBlock, err1 = cell.FromBOC(h.shardBoC)
		h.masterBlock, err2 = cell.FromBOC(h.masterBoC)
		return errors.Join(err1, err2)
	})
	if err != nil {
		return nil, corrupt(fmt.Errorf("reading block %d: %w", seqno, err))
	}
	return h, nil
}

// newest returns the highest seqno, 0 for none.
func (s *store) newest() (uint32, error) {
	var seqno uint32
	err := s.db.View(func(tx *bbolt.Tx) error {
		if k, _ := tx.Bucket([]byte(bucketBlocks)).Cursor().Last(); len(k) == 4 {
			seqno = binary.BigEndian.Uint32(k)
		}
		return nil
	})
	return seqno, err
}

// eachAccount calls f for every account.
func (s *store) eachAccount(f func(addr []byte, shardAccount *cell.Cell) error) error {
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket([]byte(bucketAccounts)).ForEach(func(k, v []byte) error {
			c, err := fromBoC(v)
			if err != nil {
				return err
			}
			return f(append([]byte(nil), k...), c)
		})
	})
	if err != nil {
		return corrupt(fmt.Errorf("reading the accounts: %w", err))
	}
	return nil
}

// Package chain is what the rest of the project knows of TON: proven account
// state, get methods that run here, wallets, and account proofs that can be
// kept. It talks to whatever lite-servers a global.config.json names and
// trusts that file's init block and its own arithmetic, no server.
//
// Every read starts at a fresh master block that signed links connect with the
// init block, and ends at a Merkle proof (package proof): a wrong state is
// ton.proof.invalid, a hidden one ton.proof.unproven, and an account counts as
// absent only when the proof shows it. Get methods run in the embedded TVM on
// proven code and data. Transactions are taken only along the hash chain that
// ends in the proven account.
package chain

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tl"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/ton"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/lite"
	"cocoon/contracts/chain/netconfig"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

// Options configure a Client.
type Options struct {
	// TVM runs get methods; nil opens one at the first of them, from TVMDir,
	// which Close closes.
	TVM    *tvm.Engine
	TVMDir string
	// Start is a key block that was proven before (KeyBlock); proofs start
	// there instead of at the config's init block. Whoever keeps it goes on
	// along the same chain, whatever config is given later.
	Start *ton.BlockIDExt
	// MaxAge is how old a proven state may be by this machine's clock; 0 means
	// DefaultMaxAge, less any age. It ends the power of servers that agree on
	// showing an old chain.
	MaxAge time.Duration
	// Patience is how long one server may take where there are others; 0 means
	// DefaultPatience.
	Patience time.Duration
	// Clock is this machine's; nil means time.Now.
	Clock func() time.Time
	// Logger may be nil.
	Logger *slog.Logger
}

// DefaultMaxAge is the default of Options.MaxAge: the masterchain has a block
// every few seconds.
const DefaultMaxAge = 10 * time.Minute

// DefaultPatience is the default of Options.Patience.
const DefaultPatience = 4 * time.Second

// Client reads and writes one TON network. It is safe for concurrent use.
type Client struct {
	pool *pool
	cfg  *netconfig.Config
	opts Options
	log  *slog.Logger

	mu      sync.Mutex
	trusted ton.BlockIDExt // newest key block that links reached
	newest  uint32         // highest master seqno seen; a server may not go back
	engine  *tvm.Engine    // owned
}

// State is a proven account; see package proof.
type State = proof.State

// Open reads a global.config.json document and returns a client for its
// network. No server is asked yet.
func Open(doc []byte, o Options) (*Client, error) {
	cfg, err := netconfig.Parse(doc)
	if err != nil {
		return nil, err
	}
	return open(cfg, o), nil
}

// OpenFile is Open for the file at path.
func OpenFile(path string, o Options) (*Client, error) {
	cfg, err := netconfig.Load(path)
	if err != nil {
		return nil, err
	}
	return open(cfg, o), nil
}

func open(cfg *netconfig.Config, o Options) *Client {
	if o.Start != nil {
		own := *cfg
		own.InitBlock = *o.Start
		cfg = &own
	}
	c := &Client{pool: newPool(cfg.Servers), cfg: cfg, opts: o, log: o.Logger, trusted: cfg.InitBlock}
	if c.log == nil {
		c.log = slog.New(slog.DiscardHandler)
	}
	if c.opts.Clock == nil {
		c.opts.Clock = time.Now
	}
	if c.opts.Patience == 0 {
		c.opts.Patience = DefaultPatience
	}
	if c.opts.MaxAge == 0 {
		c.opts.MaxAge = DefaultMaxAge
	}
	return c
}

// Close ends the connection and the TVM that the client opened.
func (c *Client) Close() error {
	c.mu.Lock()
	engine := c.engine
	c.engine = nil
	c.mu.Unlock()
	err := c.pool.close()
	if engine != nil {
		err = errors.Join(err, engine.Close(context.Background()))
	}
	return err
}

// KeyBlock returns the newest key block that was proven: the one that the
// client started from, until Head has met another.
func (c *Client) KeyBlock() ton.BlockIDExt {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.trusted
}

// Account returns the account's state at a fresh master block.
func (c *Client) Account(ctx context.Context, addr *address.Address) (*State, error) {
	head, err := c.Head(ctx)
	if err != nil {
		return nil, err
	}
	st, _, err := c.accountAt(ctx, &head, addr)
	return st, err
}

// AccountAt is Account at a master block that Head returned.
func (c *Client) AccountAt(ctx context.Context, master ton.BlockIDExt, addr *address.Address) (*State, error) {
	st, _, err := c.accountAt(ctx, &master, addr)
	return st, err
}

func (c *Client) accountAt(ctx context.Context, master *ton.BlockIDExt, addr *address.Address) (*State, *proof.AccountAnswer, error) {
	if addr == nil || addr.Type() != address.StdAddress {
		return nil, nil, fault.New(fault.ExitInternal, "ton.address.malformed", "name a standard address", "reading an account: no address")
	}
	var st *State
	a, err := ask(ctx, c, ton.GetAccountState{ID: master, Account: ton.AccountID{Workchain: addr.Workchain(), ID: addr.Data()}},
		func(b []byte) (*proof.AccountAnswer, error) {
			a, err := lite.AccountState(b)
			if err != nil {
				return nil, err
			}
			if st, err = proof.CheckAccount(master, addr, a); err != nil {
				return nil, err
			}
			return a, c.fresh(st)
		})
	if err != nil {
		return nil, nil, err
	}
	return st, a, nil
}

// fresh refuses a state that is proven, but old.
func (c *Client) fresh(st *State) error {
	if age := c.opts.Clock().Sub(time.Unix(int64(st.Utime), 0)); c.opts.MaxAge > 0 && age > c.opts.MaxAge {
		return fault.Mismatch(fault.ExitRefused, "ton.server.stale", "age of the newest master block", "at most "+c.opts.MaxAge.String(),
			age.Round(time.Second).String(), "ask another lite-server, and check this machine's clock")
	}
	return nil
}

// ExportAccountProof returns the account's state at a fresh master block as a
// self-contained document that VerifyAccountProof checks offline, and the
// state it proves.
func (c *Client) ExportAccountProof(ctx context.Context, addr *address.Address) ([]byte, *State, error) {
	head, err := c.Head(ctx)
	if err != nil {
		return nil, nil, err
	}
	links, err := c.anyLinks(ctx, c.cfg.InitBlock, head)
	if err != nil {
		return nil, nil, err
	}
	st, answer, err := c.accountAt(ctx, &head, addr)
	if err != nil {
		return nil, nil, err
	}
	doc, err := proof.NewBundle(addr, c.cfg.InitBlock, links, answer)
	if err != nil {
		return nil, nil, err
	}
	return doc, st, nil
}

// VerifyAccountProof checks an exported proof offline: from the init block of
// the network config over validators' signatures to the master block, the
// shard, and the account's state. What it proves is old by the age of
// State.Utime; the caller decides how old it may be.
func VerifyAccountProof(doc, globalConfig []byte, addr *address.Address) (*State, error) {
	cfg, err := netconfig.Parse(globalConfig)
	if err != nil {
		return nil, err
	}
	return proof.Verify(doc, cfg.InitBlock, addr)
}

// Wait returns once a master block of at least this seqno exists, and its
// newest successor.
func (c *Client) Wait(ctx context.Context, seqno uint32) (ton.BlockIDExt, error) {
	const step = 10 * time.Second
	for {
		timeout := step
		if d, ok := ctx.Deadline(); ok {
			timeout = min(timeout, time.Until(d))
		}
		if timeout <= 0 {
			return ton.BlockIDExt{}, timedOut(context.DeadlineExceeded)
		}
		prefix := binary.LittleEndian.AppendUint32(nil, tl.CRC("liteServer.waitMasterchainSeqno seqno:int timeout_ms:int = Object"))
		prefix = binary.LittleEndian.AppendUint32(prefix, seqno)
		prefix = binary.LittleEndian.AppendUint32(prefix, uint32(timeout.Milliseconds()))
		query, err := tl.Serialize(ton.GetMasterchainInf{}, true)
		if err != nil {
			return ton.BlockIDExt{}, fmt.Errorf("writing a query: %w", err)
		}
		head, err := c.head(ctx, tl.Raw(append(prefix, query...)), timeout)
		var ls *lite.Error
		switch {
		case err == nil && head.SeqNo >= seqno:
			return head, nil
		case ctx.Err() != nil:
			return head, timedOut(ctx.Err())
		case err != nil && !errors.As(err, &ls):
			return head, err
		}
		// The server's own timeout, or a server that is behind: ask again.
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			return head, timedOut(ctx.Err())
		}
	}
}

func timedOut(err error) error {
	return fault.New(fault.ExitNetwork, "ton.wait.timeout", "look again later: what was sent may still arrive", "waiting for the chain: %w", err)
}

// WaitAccount returns the account's state as soon as ok accepts it.
func (c *Client) WaitAccount(ctx context.Context, addr *address.Address, ok func(*State) bool) (*State, error) {
	head, err := c.Head(ctx)
	for {
		if err != nil {
			return nil, err
		}
		st, err2 := c.AccountAt(ctx, head, addr)
		if err2 != nil {
			return nil, err2
		}
		if ok(st) {
			return st, nil
		}
		head, err = c.Wait(ctx, head.SeqNo+1)
	}
}

// maxTransactions bounds one Transactions call.
const maxTransactions = 256

// Transactions returns the account's newest transactions up to st, newest
// first, at most n. Each is the one that the proven state or its successor
// names by hash.
func (c *Client) Transactions(ctx context.Context, addr *address.Address, st *State, n int) ([]*tlb.Transaction, error) {
	return c.transactionsAfter(ctx, addr, st, 0, n)
}

// firstBatch is how many transactions are asked for at first where only the
// newest are wanted: mostly there are one or two.
const firstBatch = 2

// transactionsAfter is Transactions without those up to logical time after.
func (c *Client) transactionsAfter(ctx context.Context, addr *address.Address, st *State, after uint64, n int) ([]*tlb.Transaction, error) {
	lt, hash := st.LastLT, st.LastHash
	n = min(n, maxTransactions)
	var out []*tlb.Transaction
	for len(out) < n && lt > after {
		batch := n - len(out)
		if after > 0 && len(out) == 0 {
			batch = min(batch, firstBatch)
		}
		txs, err := c.transactions(ctx, addr, lt, hash, batch)
		if err != nil {
			return nil, err
		}
		if len(txs) == 0 {
			break
		}
		for _, tx := range txs {
			if tx.LT <= after {
				return out, nil
			}
			out = append(out, tx)
			lt, hash = tx.PrevTxLT, tx.PrevTxHash
		}
	}
	return out, nil
}

func (c *Client) transactions(ctx context.Context, addr *address.Address, lt uint64, hash []byte, n int) ([]*tlb.Transaction, error) {
	const perQuery = 16
	return ask(ctx, c, ton.GetTransactions{Limit: int32(min(n, perQuery)),
		AccID: &ton.AccountID{Workchain: addr.Workchain(), ID: addr.Data()}, LT: int64(lt), TxHash: hash},
		func(b []byte) ([]*tlb.Transaction, error) {
			bag, count, err := lite.TransactionList(b)
			if err != nil || count == 0 {
				return nil, err
			}
			cells, err := proof.DecodeBoC(bag, count)
			if err != nil {
				return nil, err
			}
			return parseTransactions(cells, hash)
		})
}

// parseTransactions checks that each cell is the transaction the one before it
// names. Their cells are ordinary, or the hash would differ.
func parseTransactions(cells []*cell.Cell, hash []byte) ([]*tlb.Transaction, error) {
	var out []*tlb.Transaction
	for _, tc := range cells {
		if string(tc.Hash()) != string(hash) {
			return nil, fmt.Errorf("transaction %x instead of %x", tc.Hash(), hash)
		}
		var tx tlb.Transaction
		if err := tlb.LoadFromCell(&tx, tc.BeginParse()); err != nil {
			return nil, fmt.Errorf("parsing a transaction: %w", err)
		}
		tx.Hash = tc.Hash()
		hash = tx.PrevTxHash
		out = append(out, &tx)
	}
	return out, nil
}

package devnet

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"math/big"
	"sort"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/proof"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
)

// executor runs the messages of one block. It changes nothing outside itself:
// a block that fails halfway leaves no trace.
type executor struct {
	chain    *chain
	h        *header
	accounts *augTree
	queue    []queued // waiting internal messages, in delivery order
	imported *big.Int
	nextLT   uint64
	txs      []executed
	touched  map[string]*touchedAccount
	dead     []queued // messages that no account of this chain can take
}

// queued is an internal message on its way. Messages are delivered in the
// order of (created_lt, hash), which is the order of the node's out queue.
type queued struct {
	lt    uint64
	hash  []byte
	dst   *address.Address
	value *big.Int // with the forward fee it carries
	msg   *cell.Cell
}

// executed is a transaction of this block.
type executed struct {
	addr []byte
	lt   uint64
	cell *cell.Cell
	fees *big.Int
}

type touchedAccount struct {
	before []byte // hash of the Account before the block
	after  []byte
	txs    *augTree
}

func queueValue(q []queued) *big.Int {
	sum := new(big.Int)
	for _, m := range q {
		sum.Add(sum, m.value)
	}
	return sum
}

// external executes one external message; a refusal is ton.message.not_accepted.
func (x *executor) external(ctx context.Context, msg *cell.Cell) error {
	var m tlb.ExternalMessage
	if err := tlb.LoadFromCell(&m, msg.BeginParse()); err != nil {
		return fault.New(fault.ExitParse, "ton.message.malformed", "", "parsing an external message: %w", err)
	}
	if m.DstAddr == nil || m.DstAddr.Type() != address.StdAddress || m.DstAddr.Workchain() != basechain {
		return fault.New(fault.ExitRefused, "ton.message.not_accepted", "send to workchain 0",
			"delivering an external message: no such account here")
	}
	if err := x.run(ctx, m.DstAddr.Data(), msg); err != nil {
		return fmt.Errorf("delivering an external message to %s: %w", m.DstAddr, err)
	}
	return nil
}

// deliver executes queued messages up to the block's limit.
func (x *executor) deliver(ctx context.Context) error {
	for len(x.queue) > 0 && len(x.txs) < maxBlockTxs {
		m := x.queue[0]
		x.queue = x.queue[1:]
		x.nextLT = max(x.nextLT, m.lt+1)
		if m.dst.Workchain() != basechain {
			x.chain.log.Warn("undeliverable message", "to", m.dst.String(), "nanoton", m.value)
			x.dead = append(x.dead, m)
			continue
		}
		err := x.run(ctx, m.dst.Data(), m.msg)
		if fault.Has(err, "ton.tvm.not_accepted") {
			// The executor takes any internal message; what it cannot take is
			// kept aside so that the chain goes on.
			x.chain.log.Error("message refused by the executor", "to", m.dst.String(), "error", err)
			x.dead = append(x.dead, m)
			continue
		}
		if err != nil {
			return fmt.Errorf("delivering a message to %s: %w", m.dst, err)
		}
	}
	return nil
}

// run executes one message on one account and queues what it sends.
func (x *executor) run(ctx context.Context, addr []byte, msg *cell.Cell) error {
	account := x.accounts.get(addr)
	if account == nil {
		account = tvm.AccountNone()
	}
	res, err := x.chain.engine.Emulate(ctx, tvm.EmulateRequest{
		Account: account, Message: msg, Config: x.chain.params.config,
		Now: x.h.utime, LT: x.nextLT, RandSeed: x.h.seed,
	})
	if err != nil {
		return err
	}
	var tx tlb.Transaction
	if err := tlb.LoadFromCell(&tx, res.Transaction.BeginParse()); err != nil {
		return fmt.Errorf("parsing the emulator's transaction: %w", err)
	}
	if !bytes.Equal(tx.AccountAddr, addr) {
		return fmt.Errorf("the emulator worked on account %x instead of %x", tx.AccountAddr, addr)
	}
	state, err := res.Account.PeekRef(0)
	if err != nil {
		return fmt.Errorf("reading the emulator's account: %w", err)
	}
	parsed, err := proof.ParseAccount(state)
	if err != nil {
		return fmt.Errorf("reading the emulator's account: %w", err)
	}
	if parsed.Status == proof.Absent {
		x.accounts = x.accounts.remove(addr)
	} else {
		x.accounts = x.accounts.set(augAccounts, 256, addr, res.Account, parsed.Balance)
	}
	x.record(addr, account, state, &tx, res.Transaction)
	return x.enqueue(&tx)
}

func (x *executor) record(addr []byte, before, after *cell.Cell, tx *tlb.Transaction, txCell *cell.Cell) {
	t := x.touched[string(addr)]
	if t == nil {
		t = &touchedAccount{before: before.MustPeekRef(0).Hash()}
		x.touched[string(addr)] = t
	}
	t.after = after.Hash()
	fees := tx.TotalFees.Coins.Nano()
	var key [8]byte
	binary.BigEndian.PutUint64(key[:], tx.LT)
	t.txs = t.txs.set(augTransactions, 64, key[:], cell.BeginCell().MustStoreRef(txCell).EndCell(), fees)
	x.txs = append(x.txs, executed{addr: addr, lt: tx.LT, cell: txCell, fees: fees})
	x.nextLT = max(x.nextLT, tx.LT+uint64(tx.OutMsgCount)+1)
}

// enqueue appends a transaction's internal messages to the queue.
func (x *executor) enqueue(tx *tlb.Transaction) error {
	if tx.IO.Out == nil || tx.IO.Out.List == nil {
		return nil
	}
	out, err := tx.IO.Out.List.LoadAll()
	if err != nil {
		return fmt.Errorf("reading a transaction's messages: %w", err)
	}
	for _, kv := range out {
		c, err := kv.Value.LoadRefCell()
		if err != nil {
			return fmt.Errorf("reading a transaction's message: %w", err)
		}
		if m, internal, err := parseQueued(c); err != nil {
			return err
		} else if internal {
			x.queue = append(x.queue, m)
		}
	}
	sort.SliceStable(x.queue, func(i, j int) bool {
		a, b := &x.queue[i], &x.queue[j]
		if a.lt != b.lt {
			return a.lt < b.lt
		}
		return bytes.Compare(a.hash, b.hash) < 0
	})
	return nil
}

// parseQueued reads an outbound message; external ones are events and are not
// delivered.
func parseQueued(c *cell.Cell) (queued, bool, error) {
	var m tlb.Message
	if err := tlb.LoadFromCell(&m, c.BeginParse()); err != nil {
		return queued{}, false, fmt.Errorf("parsing an outbound message: %w", err)
	}
	if m.MsgType != tlb.MsgTypeInternal {
		return queued{}, false, nil
	}
	in := m.AsInternal()
	value := new(big.Int).Add(in.Amount.Nano(), in.FwdFee.Nano())
	return queued{lt: in.CreatedLT, hash: c.Hash(), dst: in.DstAddr, value: value, msg: c}, true, nil
}

// accountBlocks builds ShardAccountBlocks.
func (x *executor) accountBlocks() *augTree {
	var tree *augTree
	for addr, t := range x.touched {
		tree = tree.set(augTransactions, 256, []byte(addr), accountBlock([]byte(addr), t.txs, hashUpdate(t.before, t.after)), t.txs.sum())
	}
	return tree
}

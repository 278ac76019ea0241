package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
)

// scan is how many of an account's transactions are searched for one's own.
const scan = 64

// Payment is a message with value that a transaction sent.
type Payment struct {
	To    toncell.Address `json:"to"`
	Value coin.Nano       `json:"nanoton"`
	Op    uint32          `json:"op"` // 0 for an empty body
	// Amount is what a job's payment is for; the message may bring the rest of
	// the sender's value too.
	Amount coin.Nano `json:"amount,omitempty"`
}

// Tx is what a contract did with a message: a transaction that is in the
// proven history of its account.
type Tx struct {
	Account  toncell.Address `json:"account"`
	LT       uint64          `json:"lt"`
	Hash     hexbytes.Hash   `json:"hash"`
	Now      uint32          `json:"now"` // Unix time
	ExitCode exitcode.Code   `json:"exit_code"`
	Gas      uint64          `json:"gas"`
	Value    coin.Nano       `json:"value"`   // that the message brought
	Fees     coin.Nano       `json:"fees"`    // of this transaction, with the forward fees of what it sent
	Storage  coin.Nano       `json:"storage"` // part of Fees: the account's storage since its last transaction
	Out      []Payment       `json:"out"`

	raw *tlb.Transaction
}

func toNano(v *big.Int) (coin.Nano, error) {
	if v == nil {
		return 0, nil
	}
	if !v.IsUint64() {
		return 0, fmt.Errorf("amount %s is not within 64 bits", v)
	}
	return coin.Nano(v.Uint64()), nil
}

// newTx takes a transaction apart.
func newTx(tx *tlb.Transaction) (*Tx, error) {
	out := &Tx{Account: toncell.Address{Hash: [32]byte(tx.AccountAddr)}, LT: tx.LT, Hash: [32]byte(tx.Hash), Now: tx.Now, raw: tx}
	var err error
	if out.Fees, err = toNano(tx.TotalFees.Coins.Nano()); err != nil {
		return nil, err
	}
	if in := tx.IO.In; in != nil && in.MsgType == tlb.MsgTypeInternal {
		if out.Value, err = toNano(in.AsInternal().Amount.Nano()); err != nil {
			return nil, err
		}
	}
	if tx.IO.Out != nil {
		msgs, err := tx.IO.Out.ToSlice()
		if err != nil {
			return nil, fmt.Errorf("reading a transaction's messages: %w", err)
		}
		for _, m := range msgs {
			if err := out.addMessage(m); err != nil {
				return nil, err
			}
		}
	}
	d, ok := tx.Description.(tlb.TransactionDescriptionOrdinary)
	if !ok {
		return nil, fmt.Errorf("transaction %x is not an ordinary one", tx.Hash)
	}
	if d.StoragePhase != nil {
		if out.Storage, err = toNano(d.StoragePhase.StorageFeesCollected.Nano()); err != nil {
			return nil, err
		}
	}
	switch p := d.ComputePhase.Phase.(type) {
	case tlb.ComputePhaseVM:
		out.ExitCode, out.Gas = exitcode.Code(p.Details.ExitCode), p.Details.GasUsed.Uint64()
		if p.Success && d.ActionPhase != nil && !d.ActionPhase.Success {
			out.ExitCode = exitcode.Code(d.ActionPhase.ResultCode)
		}
	default:
		out.ExitCode = exitcode.NotExecuted
	}
	return out, nil
}

func (t *Tx) addMessage(m tlb.Message) error {
	if m.MsgType != tlb.MsgTypeInternal {
		return nil
	}
	im := m.AsInternal()
	to, err := toncell.FromAddr(im.DstAddr)
	if err != nil {
		return err
	}
	value, err1 := toNano(im.Amount.Nano())
	fwd, err2 := toNano(im.FwdFee.Nano())
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	p := Payment{To: to, Value: value}
	s := toncell.NewReader(im.Body)
	if p.Op = uint32(s.Uint(32)); p.Op == job.OpPaid {
		s.Uint(64) // query id
		if amount := s.Coins(); s.End() == nil {
			p.Amount = coin.Nano(amount)
		}
	}
	t.Out = append(t.Out, p)
	t.Fees += fwd // the sender pays it beside the total fees
	return nil
}

// Paid returns what the job's transaction paid to an address.
func (t *Tx) Paid(to toncell.Address) coin.Nano {
	var sum coin.Nano
	for _, p := range t.Out {
		if p.To == to {
			sum += p.Amount
		}
	}
	return sum
}

// call sends a message to a contract and returns the transaction that
// executed it, and the account's state after it. An exit code is a fault.
func (l *Ledger) call(ctx context.Context, w chain.Sender, what string, m chain.Message) (*Tx, *chain.State, error) {
	before, err := l.chain.Account(ctx, m.To)
	if err != nil {
		return nil, nil, err
	}
	if _, err := w.Send(ctx, m); err != nil {
		return nil, nil, err
	}
	tx, st, err := l.find(ctx, m.To, before.LastLT, func(in *tlb.InternalMessage) bool {
		return !in.Bounced && in.SrcAddr.Equals(w.Address()) && bytes.Equal(in.Body.Hash(), m.Body.Hash())
	})
	if err != nil {
		return nil, nil, err
	}
	return tx, st, tx.ExitCode.Fault(what)
}

// find waits for the first transaction after lt whose message matches.
func (l *Ledger) find(ctx context.Context, addr *address.Address, lt uint64, match func(*tlb.InternalMessage) bool) (*Tx, *chain.State, error) {
	seen := lt
	var found *Tx
	var failed error
	st, err := l.chain.WaitAccount(ctx, addr, func(st *chain.State) bool {
		if st.LastLT == seen {
			return false
		}
		found, failed = l.newest(ctx, addr, st, lt, match)
		seen = st.LastLT
		return found != nil || failed != nil
	})
	return found, st, errors.Join(err, failed)
}

// newest returns the oldest matching transaction after lt, nil if none.
func (l *Ledger) newest(ctx context.Context, addr *address.Address, st *chain.State, lt uint64, match func(*tlb.InternalMessage) bool) (*Tx, error) {
	txs, err := l.chain.Transactions(ctx, addr, st, scan)
	if err != nil {
		return nil, err
	}
	var hit *tlb.Transaction
	for _, tx := range txs {
		if tx.LT <= lt {
			break
		}
		if in := tx.IO.In; in != nil && in.MsgType == tlb.MsgTypeInternal && match(in.AsInternal()) {
			hit = tx
		}
	}
	if hit == nil {
		return nil, nil
	}
	return newTx(hit)
}

// sent returns the message with this opcode that tx sent.
func sent(tx *Tx, op uint64) (*tlb.InternalMessage, error) {
	if tx.raw.IO.Out != nil {
		msgs, err := tx.raw.IO.Out.ToSlice()
		if err != nil {
			return nil, fmt.Errorf("reading a transaction's messages: %w", err)
		}
		for _, m := range msgs {
			if m.MsgType != tlb.MsgTypeInternal {
				continue
			}
			if r := toncell.NewReader(m.AsInternal().Body); r.Uint(32) == op && r.Err() == nil {
				return m.AsInternal(), nil
			}
		}
	}
	return nil, fault.New(fault.ExitRefused, "contract.unexpected_transaction", "check the contract's version",
		"looking for a message %08x in transaction %s: there is none", op, tx.Hash)
}

func message(to toncell.Address, value coin.Nano, body *cell.Cell) chain.Message {
	return chain.Message{To: to.Addr(), Nano: value.Big(), Bounce: true, Body: body}
}

package wallet

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"math/big"

	"github.com/xssnick/tonutils-go/address"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/chain/proof"
	"cocoon/contracts/coin"
	"cocoon/contracts/tvm"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// maxRehearsed bounds the transactions of a dry run.
const maxRehearsed = 64

// Step is one transaction of a dry run.
type Step struct {
	Account  toncell.Address `json:"account"`
	Value    coin.Nano       `json:"value"` // that the message brings
	Bounced  bool            `json:"bounced,omitempty"`
	Skipped  bool            `json:"skipped,omitempty"` // no code ran
	ExitCode int32           `json:"exit_code"`
	Gas      uint64          `json:"gas"`
	Fees     coin.Nano       `json:"fees"` // with the forward fees of what it sends
}

// Estimate is what a payment would do now.
type Estimate struct {
	Steps []Step    `json:"steps"`
	Fees  coin.Nano `json:"fees"` // of all steps, whoever pays them
	// Complete is false where the dry run was cut off, or left workchain 0.
	Complete bool `json:"complete"`
	// Left is the wallet's balance after it.
	Left coin.Nano `json:"left"`
}

// Estimate executes a payment in the embedded TVM on proven accounts and the
// proven config, messages to other contracts and their answers included. It
// needs the key, signs, and throws the message away: nothing leaves the machine.
func (w *Wallet) Estimate(ctx context.Context, msgs ...chain.Message) (*Estimate, error) {
	if w.key == nil || w.net == nil || w.engine == nil {
		return nil, errors.New("estimating: the wallet is open for reading only")
	}
	st, err := w.State(ctx)
	if err != nil {
		return nil, err
	}
	next, err := w.book.next()
	if err != nil {
		return nil, err
	}
	s, err := w.account.sign(w.key, st, next, msgs)
	if err != nil {
		return nil, err
	}
	r := &rehearsal{w: w, st: st, accounts: map[string]*cell.Cell{}, lt: st.LastLT + 1_000_000}
	ext, err := tlb.ToCell(s.message)
	if err != nil {
		return nil, fmt.Errorf("writing a message: %w", err)
	}
	est := &Estimate{Complete: true}
	queue := []rehearsed{{to: w.Address(), msg: ext}}
	for len(queue) > 0 {
		m := queue[0]
		queue = queue[1:]
		if len(est.Steps) == maxRehearsed || m.to.Workchain() != 0 {
			est.Complete = false
			continue
		}
		step, out, err := r.run(ctx, m)
		if err != nil {
			return nil, err
		}
		est.Steps = append(est.Steps, *step)
		est.Fees += step.Fees
		queue = append(queue, out...)
	}
	own, err := proof.ParseAccount(r.accounts[string(w.Address().Data())].MustPeekRef(0))
	if err != nil {
		return nil, fmt.Errorf("reading the wallet after a dry run: %w", err)
	}
	if own.Balance.IsUint64() {
		est.Left = coin.Nano(own.Balance.Uint64())
	}
	return est, nil
}

type rehearsed struct {
	to    *address.Address
	msg   *cell.Cell
	value *big.Int
	back  bool
}

// rehearsal keeps the accounts of a dry run.
type rehearsal struct {
	w        *Wallet
	st       *chain.State
	accounts map[string]*cell.Cell
	config   *cell.Cell
	lt       uint64
}

// shardAccount writes a proven state as the emulator reads it.
func shardAccount(st *chain.State) *cell.Cell {
	if st.Cell == nil {
		return tvm.AccountNone()
	}
	return cell.BeginCell().MustStoreRef(st.Cell).MustStoreSlice(st.LastHash, 256).MustStoreUInt(st.LastLT, 64).EndCell()
}

func (r *rehearsal) account(ctx context.Context, addr *address.Address) (*cell.Cell, error) {
	if c := r.accounts[string(addr.Data())]; c != nil {
		return c, nil
	}
	st := r.st
	if !addr.Equals(r.w.Address()) {
		var err error
		if st, err = r.w.net.AccountAt(ctx, r.st.Master, addr); err != nil {
			return nil, err
		}
	}
	r.lt = max(r.lt, st.LastLT+1_000_000)
	return shardAccount(st), nil
}

func (r *rehearsal) emulate(ctx context.Context, m rehearsed) (*tlb.Transaction, error) {
	if r.config == nil {
		var err error
		if r.config, err = r.w.net.Config(ctx); err != nil {
			return nil, err
		}
	}
	account, err := r.account(ctx, m.to)
	if err != nil {
		return nil, err
	}
	seed := sha256.Sum256(binary.BigEndian.AppendUint64(append([]byte("cocoon-dry-run"), r.st.Master.RootHash...), r.lt))
	res, err := r.w.engine.Emulate(ctx, tvm.EmulateRequest{Account: account, Message: m.msg, Config: r.config, Now: r.st.Utime, LT: r.lt, RandSeed: seed})
	if err != nil {
		return nil, err
	}
	r.accounts[string(m.to.Data())] = res.Account
	var tx tlb.Transaction
	if err := tlb.LoadFromCell(&tx, res.Transaction.BeginParse()); err != nil {
		return nil, fmt.Errorf("reading a dry run's transaction: %w", err)
	}
	r.lt += uint64(tx.OutMsgCount) + 2
	return &tx, nil
}

func (r *rehearsal) run(ctx context.Context, m rehearsed) (*Step, []rehearsed, error) {
	tx, err := r.emulate(ctx, m)
	if err != nil {
		return nil, nil, dryRun(err)
	}
	to, err := toncell.FromAddr(m.to)
	if err != nil {
		return nil, nil, err
	}
	s := &Step{Account: to, Bounced: m.back, Skipped: true}
	fees := new(big.Int).Set(tx.TotalFees.Coins.Nano())
	if m.value != nil && m.value.IsUint64() {
		s.Value = coin.Nano(m.value.Uint64())
	}
	if d, ok := tx.Description.(tlb.TransactionDescriptionOrdinary); ok {
		if vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM); ok {
			s.Skipped, s.ExitCode, s.Gas = false, vm.Details.ExitCode, vm.Details.GasUsed.Uint64()
		}
	}
	var out []rehearsed
	if tx.IO.Out != nil && tx.IO.Out.List != nil {
		kvs, err := tx.IO.Out.List.LoadAll()
		if err != nil {
			return nil, nil, fmt.Errorf("reading a dry run's messages: %w", err)
		}
		for _, kv := range kvs {
			c, err := kv.Value.LoadRefCell()
			if err != nil {
				return nil, nil, fmt.Errorf("reading a dry run's messages: %w", err)
			}
			var msg tlb.Message
			if err := tlb.LoadFromCell(&msg, c.BeginParse()); err != nil {
				return nil, nil, fmt.Errorf("reading a dry run's messages: %w", err)
			}
			if msg.MsgType != tlb.MsgTypeInternal {
				continue
			}
			in := msg.AsInternal()
			fees.Add(fees, in.FwdFee.Nano())
			out = append(out, rehearsed{to: in.DstAddr, msg: c, value: in.Amount.Nano(), back: in.Bounced})
		}
	}
	if fees.IsUint64() {
		s.Fees = coin.Nano(fees.Uint64())
	}
	return s, out, nil
}

func dryRun(err error) error {
	var refused *tvm.NotAcceptedError
	if !errors.As(err, &refused) {
		return err
	}
	return fault.New(fault.ExitRefused, "ton.wallet.dry_run", "check that the balance covers the amounts and the fees, and that the key is the wallet's",
		"executing a payment locally: %w", err)
}

// rehearse executes the wallet's own transaction and refuses to go on where it
// would not send everything.
func (w *Wallet) rehearse(ctx context.Context, st *chain.State, s *signed, n int) error {
	ext, err := tlb.ToCell(s.message)
	if err != nil {
		return fmt.Errorf("writing a message: %w", err)
	}
	r := &rehearsal{w: w, st: st, accounts: map[string]*cell.Cell{}, lt: st.LastLT + 1_000_000}
	tx, err := r.emulate(ctx, rehearsed{to: w.Address(), msg: ext})
	if err != nil {
		return dryRun(err)
	}
	if w.account.parallel() {
		if n == 1 {
			_, err = chain.NewSent(tx, st, 1)
			return err
		}
		// A batch hands its messages out in a second transaction.
		if _, err := chain.NewSent(tx, st, 1); err != nil {
			return err
		}
		kvs, err := tx.IO.Out.List.LoadAll()
		if err != nil {
			return fmt.Errorf("reading a dry run's messages: %w", err)
		}
		c, err := kvs[0].Value.LoadRefCell()
		if err != nil {
			return fmt.Errorf("reading a dry run's messages: %w", err)
		}
		if tx, err = r.emulate(ctx, rehearsed{to: w.Address(), msg: c}); err != nil {
			return dryRun(err)
		}
	}
	_, err = chain.NewSent(tx, st, n)
	return err
}

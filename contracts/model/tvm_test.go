package model_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/proof"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
	"cocoon/contracts/tvm"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
)

var engine *tvm.Engine

func TestMain(m *testing.M) { devnettest.Main(m, &engine) }

// machine runs messages on the real TVM, account by account. The registry and
// the wallets are this test's word: their messages are made up.
type machine struct {
	t      testing.TB
	config *cell.Cell
	lt     uint64
	shards map[toncell.Address]*cell.Cell
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	cfg, err := tvm.DefaultConfig("")
	if err != nil {
		t.Fatal(err)
	}
	return &machine{t: t, config: cfg, lt: 1_000_000, shards: map[toncell.Address]*cell.Cell{}}
}

// ran is what a message did where the contracts' code runs.
type ran struct {
	in       model.Message // as it arrived
	bounce   bool
	code     exitcode.Code
	storage  uint64
	fees     uint64 // without storage
	payments []model.Payment
	rest     *toncell.Address
	others   []tlb.InternalMessage // that pay nobody
	balance  uint64
	data     *cell.Cell
}

func (m *machine) run(to toncell.Address, in sent, init func() (*tlb.StateInit, toncell.Address, error)) ran {
	m.t.Helper()
	msg := &tlb.InternalMessage{
		IHRDisabled: true, Bounce: in.bounce, SrcAddr: in.From.Addr(), DstAddr: to.Addr(), Amount: tlb.FromNanoTONU(in.Value),
		CreatedLT: m.lt, CreatedAt: uint32(in.Now.Unix()), Body: in.body,
	}
	account := m.shards[to]
	var err error
	if account == nil {
		account = tvm.AccountNone()
		msg.StateInit, _, err = init()
		m.ok(err)
	}
	c, err := tlb.ToCell(msg)
	m.ok(err)
	m.lt += 10
	res, err := engine.Emulate(context.Background(), tvm.EmulateRequest{Account: account, Message: c, Config: m.config, Now: uint32(in.Now.Unix()), LT: m.lt})
	m.ok(err)
	m.shards[to] = res.Account
	var tx tlb.Transaction
	m.ok(tlb.LoadFromCell(&tx, res.Transaction.BeginParse()))
	out, err := readRan(&tx)
	m.ok(err)
	state, err := res.Account.PeekRef(0)
	m.ok(err)
	acc, err := proof.ParseAccount(state)
	m.ok(err)
	out.balance, out.data = acc.Balance.Uint64(), acc.Data
	return out
}

// readRan reads a contract's transaction, all but the state after it.
func readRan(tx *tlb.Transaction) (ran, error) {
	var out ran
	in := tx.IO.In.AsInternal()
	from, err := toncell.FromAddr(in.SrcAddr)
	if err != nil {
		return out, err
	}
	out.in = model.Message{From: from, Value: in.Amount.Nano().Uint64(), Now: time.Unix(int64(tx.Now), 0).UTC()}
	out.bounce = in.Bounce
	d, ok := tx.Description.(tlb.TransactionDescriptionOrdinary)
	if !ok {
		return out, fmt.Errorf("transaction %d is not an ordinary one", tx.LT)
	}
	if d.StoragePhase != nil {
		out.storage = d.StoragePhase.StorageFeesCollected.Nano().Uint64()
	}
	out.fees = tx.TotalFees.Coins.Nano().Uint64() - out.storage
	vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM)
	if !ok {
		return out, fmt.Errorf("the contract did not run: %+v", d.ComputePhase)
	}
	out.code = exitcode.Code(vm.Details.ExitCode)
	if vm.Success && d.ActionPhase != nil && !d.ActionPhase.Success {
		return out, fmt.Errorf("action phase: result %d", d.ActionPhase.ResultCode)
	}
	if tx.IO.Out == nil {
		return out, nil
	}
	msgs, err := tx.IO.Out.ToSlice()
	if err != nil {
		return out, err
	}
	for _, x := range msgs {
		if im := x.AsInternal(); !im.Bounced {
			if err := out.message(im); err != nil {
				return out, err
			}
		}
	}
	return out, nil
}

func (out *ran) message(im *tlb.InternalMessage) error {
	to, err := toncell.FromAddr(im.DstAddr)
	if err != nil {
		return err
	}
	r := toncell.NewReader(im.Body)
	op := r.Uint(32)
	r.Uint(64)
	switch op {
	case job.OpPaid, worker.OpStakePaid:
		amount := r.Coins()
		out.payments = append(out.payments, model.Payment{To: to, Amount: amount})
		v := im.Amount.Nano().Uint64()
		if v > amount {
			out.rest = &to
		} else if v < amount {
			return fmt.Errorf("a payment of %d brings %d", amount, v)
		}
		return r.End()
	case job.OpExcesses:
		out.rest = &to
	default:
		out.others = append(out.others, *im)
	}
	return nil
}

func (m *machine) ok(err error) {
	m.t.Helper()
	if err != nil {
		m.t.Fatal(err)
	}
}

func (r ran) String() string {
	return fmt.Sprintf("%v, payments %v, rest %v, balance %d", r.code, r.payments, r.rest, r.balance)
}

var start = time.Unix(1_800_000_000, 0).UTC()

package model_test

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain/proof"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
	"cocoon/contracts/tvm"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
)

// machine runs messages on the real TVM, account by account. The registry and
// the wallets are this test's word: their messages are made up.
type machine struct {
	t      testing.TB
	engine *tvm.Engine
	config *cell.Cell
	lt     uint64
	shards map[toncell.Address]*cell.Cell
}

func newMachine(t testing.TB) *machine {
	t.Helper()
	e, err := tvm.Open(context.Background(), tvm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := e.Close(context.Background()); err != nil {
			t.Error(err)
		}
	})
	cfg, err := tvm.DefaultConfig("")
	if err != nil {
		t.Fatal(err)
	}
	return &machine{t: t, engine: e, config: cfg, lt: 1_000_000, shards: map[toncell.Address]*cell.Cell{}}
}

// ran is what a message did on the TVM.
type ran struct {
	code     exitcode.Code
	storage  uint64
	fees     uint64 // without storage
	payments []model.Payment
	rest     *toncell.Address
	sent     []tlb.InternalMessage
	balance  uint64
	data     *cell.Cell
}

func (m *machine) run(to toncell.Address, in model.Message, bounce bool, init *tlb.StateInit, body *cell.Cell) ran {
	m.t.Helper()
	msg := &tlb.InternalMessage{
		IHRDisabled: true, Bounce: bounce, SrcAddr: in.From.Addr(), DstAddr: to.Addr(), Amount: tlb.FromNanoTONU(in.Value),
		CreatedLT: m.lt, CreatedAt: uint32(in.Now.Unix()), Body: body, StateInit: init,
	}
	c, err := tlb.ToCell(msg)
	m.ok(err)
	account := m.shards[to]
	if account == nil {
		account = tvm.AccountNone()
	}
	m.lt += 10
	res, err := m.engine.Emulate(context.Background(), tvm.EmulateRequest{Account: account, Message: c, Config: m.config, Now: uint32(in.Now.Unix()), LT: m.lt})
	m.ok(err)
	m.shards[to] = res.Account
	var tx tlb.Transaction
	m.ok(tlb.LoadFromCell(&tx, res.Transaction.BeginParse()))
	d := tx.Description.(tlb.TransactionDescriptionOrdinary)
	var out ran
	if d.StoragePhase != nil {
		out.storage = d.StoragePhase.StorageFeesCollected.Nano().Uint64()
	}
	out.fees = tx.TotalFees.Coins.Nano().Uint64() - out.storage
	vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM)
	if !ok {
		m.t.Fatalf("the contract did not run: %+v", d.ComputePhase)
	}
	out.code = exitcode.Code(vm.Details.ExitCode)
	if vm.Success && d.ActionPhase != nil && !d.ActionPhase.Success {
		m.t.Fatalf("action phase: result %d", d.ActionPhase.ResultCode)
	}
	m.messages(&tx, &out)
	state, err := res.Account.PeekRef(0)
	m.ok(err)
	acc, err := proof.ParseAccount(state)
	m.ok(err)
	out.balance, out.data = acc.Balance.Uint64(), acc.Data
	return out
}

func (m *machine) messages(tx *tlb.Transaction, out *ran) {
	m.t.Helper()
	if tx.IO.Out == nil {
		return
	}
	msgs, err := tx.IO.Out.ToSlice()
	m.ok(err)
	for _, x := range msgs {
		im := x.AsInternal()
		if im.Bounced {
			continue
		}
		to, err := toncell.FromAddr(im.DstAddr)
		m.ok(err)
		r := toncell.NewReader(im.Body)
		op := r.Uint(32)
		r.Uint(64)
		switch op {
		case job.OpPaid, worker.OpStakePaid:
			amount := r.Coins()
			m.ok(r.End())
			out.payments = append(out.payments, model.Payment{To: to, Amount: amount})
			if v := im.Amount.Nano().Uint64(); v > amount {
				out.rest = &to
			} else if v < amount {
				m.t.Fatalf("a payment of %d brings %d", amount, v)
			}
		case job.OpExcesses:
			out.rest = &to
		default:
			out.sent = append(out.sent, *im)
		}
	}
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

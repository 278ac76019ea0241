package ledger_test

import (
	"slices"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/coin"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// replay follows one job on the Go model of the contracts: it does each
// transaction of the job's proven history once more, and holds what the chain
// did against what the model does.
type replay struct {
	w   *world
	at  toncell.Address
	log string // of the client: every voucher that can be on chain is in it
	lt  uint64 // of the last transaction that was replayed
	job *model.Job

	done     map[uint64]int // by opcode, what was not refused
	refused  map[exitcode.Code]int
	redeemed int

	// What went in and came out.
	in, storage, toWorker, toGateway, refunded uint64
}

// follow replays what has happened since, up to a proven state, and compares
// that with the model's.
func (r *replay) follow() error {
	w := r.w
	st, err := w.chain.Account(w.ctx, r.at.Addr())
	if err != nil || st.LastLT == r.lt {
		return err
	}
	txs, err := w.chain.Transactions(w.ctx, r.at.Addr(), st, 256)
	if err != nil {
		return err
	}
	// The log is read after the chain: a voucher is written down before it is
	// given out.
	_, signed, err := readLog(r.log)
	w.ok(err)
	known := slices.IndexFunc(txs, func(tx *tlb.Transaction) bool { return tx.LT <= r.lt })
	if known < 0 && len(txs) == 256 {
		w.t.Fatal("the history is longer than what can be replayed")
	}
	if known >= 0 {
		txs = txs[:known]
	}
	for _, tx := range slices.Backward(txs) {
		r.step(tx, signed)
		r.check()
	}
	r.lt = st.LastLT
	s, err := job.Decode(st.Data)
	w.ok(err)
	if diff := cmp.Diff(&r.job.State, s); diff != "" {
		w.t.Fatalf("the job's state (-model +chain):\n%s", diff)
	}
	if !st.Balance.IsUint64() || st.Balance.Uint64() != r.job.Balance {
		w.t.Fatalf("the job holds %s, the model says %d", st.Balance, r.job.Balance)
	}
	return nil
}

// step does one transaction on the model.
func (r *replay) step(tx *tlb.Transaction, signed []*receipt.SignedVoucher) {
	t := r.w.t
	t.Helper()
	msg := tx.IO.In.AsInternal()
	d, ok := tx.Description.(tlb.TransactionDescriptionOrdinary)
	if !ok {
		t.Fatalf("transaction %d is not an ordinary one", tx.LT)
	}
	vm, ok := d.ComputePhase.Phase.(tlb.ComputePhaseVM)
	if !ok || vm.Success && !d.ActionPhase.Success {
		t.Fatalf("transaction %d: the contract did not run, or not to the end: %+v", tx.LT, d)
	}
	if d.StoragePhase != nil {
		r.storage += r.job.Collect(d.StoragePhase.StorageFeesCollected.Nano().Uint64())
	}
	from, err := toncell.FromAddr(msg.SrcAddr)
	r.w.ok(err)
	before, op := r.job.Balance, toncell.NewReader(msg.Body).Uint(32)
	out := r.act(op, model.Message{From: from, Value: msg.Amount.Nano().Uint64(), Now: time.Unix(int64(tx.Now), 0).UTC()}, msg.Body, signed)
	if got := exitcode.Code(vm.Details.ExitCode); got != out.Code {
		t.Fatalf("message %08x at %d: the chain says %v, the model %v", op, tx.LT, got, out.Code)
	}
	if got := r.payments(tx); !slices.Equal(got, out.Payments) {
		t.Fatalf("message %08x at %d: the chain paid %v, the model %v", op, tx.LT, got, out.Payments)
	}
	if out.Code == exitcode.OK {
		r.done[op]++
	} else {
		r.refused[out.Code]++
	}
	if out.Code == exitcode.OK && op == job.OpRedeem {
		r.redeemed++
	}
	terms := &r.job.State.Terms
	var paid uint64
	for _, p := range out.Payments {
		paid += p.Amount
		switch p.To {
		case terms.Payout:
			r.toWorker += p.Amount
		case *terms.Gateway:
			r.toGateway += p.Amount
		case terms.Client:
			r.refunded += p.Amount
		default:
			t.Fatalf("%d was paid to %s", p.Amount, p.To)
		}
	}
	r.in += r.job.Balance + paid - before
}

// act reads a message and does it on the model.
func (r *replay) act(op uint64, in model.Message, body *cell.Cell, signed []*receipt.SignedVoucher) model.Outcome {
	t := r.w.t
	t.Helper()
	s := toncell.NewReader(body)
	s.Uint(32)
	s.Uint(64) // query id
	switch op {
	case job.OpDeposit:
		amount := s.Coins()
		r.w.ok(s.End())
		return r.job.Deposit(in, amount)
	case job.OpVerdictGood:
		word := model.Word{Sender: s.Addr(), Hash: s.Bits256()}
		word.Common.ReceiptKey = s.Bits256()
		word.Until, word.RenewalsOnly, word.FeeCap = time.Unix(int64(s.Uint(32)), 0).UTC(), s.Bool(), uint16(s.Uint(16))
		// The job compares the binding as one cell; that it is this one says
		// what it is made of.
		terms := &r.job.State.Terms
		binding, err := verdictcell.BindingCell(terms.Payout, terms.ModelRoot, terms.PolicyHash)
		r.w.ok(err)
		if got := s.Ref(); got == nil || string(got.Hash()) != string(binding.Hash()) {
			t.Fatal("a verdict for another job's terms")
		}
		r.w.ok(s.End())
		word.Common.Payout, word.Common.ModelRoot, word.Common.PolicyHash = terms.Payout, terms.ModelRoot, terms.PolicyHash
		return r.job.Release(in, word)
	case job.OpRedeem:
		for _, v := range signed {
			own, err := job.Redeem(v.Voucher.Seq, v)
			r.w.ok(err)
			if string(own.Hash()) == string(body.Hash()) {
				return r.job.Redeem(in, v.Voucher, v.Voucher.Job == r.at, v.Verify(public(key("client key"))))
			}
		}
		t.Fatal("the chain saw a voucher that the client has not written down")
	case job.OpClose:
		return r.job.Close(in)
	case job.OpFinish:
		return r.job.Finish(in)
	}
	t.Fatalf("the job got a message %08x", op)
	panic("unreachable")
}

// payments returns what the job paid for good in a transaction.
func (r *replay) payments(tx *tlb.Transaction) []model.Payment {
	r.w.t.Helper()
	if tx.IO.Out == nil {
		return nil
	}
	msgs, err := tx.IO.Out.ToSlice()
	r.w.ok(err)
	var out []model.Payment
	for _, m := range msgs {
		s := toncell.NewReader(m.AsInternal().Body)
		if s.Uint(32) != job.OpPaid {
			continue
		}
		s.Uint(64)
		to, err := toncell.FromAddr(m.AsInternal().DstAddr)
		r.w.ok(err)
		out = append(out, model.Payment{To: to, Amount: s.Coins()})
		r.w.ok(s.End())
	}
	return out
}

// check holds what must be true of the job after every transaction.
func (r *replay) check() {
	t, s := r.w.t, &r.job.State
	t.Helper()
	bad := func(is bool, what string) {
		if is {
			t.Fatalf("%s: in %d, storage %d, to worker %d, gateway %d, client %d, balance %d, state %+v",
				what, r.in, r.storage, r.toWorker, r.toGateway, r.refunded, r.job.Balance, s)
		}
	}
	bad(r.in != r.toWorker+r.toGateway+r.refunded+r.storage+r.job.Balance, "money appeared or vanished")
	bad(s.Paid > s.Deposited, "more was paid than deposited")
	bad(r.toWorker+r.toGateway != s.Paid, "the payments are not what the job has recorded")
	bad(r.toGateway != s.Terms.Fee(s.Paid), "the gateway's share is not that of the total")
	bad(s.Status != job.Closed && r.refunded != 0, "a refund before the end")
	bad(s.Status == job.Closed && r.job.Balance != 0, "money sticks")
}

// arrived reports whether payout and gateway have what the job has paid, by
// their balances as they were before it was read: more they never have.
func (r *replay) arrived(worker, gateway coin.Nano) bool {
	r.w.t.Helper()
	if uint64(worker) > r.toWorker || uint64(gateway) > r.toGateway {
		r.w.t.Fatalf("payout has %d and gateway %d, the job has paid %d and %d", worker, gateway, r.toWorker, r.toGateway)
	}
	// The storage fees of the time between the payments.
	return r.toWorker-uint64(worker) < 1000 && r.toGateway-uint64(gateway) < 1000
}

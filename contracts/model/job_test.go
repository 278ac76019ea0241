package model_test

import (
	"encoding/json"
	"slices"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/coin"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
	"cocoon/contracts/receipt"
	"cocoon/contracts/worker"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

func (r *run) deposit(amount uint64) {
	least := amount + job.DepositGas
	if r.job.State.Deposited == 0 {
		least += job.StorageReserve
	}
	in := r.message(r.someone(), least)
	if r.n == 0 || r.job.State.Deposited == 0 {
		in.Value = least
	}
	body, err := job.Deposit(r.n, amount)
	r.ok(err)
	by := &command{Do: "top up", At: r.jobAt, N: amount}
	if r.job.State.Deposited == 0 {
		by = &command{Do: "open", Terms: &r.job.State.Terms, N: amount}
	}
	if in.Value < least {
		by = nil
	}
	r.onJob(sent{in, true, body, by}, func(j *model.Job, in model.Message) model.Outcome { return j.Deposit(in, amount) })
}

// release delivers the registry's word about a verdict, or something that only
// looks like it.
func (r *run) release() {
	t := &r.job.State.Terms
	w := model.Word{Until: r.now.Add(10 * time.Minute), FeeCap: 10_000, Sender: r.someone(), Common: verdictcell.Common{
		GlobalID: r.globalID(), Registry: t.Registry, TrustClass: verdictcell.TDX, ReceiptKey: public([]string{"receipt 1", "receipt 2"}[r.rng.IntN(2)]),
		Payout: t.Payout, Manifest: sum("manifest"), ModelRoot: t.ModelRoot, PolicyHash: t.PolicyHash, EvidenceSHA256: sum("evidence", r.n),
	}}
	c, from := &w.Common, t.Registry
	switch r.rng.IntN(16) {
	case 0:
		c.Payout = r.addr("anyone")
	case 1:
		c.ModelRoot = sum("other")
	case 2:
		c.PolicyHash = sum("other policy")
	case 3:
		if len(r.verdicts) > 0 {
			*c = r.verdicts[r.rng.IntN(len(r.verdicts))]
		}
	case 4:
		w.RenewalsOnly = true
	case 5:
		w.FeeCap = uint16(r.rng.IntN(10_000))
	case 6:
		w.Until = r.now // however long it was under way
	case 7:
		from = r.someone()
	}
	var by *command
	if r.served() {
		by = r.flow.verdict(&w, &from)
	}
	hash, err := c.Hash()
	r.ok(err)
	w.Hash = hash
	body := r.build(func() (*cell.Cell, error) {
		binding, err := verdictcell.BindingCell(c.Payout, c.ModelRoot, c.PolicyHash)
		r.ok(err)
		return toncell.NewBuilder().Uint(job.OpVerdictGood, 32).Uint(r.n, 64).Addr(w.Sender).Bits256(w.Hash).Bits256(c.ReceiptKey).
			Uint(uint64(w.Until.Unix()), 32).Bool(w.RenewalsOnly).Uint(uint64(w.FeeCap), 16).Ref(binding).Cell()
	})
	in := model.Message{From: from, Value: 40_000_000, Now: r.now}
	out := r.onJob(sent{in, true, body, by}, func(j *model.Job, in model.Message) model.Outcome { return j.Release(in, w) })
	if out.Code == exitcode.OK {
		r.verdicts = append(r.verdicts, *c)
	}
}

func (r *run) redeem() {
	s := &r.job.State
	r.seq += r.rng.Uint64N(2)
	v := receipt.Voucher{
		GlobalID: r.globalID(), Job: r.jobAt, Seq: r.seq + 1, Amount: coin.Nano(s.Paid + r.rng.Uint64N(1+s.Deposited/2)), ReceiptCount: r.seq + 1,
		ReceiptsRoot: sum("root", r.seq),
	}
	if len(r.verdicts) > 0 {
		h, err := r.verdicts[r.rng.IntN(len(r.verdicts))].Hash()
		r.ok(err)
		v.Verdict = h
	}
	own, signer, kind := true, "client", r.rng.IntN(10)
	if r.served() {
		if kind = r.flow.voucher(&v, kind); kind < 0 {
			return
		}
	}
	switch kind {
	case 0:
		v.Amount = coin.Nano(s.Deposited + r.rng.Uint64N(1_000_000))
	case 1:
		v.Amount /= 2
	case 2:
		v.ReceiptCount /= 2
	case 3:
		v.Seq = max(1, v.Seq/2)
	case 4:
		own, v.Job = false, r.workAt
	case 5:
		own, v.GlobalID = false, -3
	case 6:
		signer = "thief"
	}
	r.redeemAs(r.message(r.someone(), job.RedeemValue), v, own, signer)
}

func (r *run) redeemAs(in model.Message, v receipt.Voucher, own bool, signer string) {
	var by *command
	body := r.build(func() (*cell.Cell, error) {
		signed, err := v.Sign(key(signer))
		r.ok(err)
		if v.Job == r.jobAt { // that is where the call sends it
			by = &command{Do: "redeem", Docs: r.docs(signed)}
		}
		return job.Redeem(r.n, signed)
	})
	r.onJob(sent{in, true, body, by}, func(j *model.Job, in model.Message) model.Outcome { return j.Redeem(in, v, own, signer == "client") })
}

func (r *run) closeJob() {
	in := r.message(r.someone(), job.CloseValue)
	body, err := job.Close(r.n)
	r.ok(err)
	r.onJob(sent{in, true, body, &command{Do: "close", At: r.jobAt}}, func(j *model.Job, in model.Message) model.Outcome { return j.Close(in) })
}

func (r *run) finish() {
	if r.served() && r.job.State.Status == job.Closing {
		r.flow.settle()
	}
	in := r.message(r.someone(), job.CloseValue)
	body, err := job.Finish(r.n)
	r.ok(err)
	r.onJob(sent{in, true, body, &command{Do: "finish", At: r.jobAt}}, func(j *model.Job, in model.Message) model.Outcome { return j.Finish(in) })
}

// stray is money that does not say what it is for and does not bounce.
func (r *run) stray() {
	in := model.Message{From: r.someone(), Value: 50_000_000 + r.amount(), Now: r.now}
	r.onJob(sent{in, false, cell.BeginCell().EndCell(), nil}, func(*model.Job, model.Message) model.Outcome { return model.Outcome{Code: exitcode.UnknownOpcode} })
}

func (r *run) accuse() {
	if len(r.verdicts) == 0 {
		return
	}
	c := r.verdicts[r.rng.IntN(len(r.verdicts))]
	hash, err := c.Hash()
	r.ok(err)
	a := job.Accusation{Verdict: hash, Seq: 1 + r.n}
	signer, differ, signed := "receipt 1", true, c.ReceiptKey == public("receipt 1")
	kind := r.rng.IntN(6)
	switch kind {
	case 0:
		differ = false
	case 1, 2:
		signed = false
	case 3:
		a.Verdict = sum("other")
	}
	var by *command
	body := r.build(func() (*cell.Cell, error) {
		sign := func(tokens, seq uint64) *receipt.Signed {
			s, err := receipt.Sign(key(signer), receipt.Receipt{
				Type: receipt.Type, Job: r.jobAt, Seq: seq, Tokens: receipt.Tokens{Completion: tokens}, Verdict: receipt.Hash(hash), Time: start,
			})
			r.ok(err)
			return s
		}
		a.First, a.Second = sign(1, a.Seq), sign(2, a.Seq)
		switch kind {
		case 0:
			a.Second = a.First
		case 1:
			a.Second = sign(2, a.Seq+1)
		case 2:
			a.Second.Signature = hexbytes.Sig{}
		}
		// The call names any verdict of the key that signed.
		if same := slices.DeleteFunc(slices.Clone(r.verdicts), func(v verdictcell.Common) bool { return v.ReceiptKey != c.ReceiptKey }); kind > 3 && signed && len(same) == 1 {
			by = &command{Do: "accuse", Docs: r.docs(a.First, a.Second)}
		}
		return job.Accuse(r.n, &a)
	})
	in := r.message(r.someone(), job.AccuseValue)
	out := r.onJob(sent{in, true, body, by}, func(j *model.Job, in model.Message) model.Outcome { return j.Accuse(in, a.Verdict, differ, signed) })
	if out.Slash == nil {
		return
	}
	terms, err := r.job.State.Terms.Cell()
	r.ok(err)
	slash, err := toncell.NewBuilder().Uint(worker.OpSlash, 32).Uint(r.n, 64).Uint(a.Seq, 64).Addr(in.From).Ref(terms).Cell()
	r.ok(err)
	tell := func(from toncell.Address) {
		at := model.Message{From: from, Value: 40_000_000, Now: r.now}
		r.onWorker(sent{at, from != r.jobAt, slash, nil}, func(w *model.Worker, at model.Message) model.Outcome { return w.Slash(at, r.job, r.jobAt, in.From) })
	}
	from := r.jobAt
	if r.rng.IntN(6) == 0 {
		from = r.someone()
	}
	// A chain delivers what the job says, whoever says so besides.
	if from != r.jobAt && r.flow != nil {
		tell(r.jobAt)
	}
	tell(from)
}

// docs writes what a process gets to send.
func (r *run) docs(what ...interface{ Marshal() ([]byte, error) }) []json.RawMessage {
	var out []json.RawMessage
	for _, d := range what {
		doc, err := d.Marshal()
		r.ok(err)
		out = append(out, doc)
	}
	return out
}

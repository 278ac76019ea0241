package model_test

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/binary"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/tlb"
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

const globalID = -239 // of the TVM's config

func sum(parts ...any) job.Hash {
	h := sha256.New()
	for _, p := range parts {
		switch v := p.(type) {
		case string:
			h.Write([]byte(v))
		case uint64:
			h.Write(binary.BigEndian.AppendUint64(nil, v))
		}
	}
	return job.Hash(h.Sum(nil))
}

func key(name string) ed25519.PrivateKey {
	seed := sum("model key", name)
	return ed25519.NewKeyFromSeed(seed[:])
}

func public(name string) job.Hash { return job.Hash(key(name).Public().(ed25519.PublicKey)) }

func addr(name string) toncell.Address { return toncell.Address{Hash: sum("model address", name)} }

// run is one random sequence: jobs one after another and a worker contract
// beside them, on the model and, where tvm is set, on the TVM too.
type run struct {
	t   testing.TB
	rng *rand.Rand
	tvm *machine
	now time.Time
	n   uint64 // actions

	job    *model.Job
	jobAt  toncell.Address
	worker *model.Worker
	workAt toncell.Address

	verdicts []verdictcell.Common // of this job, all that it recorded
	seq      uint64

	// What went in and came out, for each contract.
	jobIn, jobOut, workIn, workOut uint64
	toWorker, toGateway, toClient  uint64
	seen                           map[exitcode.Code]int
	closed                         int
}

func newRun(t testing.TB, seed uint64, m *machine) *run {
	r := &run{t: t, rng: rand.New(rand.NewPCG(seed, 7)), tvm: m, now: start, seen: map[exitcode.Code]int{}}
	terms := worker.Terms{Owner: addr("owner"), Payout: addr("payout"), Registry: addr("registry"), Machine: sum(seed), LeaveDelay: time.Hour}
	r.worker = model.NewWorker(terms)
	var err error
	r.workAt, err = terms.Address()
	r.ok(err)
	r.stake(10)
	r.openJob()
	return r
}

func (r *run) ok(err error) {
	r.t.Helper()
	if err != nil {
		r.t.Fatalf("action %d: %v", r.n, err)
	}
}

func (r *run) openJob() {
	t := job.Terms{
		Client: addr("client"), ClientKey: public("client"), Payout: addr("payout"), Registry: addr("registry"), ModelRoot: sum("model"),
		PolicyHash: sum("policy"), PriceCap: 1, Stake: &r.workAt, CloseDelay: time.Hour, Salt: sum("salt", r.n),
	}
	if r.rng.IntN(4) > 0 {
		g := addr("gateway")
		t.Gateway, t.FeeBps = &g, uint16(r.rng.IntN(10001))
	}
	if r.rng.IntN(8) == 0 {
		t.Payout = addr("client") // its own worker; the stake does not answer for that
	}
	r.job = model.NewJob(t)
	var err error
	r.jobAt, err = t.Address()
	r.ok(err)
	r.verdicts, r.seq = nil, 0
	r.jobIn, r.jobOut, r.toWorker, r.toGateway, r.toClient = 0, 0, 0, 0, 0
	r.deposit(r.amount() + 1)
}

// build makes a body where something reads it: the model alone does not.
func (r *run) build(body func() (*cell.Cell, error)) *cell.Cell {
	if r.tvm == nil {
		return nil
	}
	c, err := body()
	r.ok(err)
	return c
}

func (r *run) someone() toncell.Address {
	return addr([]string{"client", "payout", "gateway", "owner", "anyone"}[r.rng.IntN(5)])
}

// amount is anything from dust to a few TON.
func (r *run) amount() uint64 { return r.rng.Uint64N(1 << (1 + r.rng.IntN(32))) }

// value is mostly enough, sometimes a little less than the least.
func (r *run) value(least uint64) uint64 {
	if r.rng.IntN(12) == 0 && least > 9_000_000 {
		return least - 1 - r.rng.Uint64N(1_000_000)
	}
	return least + r.rng.Uint64N(100_000_000)
}

func (r *run) message(from toncell.Address, least uint64) model.Message {
	return model.Message{From: from, Value: r.value(least), Now: r.now}
}

// onJob does one message to the job on both sides and compares.
func (r *run) onJob(in model.Message, bounce bool, body *cell.Cell, act func(*model.Job) model.Outcome) model.Outcome {
	r.t.Helper()
	var got ran
	storage, fees := r.rng.Uint64N(1000), uint64(0)
	if r.tvm != nil {
		var init *tlb.StateInit
		if r.tvm.shards[r.jobAt] == nil {
			var err error
			init, _, err = r.job.State.Terms.StateInit()
			r.ok(err)
		}
		got = r.tvm.run(r.jobAt, in, bounce, init, body)
		storage, fees = got.storage, got.fees
	}
	collected := r.job.Collect(storage)
	r.jobOut += collected
	owed := storage - collected
	before := r.job.Balance
	out := act(r.job)
	if out.Code != exitcode.OK && !bounce {
		// It stays, and goes to the client at the end. What an empty account
		// owes for storage is taken from it.
		r.job.Balance += in.Value - fees - owed
	}
	r.seen[out.Code]++
	for _, p := range out.Payments {
		r.jobOut += p.Amount
		if r.job.State.Status == job.Closed {
			r.toClient += p.Amount
		} else if g := r.job.State.Terms.Gateway; g != nil && p.To == *g {
			r.toGateway += p.Amount
		} else {
			r.toWorker += p.Amount
		}
	}
	var paid uint64
	for _, p := range out.Payments {
		paid += p.Amount
	}
	r.jobIn += r.job.Balance + paid - before
	r.check()
	if r.tvm == nil {
		return out
	}
	r.compare(got, out)
	s, err := job.Decode(got.data)
	r.ok(err)
	if diff := cmp.Diff(&r.job.State, s); diff != "" {
		r.t.Fatalf("action %d, job's state (-model +TVM):\n%s", r.n, diff)
	}
	if got.balance != r.job.Balance {
		r.t.Fatalf("action %d: the job holds %d, the model says %d; %s", r.n, got.balance, r.job.Balance, got)
	}
	return out
}

func (r *run) compare(got ran, want model.Outcome) {
	r.t.Helper()
	if got.code != want.Code || !slices.Equal(got.payments, want.Payments) {
		r.t.Fatalf("action %d: the TVM says %s, the model %v, payments %v", r.n, got, want.Code, want.Payments)
	}
	if want.Code == exitcode.OK && want.Rest != (toncell.Address{}) && (got.rest == nil || *got.rest != want.Rest) {
		r.t.Fatalf("action %d: the rest went to %v, the model says %v", r.n, got.rest, want.Rest)
	}
	if sent := len(got.sent) == 1; sent != (want.Slash != nil) {
		r.t.Fatalf("action %d: %d other messages, the model says slash %v", r.n, len(got.sent), want.Slash)
	}
}

// onWorker is onJob for the worker contract.
func (r *run) onWorker(in model.Message, body *cell.Cell, act func(*model.Worker) model.Outcome) {
	r.t.Helper()
	var got ran
	storage := r.rng.Uint64N(1000)
	if r.tvm != nil {
		var init *tlb.StateInit
		if r.tvm.shards[r.workAt] == nil {
			var err error
			init, _, err = r.worker.State.Terms.StateInit()
			r.ok(err)
		}
		got = r.tvm.run(r.workAt, in, true, init, body)
		storage = got.storage
	}
	r.workOut += r.worker.Collect(storage)
	before := r.worker.Balance
	out := act(r.worker)
	r.seen[out.Code]++
	var paid uint64
	for _, p := range out.Payments {
		paid += p.Amount
	}
	r.workOut += paid
	r.workIn += r.worker.Balance + paid - before
	if r.workIn != r.workOut+r.worker.Balance || r.worker.State.Leaving > r.worker.State.Stake {
		r.t.Fatalf("action %d: worker contract: in %d, out %d, balance %d, state %+v", r.n, r.workIn, r.workOut, r.worker.Balance, r.worker.State)
	}
	if r.tvm == nil {
		return
	}
	r.compare(got, out)
	s, err := worker.Decode(got.data)
	r.ok(err)
	if diff := cmp.Diff(&r.worker.State, s); diff != "" {
		r.t.Fatalf("action %d, worker's state (-model +TVM):\n%s", r.n, diff)
	}
	if got.balance != r.worker.Balance {
		r.t.Fatalf("action %d: the worker contract holds %d, the model says %d; %s", r.n, got.balance, r.worker.Balance, got)
	}
}

// check holds what must be true of every job at all times.
func (r *run) check() {
	r.t.Helper()
	s := &r.job.State
	bad := func(is bool, what string) {
		if is {
			r.t.Fatalf("action %d: %s: in %d, out %d, balance %d, to worker %d, gateway %d, client %d, state %+v",
				r.n, what, r.jobIn, r.jobOut, r.job.Balance, r.toWorker, r.toGateway, r.toClient, s)
		}
	}
	bad(r.jobIn != r.jobOut+r.job.Balance, "money appeared or vanished")
	bad(s.Paid > s.Deposited, "more was paid than deposited")
	bad(r.toWorker+r.toGateway != s.Paid, "the payments are not what the job has recorded")
	bad(r.toGateway != s.Terms.Fee(s.Paid), "the gateway's share is not that of the total")
	bad(s.Status != job.Closed && r.toClient != 0, "a refund before the end")
	bad((s.Status == job.Released || s.Status == job.Closing) && len(s.Verdicts) == 0, "released without a verdict")
}

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
	r.onJob(in, true, body, func(j *model.Job) model.Outcome { return j.Deposit(in, amount) })
}

func (r *run) stake(amount uint64) {
	in := r.message(r.someone(), amount+worker.StakeGas+worker.StorageReserve)
	if r.n == 0 {
		in.Value = amount + worker.StakeGas + worker.StorageReserve
	}
	body, err := worker.Stake(r.n, amount)
	r.ok(err)
	r.onWorker(in, body, func(w *model.Worker) model.Outcome { return w.Stake(in, amount) })
}

// release delivers the registry's word about a verdict, or something that only
// looks like it.
func (r *run) release() {
	t := &r.job.State.Terms
	w := model.Word{Until: r.now.Add(10 * time.Minute), FeeCap: 10_000, Sender: r.someone(), Common: verdictcell.Common{
		GlobalID: globalID, Registry: t.Registry, TrustClass: verdictcell.TDX, ReceiptKey: public([]string{"receipt 1", "receipt 2"}[r.rng.IntN(2)]),
		Payout: t.Payout, Manifest: sum("manifest"), ModelRoot: t.ModelRoot, PolicyHash: t.PolicyHash, EvidenceSHA256: sum("evidence", r.n),
	}}
	c, from := &w.Common, t.Registry
	switch r.rng.IntN(16) {
	case 0:
		c.Payout = addr("anyone")
	case 1:
		c.ModelRoot = sum("other")
	case 2:
		c.PolicyHash = sum("other")
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
	out := r.onJob(in, true, body, func(j *model.Job) model.Outcome { return j.Release(in, w) })
	if out.Code == exitcode.OK {
		r.verdicts = append(r.verdicts, *c)
	}
}

func (r *run) redeem() {
	s := &r.job.State
	r.seq += r.rng.Uint64N(2)
	v := receipt.Voucher{
		GlobalID: globalID, Job: r.jobAt, Seq: r.seq + 1, Amount: coin.Nano(s.Paid + r.rng.Uint64N(1+s.Deposited/2)), ReceiptCount: r.seq + 1,
		ReceiptsRoot: sum("root", r.seq),
	}
	if len(r.verdicts) > 0 {
		h, err := r.verdicts[r.rng.IntN(len(r.verdicts))].Hash()
		r.ok(err)
		v.Verdict = h
	}
	own, signer := true, "client"
	switch r.rng.IntN(10) {
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
	body := r.build(func() (*cell.Cell, error) {
		signed, err := v.Sign(key(signer))
		r.ok(err)
		return job.Redeem(r.n, signed)
	})
	in := r.message(r.someone(), job.RedeemValue)
	r.onJob(in, true, body, func(j *model.Job) model.Outcome { return j.Redeem(in, v, own, signer == "client") })
}

func (r *run) closeJob() {
	in := r.message(r.someone(), job.CloseValue)
	body, err := job.Close(r.n)
	r.ok(err)
	r.onJob(in, true, body, func(j *model.Job) model.Outcome { return j.Close(in) })
}

func (r *run) finish() {
	in := r.message(r.someone(), job.CloseValue)
	body, err := job.Finish(r.n)
	r.ok(err)
	r.onJob(in, true, body, func(j *model.Job) model.Outcome { return j.Finish(in) })
}

// stray is money that does not say what it is for and does not bounce.
func (r *run) stray() {
	in := model.Message{From: r.someone(), Value: 50_000_000 + r.amount(), Now: r.now}
	r.onJob(in, false, cell.BeginCell().EndCell(), func(*model.Job) model.Outcome { return model.Outcome{Code: exitcode.UnknownOpcode} })
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
	body := r.build(func() (*cell.Cell, error) {
		sign := func(tokens, seq uint64) *receipt.Signed {
			s, err := receipt.Sign(key(signer), receipt.Receipt{
				Type: receipt.Type, Job: r.jobAt, Seq: seq, Tokens: receipt.Tokens{Completion: tokens}, Time: start,
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
		return job.Accuse(r.n, &a)
	})
	in := r.message(r.someone(), job.AccuseValue)
	out := r.onJob(in, true, body, func(j *model.Job) model.Outcome { return j.Accuse(in, a.Verdict, differ, signed) })
	if out.Slash == nil {
		return
	}
	terms, err := r.job.State.Terms.Cell()
	r.ok(err)
	slash, err := toncell.NewBuilder().Uint(worker.OpSlash, 32).Uint(r.n, 64).Uint(a.Seq, 64).Addr(in.From).Ref(terms).Cell()
	r.ok(err)
	from := r.jobAt
	if r.rng.IntN(6) == 0 {
		from = r.someone()
	}
	at := model.Message{From: from, Value: 40_000_000, Now: r.now}
	r.onWorker(at, slash, func(w *model.Worker) model.Outcome { return w.Slash(at, r.job, r.jobAt, in.From) })
}

func (r *run) owner() {
	from := addr("owner")
	if r.rng.IntN(6) == 0 {
		from = r.someone()
	}
	in := r.message(from, worker.OwnerValue)
	switch r.rng.IntN(4) {
	case 0:
		r.stake(r.amount())
	case 1:
		amount := r.worker.State.Stake
		if r.rng.IntN(2) == 0 {
			amount = r.amount()
		}
		body, err := worker.Leave(r.n, amount)
		r.ok(err)
		r.onWorker(in, body, func(w *model.Worker) model.Outcome { return w.Leave(in, amount) })
	case 2:
		body, err := worker.Withdraw(r.n)
		r.ok(err)
		r.onWorker(in, body, func(w *model.Worker) model.Outcome { return w.Withdraw(in) })
	case 3:
		g := r.worker.State.Generation + r.rng.Uint64N(3)
		body, err := worker.Advance(r.n, g)
		r.ok(err)
		r.onWorker(in, body, func(w *model.Worker) model.Outcome { return w.Advance(in, g) })
	}
}

// wait lets time pass: a moment, past a deadline, past a closing delay, or,
// seldom, until the job is idle.
func (r *run) wait() {
	r.now = r.now.Add([]time.Duration{time.Second, 30 * time.Second, time.Minute + time.Second, time.Hour}[r.rng.IntN(4)])
	if r.rng.IntN(60) == 0 {
		r.now = r.now.Add(job.IdleTime)
	}
}

// drain ends the job as anybody can: whatever happened, its money comes out.
func (r *run) drain() {
	for range 3 {
		r.now = r.now.Add(job.IdleTime + time.Hour)
		for _, op := range []func(uint64) (*cell.Cell, error){job.Close, job.Finish} {
			in := model.Message{From: addr("anyone"), Value: job.CloseValue + 10_000_000, Now: r.now}
			body, err := op(r.n)
			r.ok(err)
			r.n++
			r.onJob(in, true, body, func(j *model.Job) model.Outcome {
				if isFinish(body) {
					return j.Finish(in)
				}
				return j.Close(in)
			})
			r.now = r.now.Add(time.Hour)
		}
	}
	if r.job.State.Status != job.Closed || r.job.Balance != 0 {
		r.t.Fatalf("action %d: money sticks: %d in %+v", r.n, r.job.Balance, r.job.State)
	}
	r.closed++
}

func isFinish(body *cell.Cell) bool { return body.BeginParse().MustLoadUInt(32) == job.OpFinish }

func (r *run) step() {
	r.n++
	actions := []struct {
		weight int
		do     func()
	}{
		{6, func() { r.deposit(r.amount()) }}, {14, r.release}, {20, r.redeem}, {2, r.closeJob}, {4, r.finish},
		{2, r.stray}, {5, r.accuse}, {8, r.owner}, {8, r.wait},
	}
	total := 0
	for _, a := range actions {
		total += a.weight
	}
	at := r.rng.IntN(total)
	for _, a := range actions {
		if at -= a.weight; at < 0 {
			a.do()
			break
		}
	}
	// A closed job is left alone after a while, an open one ended.
	if r.rng.IntN(40) == 0 {
		r.drain()
		r.openJob()
	}
}

// The model alone, for many actions: money neither appears, vanishes nor
// sticks, whatever the order.
func TestMoneyIsAccountedForInRandomSequences(t *testing.T) {
	const actions = 100_000
	for seed := range uint64(4) {
		r := newRun(t, seed, nil)
		for r.n < actions/4 {
			r.step()
		}
		if r.closed < 100 || len(r.seen) < 30 {
			t.Errorf("seed %d: %d jobs, %d codes: the sequence does not reach far", seed, r.closed, len(r.seen))
		}
	}
}

// The same sequences on the model and on the TVM: every exit code, payment,
// balance and state is the same. COCOON_SOAK=1 makes all of them.
func TestModelIsWhatTheContractsDo(t *testing.T) {
	actions := uint64(2_200)
	if os.Getenv("COCOON_SOAK") != "" {
		actions = 100_000
	}
	r := newRun(t, 1, newMachine(t))
	for r.n < actions {
		r.step()
	}
	t.Logf("%d actions, %d jobs, %d codes met", r.n, r.closed, len(r.seen))
}

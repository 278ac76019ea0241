package model_test

import (
	"slices"

	"github.com/google/go-cmp/cmp"
	"github.com/xssnick/tonutils-go/tlb"
	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
)

// sent is a message on its way: what contracts see of it, whether it bounces,
// its body where something reads it, and how the processes have their own code
// send it, if they can.
type sent struct {
	model.Message
	bounce bool
	body   *cell.Cell
	by     *command
}

// executor has messages executed by the contracts' code.
type executor interface {
	// run executes a message, with what deploys its receiver where that is new.
	run(to toncell.Address, m sent, init func() (*tlb.StateInit, toncell.Address, error)) ran
}

// onJob does one message to the job on both sides and compares.
func (r *run) onJob(m sent, act func(*model.Job, model.Message) model.Outcome) model.Outcome {
	r.t.Helper()
	var got ran
	storage, fees := r.rng.Uint64N(1000), uint64(0)
	if r.on != nil {
		got = r.on.run(r.jobAt, m, r.job.State.Terms.StateInit)
		r.now, m.Message, m.bounce = got.in.Now, got.in, got.bounce
		storage, fees = got.storage, got.fees
	}
	collected := r.job.Collect(storage)
	r.jobOut += collected
	owed := storage - collected
	before := r.job.Balance
	out := act(r.job, m.Message)
	if out.Code != exitcode.OK && !m.bounce {
		// It stays, and goes to the client at the end. What an empty account
		// owes for storage is taken from it.
		r.job.Balance += m.Value - fees - owed
	}
	r.seen[out.Code]++
	var paid uint64
	for _, p := range out.Payments {
		paid += p.Amount
		if r.job.State.Status == job.Closed {
			r.toClient += p.Amount
		} else if g := r.job.State.Terms.Gateway; g != nil && p.To == *g {
			r.toGateway += p.Amount
		} else {
			r.toWorker += p.Amount
		}
	}
	r.jobOut += paid
	r.jobIn += r.job.Balance + paid - before
	r.check()
	if r.on == nil {
		return out
	}
	r.compare(got, out)
	s, err := job.Decode(got.data)
	r.ok(err)
	if diff := cmp.Diff(&r.job.State, s); diff != "" {
		r.t.Fatalf("action %d, job's state (-model +chain):\n%s", r.n, diff)
	}
	if got.balance != r.job.Balance {
		r.t.Fatalf("action %d: the job holds %d, the model says %d; %s", r.n, got.balance, r.job.Balance, got)
	}
	return out
}

func (r *run) compare(got ran, want model.Outcome) {
	r.t.Helper()
	if got.code != want.Code || !slices.Equal(got.payments, want.Payments) {
		r.t.Fatalf("action %d: the chain says %s, the model %v, payments %v", r.n, got, want.Code, want.Payments)
	}
	if want.Code == exitcode.OK && want.Rest != (toncell.Address{}) && (got.rest == nil || *got.rest != want.Rest) {
		r.t.Fatalf("action %d: the rest went to %v, the model says %v", r.n, got.rest, want.Rest)
	}
	if sent := len(got.others) == 1; sent != (want.Slash != nil) {
		r.t.Fatalf("action %d: %d other messages, the model says slash %v", r.n, len(got.others), want.Slash)
	}
}

// onWorker is onJob for the worker contract.
func (r *run) onWorker(m sent, act func(*model.Worker, model.Message) model.Outcome) {
	r.t.Helper()
	var got ran
	storage, fees := r.rng.Uint64N(1000), uint64(0)
	if r.on != nil {
		got = r.on.run(r.workAt, m, r.worker.State.Terms.StateInit)
		r.now, m.Message, m.bounce = got.in.Now, got.in, got.bounce
		storage, fees = got.storage, got.fees
	}
	collected := r.worker.Collect(storage)
	r.workOut += collected
	before := r.worker.Balance
	out := act(r.worker, m.Message)
	if out.Code != exitcode.OK && !m.bounce {
		r.worker.Balance += m.Value - fees - (storage - collected)
	}
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
	if r.on == nil {
		return
	}
	r.compare(got, out)
	s, err := worker.Decode(got.data)
	r.ok(err)
	if diff := cmp.Diff(&r.worker.State, s); diff != "" {
		r.t.Fatalf("action %d, worker's state (-model +chain):\n%s", r.n, diff)
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

package model_test

import (
	"os"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/model"
)

// wait lets time pass: a moment, past a deadline, past a closing delay, or,
// seldom, until the job is idle.
func (r *run) wait() {
	r.pass([]time.Duration{time.Second, 30 * time.Second, time.Minute + time.Second, time.Hour}[r.rng.IntN(4)])
	if r.rng.IntN(60) == 0 {
		r.pass(job.IdleTime)
	}
}

func (r *run) pass(d time.Duration) {
	r.now = r.now.Add(d)
	if r.flow != nil {
		r.flow.advance(d)
	}
}

// drain ends the job as anybody can: whatever happened, its money comes out.
func (r *run) drain() {
	if r.served() {
		r.flow.settle()
	}
	for range 3 {
		if r.flow != nil && r.job.State.Status == job.Closed && r.job.Balance == 0 {
			break // the rest would only be refused
		}
		r.pass(job.IdleTime + time.Hour)
		for _, op := range []func(uint64) (*cell.Cell, error){job.Close, job.Finish} {
			in := model.Message{From: r.addr("anyone"), Value: job.CloseValue + 10_000_000, Now: r.now}
			body, err := op(r.n)
			r.ok(err)
			r.n++
			r.onJob(sent{in, true, body, nil}, func(j *model.Job, in model.Message) model.Outcome {
				if isFinish(body) {
					return j.Finish(in)
				}
				return j.Close(in)
			})
			r.pass(time.Hour)
		}
	}
	if r.job.State.Status != job.Closed || r.job.Balance != 0 {
		r.t.Fatalf("action %d: money sticks: %d in %+v", r.n, r.job.Balance, r.job.State)
	}
	r.closed++
	if r.flow != nil {
		r.flow.ended()
	}
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

// The model of the contracts in random sequences: first alone, for many actions,
// then on the TVM, then through a devnet, a client and a worker that are
// processes of their own and are killed at random points. One generator makes all
// sequences. Money neither appears, vanishes nor sticks, whatever the order;
// every exit code, payment, balance and state is the same where the contracts'
// code runs; and what is on the killed processes' disks agrees with it.
// COCOON_SOAK=1 makes as many actions on the TVM as on the model, and kills for
// long.
func TestModelIsWhatTheContractsDo(t *testing.T) {
	const alone = 100_000
	onTVM, through, kills, limit := uint64(2_200), uint64(200), 5, 30*time.Minute
	if os.Getenv("COCOON_SOAK") != "" {
		onTVM, through, kills, limit = alone, 2_000, 100, 100*time.Minute
	}
	var n, k uint64
	for seed := range uint64(4) {
		r := newRun(t, seed, nil)
		for r.n < alone/4 {
			r.step()
		}
		if r.closed < 100 || len(r.seen) < 30 {
			t.Errorf("seed %d: %d jobs, %d codes: the sequence does not reach far", seed, r.closed, len(r.seen))
		}
		n += r.n
	}
	machine := newMachine(t)
	m, seen := sequences(t, machine, func(done uint64) bool { return done >= onTVM })
	t.Logf("on the TVM: %d codes met", len(seen))
	d := newDrive(t, limit)
	_, seen = sequences(t, d, func(uint64) bool { return d.actions >= through && d.reached(kills) })
	k = d.actions
	t.Logf("through processes: %d jobs, %d served, %d by their own calls, %d purchases; codes met: %v", d.closed, d.servedJobs, d.own, d.purchases, seen)
	t.Logf("%d actions on the model, %d on the TVM, %d through killed processes (%d/%d/%d kills of devnet, client and worker)",
		n+m+k, m, k, d.kills[roleDevnet], d.kills[roleClient], d.kills[roleWorker])
	if n < alone || m < 2_000 || k < through || d.own == 0 || d.purchases == 0 || d.servedJobs == 0 || d.kills[roleDevnet] == 0 || d.kills[roleClient] == 0 || d.kills[roleWorker] == 0 {
		t.Error("that is not enough")
	}
}

// sequences runs random sequences until enough is done, and ends the last job.
func sequences(t *testing.T, on executor, enough func(done uint64) bool) (done uint64, seen map[exitcode.Code]int) {
	t.Helper()
	seen = map[exitcode.Code]int{}
	for seed := uint64(1); !enough(done); seed++ {
		// A sequence takes years of the chain's time, which ends in 2106.
		r := newRun(t, seed, on)
		for !enough(done+r.n) && r.now.Before(end) {
			r.step()
		}
		if r.n == 0 {
			t.Fatal("a sequence without an action")
		}
		r.drain()
		for code, n := range r.seen {
			seen[code] += n
		}
		done += r.n
	}
	return done, seen
}

// end is well before the last second that a cell has room for.
var end = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

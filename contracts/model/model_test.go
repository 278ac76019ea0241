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
// balance and state is the same. COCOON_SOAK=1 makes 100,000 actions.
func TestModelIsWhatTheContractsDo(t *testing.T) {
	actions := uint64(2_200)
	if os.Getenv("COCOON_SOAK") != "" {
		actions = 100_000
	}
	m := newMachine(t)
	done, closed, seen := uint64(0), 0, map[exitcode.Code]int{}
	for seed := uint64(1); done < actions; seed++ {
		// A sequence takes years of the chain's time, which ends in 2106.
		r := newRun(t, seed, m)
		for done+r.n < actions && r.now.Before(end) {
			r.step()
		}
		if r.n == 0 {
			t.Fatal("a sequence without an action")
		}
		for code, n := range r.seen {
			seen[code] += n
		}
		done, closed = done+r.n, closed+r.closed
	}
	t.Logf("%d actions, %d jobs, %d codes met", done, closed, len(seen))
}

// end is well before the last second that a cell has room for.
var end = time.Date(2100, 1, 1, 0, 0, 0, 0, time.UTC)

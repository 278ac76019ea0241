package model

import (
	"cocoon/contracts/exitcode"
	"cocoon/contracts/worker"
	"cocoon/internal/toncell"
	"time"
)

// Worker is one worker contract with its money.
type Worker struct {
	State   worker.State
	Balance uint64
}

// NewWorker returns a contract before its first stake.
func NewWorker(t worker.Terms) *Worker { return &Worker{State: worker.State{Terms: t}} }

// Collect takes storage fees from the balance and returns what there was.
func (w *Worker) Collect(fee uint64) uint64 {
	fee = min(fee, w.Balance)
	w.Balance -= fee
	return fee
}

// Stake adds to the stake and fills the reserve.
func (w *Worker) Stake(m Message, amount uint64) Outcome {
	if amount == 0 {
		return refuse(exitcode.AmountZero)
	}
	kept := amount
	if want := w.State.Stake + worker.StorageReserve; want > w.Balance {
		kept += want - w.Balance
	}
	if m.Value < kept+worker.StakeGas {
		return refuse(exitcode.ValueTooLow)
	}
	w.State.Stake += amount
	w.Balance += kept
	return Outcome{Rest: m.From}
}

func (w *Worker) owner(m Message) exitcode.Code {
	switch {
	case m.From != w.State.Terms.Owner:
		return exitcode.NotWorkerOwner
	case m.Value < worker.OwnerValue:
		return exitcode.ValueTooLow
	}
	return exitcode.OK
}

// Leave begins the wait for a withdrawal; 0 calls it off.
func (w *Worker) Leave(m Message, amount uint64) Outcome {
	if c := w.owner(m); c != exitcode.OK {
		return refuse(c)
	}
	if amount > w.State.Stake {
		return refuse(exitcode.StakeTooLow)
	}
	w.State.Leaving, w.State.LeaveAt = amount, m.Now.Add(w.State.Terms.LeaveDelay)
	if amount == 0 {
		w.State.LeaveAt = time.Time{}
	}
	return Outcome{Rest: m.From}
}

// Withdraw pays to the owner what has waited.
func (w *Worker) Withdraw(m Message) Outcome {
	s := &w.State
	switch {
	case m.Value < worker.OwnerValue:
		return refuse(exitcode.ValueTooLow)
	case s.Leaving == 0:
		return refuse(exitcode.StakeNotLeaving)
	case m.Now.Before(s.LeaveAt):
		return refuse(exitcode.StakeLocked)
	}
	amount := min(s.Leaving, w.Balance)
	if s.Leaving == s.Stake {
		amount = w.Balance
	}
	s.Stake -= s.Leaving
	s.Leaving, s.LeaveAt = 0, time.Time{}
	w.Balance -= amount
	return Outcome{Payments: []Payment{{s.Terms.Owner, amount}}, Rest: m.From}
}

// Advance announces a boot.
func (w *Worker) Advance(m Message, generation uint64) Outcome {
	if c := w.owner(m); c != exitcode.OK {
		return refuse(c)
	}
	if generation != w.State.Generation+1 {
		return refuse(exitcode.GenerationNotNext)
	}
	w.State.Generation = generation
	return Outcome{Rest: m.From}
}

// Slash takes the whole stake, where the sender is a job of this payout and
// registry.
func (w *Worker) Slash(m Message, j *Job, at, accuser toncell.Address) Outcome {
	s, t := &w.State, &j.State.Terms
	if m.From != at || t.Payout != s.Terms.Payout || t.Registry != s.Terms.Registry {
		return refuse(exitcode.NotJob)
	}
	amount := min(s.Stake, w.Balance)
	if amount == 0 {
		return Outcome{Rest: accuser}
	}
	s.Slashed += amount
	s.Stake, s.Leaving, s.LeaveAt = 0, 0, time.Time{}
	w.Balance -= amount
	return Outcome{Payments: []Payment{{s.Terms.Registry, amount / 2}, {t.Client, amount - amount/2}}, Rest: accuser}
}

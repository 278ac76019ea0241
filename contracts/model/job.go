// Package model is what the job and worker contracts do, in Go: state
// transitions, refusals and money, without gas. Messages go in; exit codes and
// payments come out. The Tolk sources (contracts/tolk) define the contracts; the
// package's test holds the model against them on the TVM, action by action, and
// then runs the model alone for as many as are wanted.
package model

import (
	"math/big"
	"time"

	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

// Message is what the contracts see of a message: who sent it, what it brings,
// and when it arrives.
type Message struct {
	From  toncell.Address
	Value uint64
	Now   time.Time
}

// Payment is money that a contract sent for good; what a message brought
// beyond that and its gas goes to Outcome.Rest.
type Payment struct {
	To     toncell.Address
	Amount uint64
}

// Outcome is what a contract did with a message. With another code than OK it
// did nothing, and the message's value bounces.
type Outcome struct {
	Code     exitcode.Code
	Payments []Payment
	Rest     toncell.Address
	Slash    *toncell.Address // a worker contract was told of a contradiction
}

func refuse(c exitcode.Code) Outcome { return Outcome{Code: c} }

// Job is one job with its money.
type Job struct {
	State   job.State
	Balance uint64
}

// NewJob returns a job before its first deposit.
func NewJob(t job.Terms) *Job {
	return &Job{State: job.State{Verdicts: map[job.Hash]job.Recorded{}, Terms: t}}
}

// Collect takes storage fees from the balance, before a message acts, and
// returns what there was to take.
func (j *Job) Collect(fee uint64) uint64 {
	fee = min(fee, j.Balance)
	j.Balance -= fee
	return fee
}

// Deposit adds to the deposit.
func (j *Job) Deposit(m Message, amount uint64) Outcome {
	s := &j.State
	kept := amount
	if s.Deposited == 0 {
		kept += job.StorageReserve
	}
	switch {
	case s.Status == job.Closed:
		return refuse(exitcode.JobClosed)
	case s.Status == job.Closing:
		return refuse(exitcode.JobNotOpen)
	case amount == 0:
		return refuse(exitcode.AmountZero)
	case m.Value < kept+job.DepositGas:
		return refuse(exitcode.ValueTooLow)
	}
	s.Deposited += amount
	s.TouchedAt = m.Now
	j.Balance += kept
	return Outcome{Rest: m.From}
}

// Word is the registry's word that a verdict is good.
type Word struct {
	Common       verdictcell.Common
	Hash         job.Hash
	Until        time.Time
	RenewalsOnly bool
	FeeCap       uint16
	Sender       toncell.Address // of the verdict; the rest of the value is his
}

// Release records a verdict that the registry found good.
func (j *Job) Release(m Message, w Word) Outcome {
	s := &j.State
	if m.From != s.Terms.Registry {
		return refuse(exitcode.NotRegistry)
	}
	if c := s.Refuses(&w.Common, w.Hash, w.FeeCap, w.RenewalsOnly, w.Until, m.Now); c != exitcode.OK {
		return refuse(c)
	}
	s.Status, s.TouchedAt = job.Released, m.Now
	s.Verdicts[w.Hash] = job.Recorded{ReceiptKey: w.Common.ReceiptKey, At: m.Now, Until: w.Until}
	return Outcome{Rest: w.Sender}
}

// settle closes for good and pays what is left to the client.
func (j *Job) settle(rest toncell.Address) Outcome {
	out := Outcome{Rest: rest}
	if client := j.State.Terms.Client; j.Balance > 0 || rest == client {
		out.Payments = []Payment{{client, j.Balance}}
	}
	j.State.Status, j.Balance = job.Closed, 0
	return out
}

// Redeem pays a voucher as far as the deposit goes. signed says whether the
// client's key signed it, own whether it is for this job and network.
func (j *Job) Redeem(m Message, v receipt.Voucher, own, signed bool) Outcome {
	s, t := &j.State, &j.State.Terms
	_, known := s.Verdicts[job.Hash(v.Verdict)]
	switch {
	case m.Value < job.RedeemValue:
		return refuse(exitcode.ValueTooLow)
	case s.Status == job.Closed:
		return refuse(exitcode.JobClosed)
	case s.Status != job.Released && s.Status != job.Closing:
		return refuse(exitcode.JobNotReleased)
	case !own:
		return refuse(exitcode.VoucherTarget)
	case !signed:
		return refuse(exitcode.VoucherSignature)
	case !known:
		return refuse(exitcode.VoucherVerdict)
	case v.Seq < s.Seq:
		return refuse(exitcode.VoucherReplayed)
	case v.ReceiptCount < s.ReceiptCount:
		return refuse(exitcode.VoucherCountLower)
	}
	amount := uint64(v.Amount)
	total := min(amount, s.Deposited)
	switch {
	case amount <= s.Paid && v.Seq == s.Seq:
		return refuse(exitcode.VoucherReplayed)
	case amount <= s.Paid:
		return refuse(exitcode.VoucherNotHigher)
	case total <= s.Paid:
		return refuse(exitcode.VoucherOverDeposit)
	case j.Balance == 0:
		return refuse(exitcode.BalanceTooLow)
	}
	due := min(total-s.Paid, j.Balance)
	fee := t.Fee(s.Paid+due) - t.Fee(s.Paid)
	s.Paid += due
	s.Seq, s.ReceiptCount, s.ReceiptsRoot, s.TouchedAt = v.Seq, v.ReceiptCount, job.Hash(v.ReceiptsRoot), m.Now
	j.Balance -= due
	out := Outcome{Rest: m.From}
	if fee > 0 {
		out.Payments = append(out.Payments, Payment{*t.Gateway, fee})
	}
	out.Payments = append(out.Payments, Payment{t.Payout, due - fee})
	return out
}

// Close ends the job, or begins to.
func (j *Job) Close(m Message) Outcome {
	s, t := &j.State, &j.State.Terms
	idle := m.Now.After(s.TouchedAt.Add(job.IdleTime))
	entitled := m.From == t.Client || idle || (m.From == t.Payout && s.Status == job.Released)
	switch {
	case s.Status == job.Closed:
		return refuse(exitcode.JobClosed)
	case s.Status == job.Closing:
		return refuse(exitcode.AlreadyClosing)
	case m.Value < job.CloseValue:
		return refuse(exitcode.ValueTooLow)
	case !entitled:
		return refuse(exitcode.NotClient)
	case s.Status == job.Released:
		s.Status, s.CloseAt = job.Closing, m.Now.Add(t.CloseDelay)
	default:
		return j.settle(m.From)
	}
	return Outcome{Rest: m.From}
}

// Finish ends a closing job after its delay.
func (j *Job) Finish(m Message) Outcome {
	s := &j.State
	switch {
	case m.Value < job.CloseValue:
		return refuse(exitcode.ValueTooLow)
	case s.Status == job.Closed:
		if j.Balance == 0 {
			return refuse(exitcode.JobClosed)
		}
	case s.Status != job.Closing:
		return refuse(exitcode.NotClosing)
	case m.Now.Before(s.CloseAt):
		return refuse(exitcode.CloseTooEarly)
	}
	return j.settle(m.From)
}

// Accuse proves a contradiction. differ says whether the two receipts do,
// signed whether the verdict's receipt key signed both, with this number.
func (j *Job) Accuse(m Message, verdict job.Hash, differ, signed bool) Outcome {
	_, known := j.State.Verdicts[verdict]
	switch {
	case m.Value < job.AccuseValue:
		return refuse(exitcode.ValueTooLow)
	case j.State.Terms.Stake == nil:
		return refuse(exitcode.NoStake)
	case !known:
		return refuse(exitcode.ReceiptVerdict)
	case !differ:
		return refuse(exitcode.ReceiptsAgree)
	case !signed:
		return refuse(exitcode.ReceiptSignature)
	}
	return Outcome{Slash: j.State.Terms.Stake}
}

// Sum adds amounts that may exceed 64 bits.
func Sum(amounts ...uint64) *big.Int {
	out := new(big.Int)
	for _, a := range amounts {
		out.Add(out, new(big.Int).SetUint64(a))
	}
	return out
}

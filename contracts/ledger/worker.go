package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/xssnick/tonutils-go/tvm/cell"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/contracts/worker"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// Worker returns the proven state of the worker contract at addr.
func (l *Ledger) Worker(ctx context.Context, addr toncell.Address) (*worker.State, *chain.State, error) {
	st, err := l.chain.Account(ctx, addr.Addr())
	if err != nil {
		return nil, nil, err
	}
	s, err := WorkerOf(st, addr)
	return s, st, err
}

var workerKind = kind[worker.State]{
	name: "worker contract", code: "worker.address", remedy: "it was deployed with forged data, or for jobs of another version; do not rely on its stake",
	checkCode: worker.CheckCode, decode: worker.Decode, address: func(s *worker.State) (toncell.Address, error) { return s.Terms.Address() },
}

// WorkerOf decodes a proven account as a worker contract of this version, at
// the address of its own terms, which name this version's job.
func WorkerOf(st *chain.State, addr toncell.Address) (*worker.State, error) {
	return workerKind.of(st, addr)
}

// CheckStake reads the worker contract that a job's terms name, and returns
// every reason why it does not answer for the job's receipts. A job that names
// none asks for nothing.
func (l *Ledger) CheckStake(ctx context.Context, t *job.Terms) error {
	if t.Stake == nil {
		return nil
	}
	s, _, err := l.Worker(ctx, *t.Stake)
	if err != nil {
		return err
	}
	return StakeOf(s, t)
}

// StakeOf is CheckStake for a state that the caller has proven.
func StakeOf(s *worker.State, t *job.Terms) error {
	const remedy = "open a job that names the worker's own contract, with a stake"
	var errs []error
	need := func(ok bool, code, what string, want, got any) {
		if !ok {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, code, "the worker contract's "+what, fmt.Sprint(want), fmt.Sprint(got), remedy))
		}
	}
	need(s.Terms.Payout == t.Payout, "stake.wrong_payout", "payout", t.Payout, s.Terms.Payout)
	need(s.Terms.Registry == t.Registry, "stake.wrong_registry", "registry", t.Registry, s.Terms.Registry)
	need(s.Firm() >= t.MinStake, "stake.low", "stake that is not leaving", "at least "+coin.Nano(t.MinStake).String()+" TON", coin.Nano(s.Firm()).String()+" TON")
	need(s.Terms.LeaveDelay >= t.CloseDelay, "stake.leaves_early", "delay of a withdrawal", "at least "+t.CloseDelay.String(), s.Terms.LeaveDelay)
	return errors.Join(errs...)
}

// OpenWorker deploys a worker contract with a first stake, or adds to it.
func (l *Ledger) OpenWorker(ctx context.Context, w chain.Sender, terms *worker.Terms, stake coin.Nano) (toncell.Address, *Tx, error) {
	if err := terms.Check(); err != nil {
		return toncell.Address{}, nil, err
	}
	if stake > 1<<62 {
		return toncell.Address{}, nil, fmt.Errorf("staking %d nanoton: more than there is", uint64(stake))
	}
	body, err := worker.Stake(0, uint64(stake))
	if err != nil {
		return toncell.Address{}, nil, err
	}
	return l.deploy(ctx, w, "staking", terms, stake+worker.StorageReserve+worker.StakeGas+Attached, body)
}

// tell sends a message of package worker to a worker contract and returns its
// state after it.
func (l *Ledger) tell(ctx context.Context, w chain.Sender, addr toncell.Address, what string, body *cell.Cell, err error) (*worker.State, *Tx, error) {
	if err != nil {
		return nil, nil, err
	}
	tx, st, err := l.call(ctx, w, what, message(addr, worker.OwnerValue+Attached, body))
	if err != nil {
		return nil, tx, err
	}
	s, err := WorkerOf(st, addr)
	return s, tx, err
}

// Leave begins the wait for a withdrawal of amount; 0 calls it off.
func (l *Ledger) Leave(ctx context.Context, w chain.Sender, addr toncell.Address, amount coin.Nano) (*worker.State, *Tx, error) {
	body, err := worker.Leave(0, uint64(amount))
	return l.tell(ctx, w, addr, "leaving with the stake", body, err)
}

// Withdraw sends to the owner what has waited long enough.
func (l *Ledger) Withdraw(ctx context.Context, w chain.Sender, addr toncell.Address) (*worker.State, *Tx, error) {
	body, err := worker.Withdraw(0)
	return l.tell(ctx, w, addr, "withdrawing the stake", body, err)
}

// Advance announces the next boot generation.
func (l *Ledger) Advance(ctx context.Context, w chain.Sender, addr toncell.Address, generation uint64) (*worker.State, *Tx, error) {
	body, err := worker.Advance(0, generation)
	return l.tell(ctx, w, addr, "announcing a boot", body, err)
}

// slashWait bounds how long Accuse waits for the worker contract.
const slashWait = time.Minute

// Accuse proves to a job that its worker's receipt key has signed two receipts
// of one number, and returns the worker contract's state after the slash.
func (l *Ledger) Accuse(ctx context.Context, w chain.Sender, first, second *receipt.Signed) (*worker.State, *Tx, error) {
	if !first.Contradicts(second) {
		return nil, nil, fault.New(fault.ExitRefused, "receipt.no_contradiction", "name two receipts of one job and number that differ",
			"accusing: the receipts do not contradict each other")
	}
	addr := first.Receipt.Job
	s, _, err := l.Job(ctx, addr)
	if err != nil {
		return nil, nil, err
	}
	// The key counts, not the verdict that a receipt names.
	a := &job.Accusation{Seq: first.Receipt.Seq, First: first, Second: second}
	for hash, v := range s.Verdicts {
		if first.Verify(v.ReceiptKey[:]) && second.Verify(v.ReceiptKey[:]) {
			a.Verdict = hash
		}
	}
	if a.Verdict == (job.Hash{}) {
		return nil, nil, fault.New(fault.ExitRefused, "receipt.signature", "name receipts as they were received",
			"accusing: no receipt key that the job was released to signed both receipts")
	}
	if s.Terms.Stake == nil {
		return nil, nil, fault.New(fault.ExitRefused, "contract.no_stake", "open jobs that name a worker contract", "accusing: the job names no worker contract")
	}
	before, _, err := l.Worker(ctx, *s.Terms.Stake)
	if err != nil {
		return nil, nil, err
	}
	body, err := job.Accuse(0, a)
	if err != nil {
		return nil, nil, err
	}
	tx, _, err := l.call(ctx, w, "accusing", message(addr, job.AccuseValue+Attached, body))
	if err != nil {
		return nil, tx, err
	}
	ctx, cancel := context.WithTimeout(ctx, slashWait)
	defer cancel()
	var after *worker.State
	var failed error
	_, err = l.chain.WaitAccount(ctx, s.Terms.Stake.Addr(), func(st *chain.State) bool {
		after, failed = WorkerOf(st, *s.Terms.Stake)
		return failed != nil || before.Stake == 0 || after.Slashed > before.Slashed
	})
	return after, tx, errors.Join(err, failed)
}

package ledger_test

import (
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/contracts/worker"
)

// stake opens a worker contract of the owner's and names it in the job's terms.
func (w *world) stake(amount coin.Nano) {
	w.t.Helper()
	terms := worker.Terms{Owner: w.addr(w.owner), Payout: w.payout, Registry: w.registry, Machine: sum("machine"), LeaveDelay: 24 * time.Hour}
	addr, _, err := w.ledger.OpenWorker(w.ctx, w.owner, &terms, amount)
	w.ok(err)
	w.terms.Stake, w.terms.MinStake = &addr, uint64(amount)
}

func (w *world) receipt(seq uint64, tokens uint64) *receipt.Signed {
	w.t.Helper()
	c := w.common()
	r := receipt.Receipt{
		Type: receipt.Type, Job: w.job, Seq: seq, ModelRoot: sum("model"), Manifest: sum("manifest"), Price: receipt.Price{Completion: 1_000_000},
		Tokens: receipt.Tokens{Completion: tokens}, Cumulative: coin.Nano(tokens), Verdict: must(c.Hash()), Time: w.net.Now().UTC().Truncate(time.Second),
	}
	s, err := receipt.Sign(key("receipt"), r)
	w.ok(err)
	return s
}

func TestDevnetContradictingReceiptsSlashTheStake(t *testing.T) {
	w := newWorld(t)
	w.stake(3 * coin.TON)
	w.open(coin.TON)
	w.ok(w.ledger.CheckStake(w.ctx, &w.terms))
	w.release()
	a, b := w.receipt(1, 10), w.receipt(1, 11)
	_, _, err := w.ledger.Accuse(w.ctx, w.client, a, a)
	w.want(err, "receipt.no_contradiction")
	forged := *b
	forged.Receipt.Tokens.Completion++
	_, _, err = w.ledger.Accuse(w.ctx, w.client, a, &forged)
	w.want(err, "receipt.signature")

	// The owner tries to leave first.
	s, _, err := w.ledger.Leave(w.ctx, w.owner, *w.terms.Stake, 3*coin.TON)
	w.ok(err)
	if s.Leaving != uint64(3*coin.TON) {
		t.Errorf("leaving: %+v", s)
	}
	w.want(w.ledger.CheckStake(w.ctx, &w.terms), "stake.low")
	before := w.balance(w.addr(w.client))
	s, _, err = w.ledger.Accuse(w.ctx, w.anyone, a, b)
	w.ok(err)
	if s.Stake != 0 || s.Leaving != 0 || s.Slashed != uint64(3*coin.TON) {
		t.Errorf("after the accusation: %+v", s)
	}
	reg, _, err := w.ledger.Registry(w.ctx, w.registry)
	w.ok(err)
	if reg.Slashed != uint64(3*coin.TON/2) {
		t.Errorf("the registry counts %d", reg.Slashed)
	}
	w.ok(w.net.Advance(w.ctx, 24*time.Hour))
	_, _, err = w.ledger.Withdraw(w.ctx, w.owner, *w.terms.Stake)
	w.want(err, "contract.stake_not_leaving")
	if got := w.balance(w.addr(w.client)) - before; got > 3*coin.TON/2 || got < 3*coin.TON/2-1_000_000 { // a wallet pays to be paid
		t.Errorf("the client got %s", got)
	}
}

func TestDevnetStakeLeavesAfterItsDelayAndBootsAreCounted(t *testing.T) {
	w := newWorld(t)
	w.stake(2 * coin.TON)
	at := *w.terms.Stake
	_, _, err := w.ledger.Leave(w.ctx, w.anyone, at, coin.TON)
	w.want(err, "contract.not_worker_owner")
	_, _, err = w.ledger.Leave(w.ctx, w.owner, at, coin.TON)
	w.ok(err)
	_, _, err = w.ledger.Withdraw(w.ctx, w.anyone, at)
	w.want(err, "contract.stake_locked")
	w.ok(w.net.Advance(w.ctx, 24*time.Hour))
	s, _, err := w.ledger.Withdraw(w.ctx, w.anyone, at)
	w.ok(err)
	if s.Stake != uint64(coin.TON) || s.Leaving != 0 {
		t.Errorf("after the withdrawal: %+v", s)
	}
	s, _, err = w.ledger.Advance(w.ctx, w.owner, at, 1)
	w.ok(err)
	if s.Generation != 1 {
		t.Errorf("generation %d", s.Generation)
	}
	_, _, err = w.ledger.Advance(w.ctx, w.owner, at, 1)
	w.want(err, "contract.generation_not_next")

	// A stake of somebody else's does not answer for this job.
	w.terms.Payout, w.terms.Registry, w.terms.CloseDelay = w.gateway, w.payout, 48*time.Hour
	err = w.ledger.CheckStake(w.ctx, &w.terms)
	for _, code := range []string{"stake.wrong_payout", "stake.wrong_registry", "stake.low", "stake.leaves_early"} {
		w.want(err, code)
	}
}

func TestDevnetSenderOfAVerdictPaysTheVerifiers(t *testing.T) {
	const fee = coin.TON / 50
	w := newWorldOf(t, func(s *registry.State) { s.VerifierFee = uint64(fee) })
	w.open(coin.TON)
	escrow, lt := w.escrow()
	before := w.balance(w.registry)
	w.release()
	if got := w.balance(w.registry) - before; got > fee || got < fee-1_000_000 { // less its storage
		t.Errorf("the registry kept %s", got)
	}
	if got := w.balance(w.job); got != escrow-w.storage(lt) {
		t.Errorf("the release cost the escrow %d", escrow-got)
	}

	dear := newWorldOf(t, func(s *registry.State) { s.VerifierFee = uint64(ledger.MaxVerifierFee) + 1 })
	dear.open(coin.TON)
	_, _, err := dear.ledger.Release(dear.ctx, dear.anyone, dear.job, dear.verdict(nil))
	dear.want(err, "registry.verifier_fee")
}

package ledger_test

import (
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/devnet/devnettest"
	"cocoon/contracts/exitcode"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
)

func TestDevnetReleaseRedeemCloseToTheNanoton(t *testing.T) {
	w := newWorld(t)
	const deposit = 10 * coin.TON
	w.open(deposit)
	if got := w.balance(w.job); got != deposit+job.StorageReserve {
		t.Errorf("the escrow holds %s", got)
	}
	st := w.release()
	hash, ok := st.ReleasedTo(job.Hash(public(key("receipt"))))
	if st.Status != job.Released || !ok {
		t.Fatalf("after the release: %+v", st)
	}
	if c := w.common(); job.Hash(must(c.Hash())) != hash {
		t.Errorf("released by verdict %s", hash)
	}

	before := w.balance(w.job)
	const amount = 3_000_000_019
	red, err := w.ledger.Redeem(w.ctx, w.anyone, w.voucher(1, amount, nil))
	w.ok(err)
	fee := coin.Nano(w.terms.Fee(amount))
	if red.Worker != amount-fee || red.Gateway != fee || fee != 150_000_000 {
		t.Errorf("worker %d, gateway %d of %d", red.Worker, red.Gateway, uint64(amount))
	}
	if got := before - w.balance(w.job); got != amount+red.Tx.Storage {
		t.Errorf("the escrow paid %d, want %d", got, uint64(amount))
	}
	if got := w.balance(w.payout); got != red.Worker {
		t.Errorf("the worker got %d, want %d", got, red.Worker)
	}
	if got := w.balance(w.gateway); got != fee {
		t.Errorf("the gateway got %d, want %d", got, fee)
	}
	if s := red.State; s.Paid != amount || s.Seq != 1 || s.ReceiptCount != 1 || s.ReceiptsRoot != sum("root") {
		t.Errorf("after the redemption: %+v", s)
	}

	if _, _, err := w.ledger.Close(w.ctx, w.anyone, w.job); err == nil {
		t.Error("a stranger closed the job")
	} else {
		w.want(err, "contract.not_client")
	}
	s, _, err := w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	if s.Status != job.Closing {
		t.Fatalf("after closing: %s", s.Status)
	}
	_, _, err = w.ledger.Finish(w.ctx, w.anyone, w.job)
	w.want(err, "contract.close_too_early")
	// A later voucher still wins.
	_, err = w.ledger.Redeem(w.ctx, w.worker, w.voucher(2, amount+1, nil))
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, time.Hour))
	rest := w.balance(w.job)
	s, tx, err := w.ledger.Finish(w.ctx, w.anyone, w.job)
	w.ok(err)
	if s.Status != job.Closed || w.balance(w.job) != 0 {
		t.Errorf("after finishing: %s with %s", s.Status, w.balance(w.job))
	}
	if got := tx.Paid(w.terms.Client); got != rest-tx.Storage {
		t.Errorf("the client was refunded %d of %d, storage %d", got, rest, tx.Storage)
	}
	_, err = w.ledger.Redeem(w.ctx, w.worker, w.voucher(3, amount+2, nil))
	w.want(err, "contract.job_closed")
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

func TestDevnetJobAndRegistryRefuseBadVerdicts(t *testing.T) {
	w := newWorld(t)
	w.open(coin.TON)
	stranger := key("stranger")
	cases := []struct {
		name string
		code exitcode.Code
		v    *verdictcell.Verdict
	}{
		{"an unregistered manifest", exitcode.ManifestUnknown, w.verdict(func(c *verdictcell.Common) { c.Manifest = sum("other") })},
		{"an expired verdict", exitcode.VerdictExpired, w.signed(nil, key("verifier"), -time.Hour, -time.Second)},
		{"a verdict of the future", exitcode.VerdictNotYetValid, w.signed(nil, key("verifier"), time.Hour, 2*time.Hour)},
		{"a stranger's signature", exitcode.VerifierUnknown, w.signed(nil, stranger, -10*time.Second, time.Minute)},
		{"a forged signature", exitcode.SignatureInvalid, forged(w.verdict(nil))},
		{"another trust class", exitcode.TrustClassRefused, w.verdict(func(c *verdictcell.Common) { c.TrustClass = verdictcell.SGX })},
		{"another network", exitcode.VerdictGlobalID, w.verdict(func(c *verdictcell.Common) { c.GlobalID = -239 })},
		{"another model", exitcode.WrongTerms, w.verdict(func(c *verdictcell.Common) { c.ModelRoot = sum("other") })},
		{"another payout", exitcode.WrongTerms, w.verdict(func(c *verdictcell.Common) { c.Payout = w.addr(w.anyone) })},
		{"another policy", exitcode.WrongTerms, w.verdict(func(c *verdictcell.Common) { c.PolicyHash = sum("other") })},
		{"another registry", exitcode.VerdictRegistry, w.verdict(func(c *verdictcell.Common) { c.Registry = w.job })},
	}
	reg, proven, err := w.ledger.Registry(w.ctx, w.registry)
	w.ok(err)
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			escrow, lt := w.escrow()
			_, _, err := w.ledger.Release(w.ctx, w.anyone, w.job, tc.v)
			w.want(err, "contract."+tc.code.String())
			// Without the checks that are made before anything is sent.
			checked, told, err := w.ledger.SendVerdict(w.ctx, w.anyone, w.registry, w.job, 0, tc.v)
			q := registry.Question{Verdict: tc.v, Registry: w.registry, GlobalID: proven.GlobalID, Now: w.net.Now()}
			if want := reg.Answer(q); checked.ExitCode != want {
				t.Errorf("the registry answers %v, its rules in Go %v", checked.ExitCode, want)
			}
			switch {
			case checked.ExitCode != exitcode.OK:
				w.want(err, "contract."+checked.ExitCode.String())
			case tc.code == exitcode.WrongTerms && reg.Models[tc.v.Common.ModelRoot].Active:
				w.want(err, "contract."+tc.code.String())
				if told.ExitCode != tc.code {
					t.Errorf("the job says %v", told.ExitCode)
				}
			default:
				t.Errorf("nobody refused: %v", err)
			}
			s := w.state()
			if s.Status != job.Funded || len(s.Verdicts) != 0 {
				t.Errorf("after the refusal: %+v", s)
			}
			if got := w.balance(w.job); got != escrow-w.storage(lt) {
				t.Errorf("the refusal cost the escrow %d", escrow-got)
			}
		})
	}
	w.release() // and a good one still works
}

// forged flips a bit of a signature.
func forged(v *verdictcell.Verdict) *verdictcell.Verdict {
	v.Signatures[0].Sig[20] ^= 4
	return v
}

func TestDevnetRefusesForgedAndReplayedVouchers(t *testing.T) {
	w := newWorld(t)
	w.open(coin.TON)
	_, err := w.ledger.Redeem(w.ctx, w.worker, w.voucher(1, 5, nil))
	w.want(err, "contract.job_not_released")
	w.release()
	_, err = w.ledger.Redeem(w.ctx, w.worker, w.voucher(2, 1000, nil))
	w.ok(err)
	escrow, lt := w.escrow()

	thief := *w.voucher(3, 2000, nil)
	thief.Signature[5] ^= 1
	raised := *w.voucher(3, 2000, nil)
	raised.Voucher.Amount = coin.TON
	for name, tc := range map[string]struct {
		v    *receipt.SignedVoucher
		code exitcode.Code
	}{
		"the same voucher again":       {w.voucher(2, 1000, nil), exitcode.VoucherReplayed},
		"an older number":              {w.voucher(1, 2000, nil), exitcode.VoucherReplayed},
		"no higher amount":             {w.voucher(3, 1000, nil), exitcode.VoucherNotHigher},
		"fewer receipts":               {w.voucher(3, 2000, func(v *receipt.Voucher) { v.ReceiptCount = 1 }), exitcode.VoucherCountLower},
		"a flipped signature bit":      {&thief, exitcode.VoucherSignature},
		"a raised amount":              {&raised, exitcode.VoucherSignature},
		"another network":              {w.voucher(3, 2000, func(v *receipt.Voucher) { v.GlobalID = -239 }), exitcode.VoucherTarget},
		"a verdict that never counted": {w.voucher(3, 2000, func(v *receipt.Voucher) { v.Verdict = sum("x") }), exitcode.VoucherVerdict},
	} {
		_, err := w.ledger.Redeem(w.ctx, w.anyone, tc.v)
		t.Log(name)
		w.want(err, "contract."+tc.code.String())
	}
	if got := w.balance(w.job); got != escrow-w.storage(lt) {
		t.Errorf("the refusals cost the escrow %d", escrow-got)
	}
}

func TestDevnetRestartMidJobLosesNothing(t *testing.T) {
	w := newWorld(t)
	w.open(2 * coin.TON)
	w.release()
	_, err := w.ledger.Redeem(w.ctx, w.worker, w.voucher(1, coin.TON, nil))
	w.ok(err)
	want, balance := w.state(), w.balance(w.job)
	addr := w.net.Addr()
	devnettest.Close(t, w.net)
	_, err = w.ledger.Redeem(w.ctx, w.worker, w.voucher(2, 2*coin.TON, nil))
	w.want(err, "ton.network.unreachable")
	w.net = w.start(addr)
	if got := w.state(); got.Paid != want.Paid || got.Status != want.Status || w.balance(w.job) != balance {
		t.Errorf("after the restart %+v", got)
	}
	red, err := w.ledger.Redeem(w.ctx, w.worker, w.voucher(2, 2*coin.TON, nil))
	w.ok(err)
	if red.State.Paid != uint64(2*coin.TON) {
		t.Errorf("paid %d", red.State.Paid)
	}
}

// A verdict for a job that is not there, or that refuses it: the money comes
// back to who sent it, over the registry.
func TestDevnetMoneyOfARefusedWordComesBack(t *testing.T) {
	w := newWorld(t)
	w.open(coin.TON)
	w.release()
	none := w.job
	none.Hash[0] ^= 1
	_, _, err := w.ledger.SendVerdict(w.ctx, w.anyone, w.registry, none, 0, w.verdict(nil))
	w.want(err, "contract.not_active")
	for name, to := range map[string]toncell.Address{"no job": none, "recorded before": w.job, "the registry itself": w.registry} {
		sender, reg := w.balance(w.addr(w.anyone)), w.balance(w.registry)
		body, err := registry.CheckVerdict(5, to, 0, must(w.verdict(nil).Cell()))
		w.ok(err)
		_, err = w.ledger.Tell(w.ctx, w.anyone, w.registry, coin.TON, body)
		w.ok(err)
		_, err = w.chain.WaitAccount(w.ctx, w.anyone.Address(), func(st *chain.State) bool { return coin.Nano(st.Balance.Uint64()) > sender-25_000_000 })
		w.ok(err)
		if got := w.balance(w.registry); got > reg {
			t.Errorf("%s: the registry kept %d", name, got-reg)
		}
	}
	s, tx, err := w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	if s.Status != job.Closing || tx.ExitCode != exitcode.OK {
		t.Errorf("afterwards: %+v", s)
	}
}

func TestDevnetRenewalAndPause(t *testing.T) {
	w := newWorld(t)
	w.open(coin.TON)
	w.release()
	w.ok(w.apply(registry.PausedEntry{Paused: true}))

	second := func(c *verdictcell.Common) {
		c.EvidenceSHA256, c.ReceiptKey = sum("evidence 2"), [32]byte(public(key("receipt 2")))
	}
	_, _, err := w.ledger.Release(w.ctx, w.worker, w.job, w.verdict(second))
	w.want(err, "contract.registry_paused")
	_, err = w.ledger.Redeem(w.ctx, w.worker, w.voucher(1, 10, nil))
	w.ok(err)

	w.ok(w.apply(registry.PausedEntry{}))
	s, _, err := w.ledger.Release(w.ctx, w.worker, w.job, w.verdict(second))
	w.ok(err)
	if hash, ok := s.ReleasedTo(job.Hash(public(key("receipt 2")))); !ok || len(s.Verdicts) != 2 {
		t.Errorf("renewed: %v %v", hash, s.Verdicts)
	}
	reg, _, err := w.ledger.Registry(w.ctx, w.registry)
	w.ok(err)
	if reg.Version != 3 || reg.Paused {
		t.Errorf("registry: %v", reg)
	}
}

func TestDevnetJobWithForgedDataIsNotAJob(t *testing.T) {
	w := newWorld(t)
	w.open(coin.TON)
	_, st, err := w.ledger.Job(w.ctx, w.job)
	w.ok(err)
	other := w.job
	other.Hash[3] ^= 1
	_, err = ledger.JobOf(st, other)
	w.want(err, "job.address")
	_, err = ledger.RegistryOf(st)
	w.want(err, "contract.code_hash")
	_, _, err = w.ledger.Job(w.ctx, other)
	w.want(err, "contract.not_active")
}

func TestDevnetWorkerChecksTheWholeRelease(t *testing.T) {
	w := newWorld(t)
	w.open(coin.TON)
	d := ledger.Demand{
		ReceiptKey: public(key("receipt")), Payout: w.payout, Registry: w.registry, ModelRoot: sum("model"),
		Price: 1_000_000, MinDeposit: coin.TON, MinCloseDelay: time.Hour,
	}
	_, _, err := w.ledger.VerifyRelease(w.ctx, w.job, d)
	w.want(err, "job.not_released")
	w.release()
	_, hash, err := w.ledger.VerifyRelease(w.ctx, w.job, d)
	w.ok(err)
	if c := w.common(); hash != must(c.Hash()) {
		t.Errorf("released by %s", hash)
	}
	bad := ledger.Demand{
		ReceiptKey: public(key("other")), Payout: w.registry, Registry: w.job, ModelRoot: sum("other"),
		Price: 1_000_001, MinDeposit: coin.TON + 1, MinCloseDelay: 2 * time.Hour,
	}
	_, _, err = w.ledger.VerifyRelease(w.ctx, w.job, bad)
	for _, code := range []string{"job.not_released", "job.wrong_payout", "job.wrong_registry", "job.wrong_model", "job.price_cap", "job.deposit_low", "job.close_delay"} {
		w.want(err, code)
	}
}

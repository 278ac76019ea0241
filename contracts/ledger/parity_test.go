package ledger_test

import (
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/devnet/parity"
	"cocoon/contracts/receipt"
)

// TestContractsRunAsInTheSandbox repeats a job's life, refusals and bounces
// included, in @ton/sandbox under Node and compares every transaction and every
// account byte for byte.
func TestContractsRunAsInTheSandbox(t *testing.T) {
	w := newWorld(t)
	w.open(10 * coin.TON)
	w.release()
	_, err := w.ledger.Redeem(w.ctx, w.anyone, w.voucher(1, coin.TON, nil))
	w.ok(err)
	if _, err = w.ledger.Redeem(w.ctx, w.anyone, w.voucher(2, 100*coin.TON, func(v *receipt.Voucher) { v.GlobalID++ })); err == nil {
		t.Error("a voucher for another network was redeemed")
	}
	if _, _, err = w.ledger.Close(w.ctx, w.anyone, w.job); err == nil {
		t.Error("a stranger closed the job")
	}
	_, _, err = w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, w.terms.CloseDelay+time.Minute))
	_, _, err = w.ledger.Finish(w.ctx, w.anyone, w.job)
	w.ok(err)
	trace, err := w.net.Trace()
	w.ok(err)
	r, err := parity.Check(w.ctx, trace)
	w.ok(err)
	t.Logf("%+v", *r)
	if r.Transactions != len(trace.Steps) || r.Deploys < 4 || r.Failed < 2 || r.Bounced < 2 {
		t.Errorf("the history is too poor: %+v", *r)
	}
}

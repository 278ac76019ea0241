package wallet

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/xssnick/tonutils-go/tlb"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/internal/fault"
)

var kinds = []Kind{V5R1, Highload}

func TestPaymentWithAnIDIsMadeOnce(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind, wide)
			sent, e, err := w.wallet.Pay(w.ctx, "rent", pay(1, 1.5), pay(2, 0.25))
			w.ok(err)
			again, e2, err := w.wallet.Pay(w.ctx, "rent", pay(1, 1.5), pay(2, 0.25))
			w.ok(err)
			if e.Number != e2.Number || string(e.Transaction[:]) != string(again.Transaction.Hash) || again.Fees.Cmp(sent.Fees) != 0 {
				t.Errorf("first %+v, then %+v", e, e2)
			}
			_, _, err = w.wallet.Pay(w.ctx, "rent", pay(1, 1.6))
			w.want(err, "ton.wallet.id_used")
			_, _, err = w.wallet.Pay(w.ctx, "", pay(1, 1))
			w.want(err, "ton.wallet.id")
			// Without an id, equal calls whose outcome was told are two payments.
			for range 2 {
				_, err = w.wallet.Send(w.ctx, pay(3, 1))
				w.ok(err)
			}
			w.once(1, 1.5)
			w.once(2, 0.25)
			if n, _ := w.received(3); n != 2 {
				t.Errorf("%d of two payments arrived", n)
			}
			es, err := w.wallet.History(10)
			w.ok(err)
			if len(es) != 3 || es[0].State != Done || es[2].ID != "rent" || es[2].Total() != 1_750_000_000 || es[2].Fees == 0 {
				t.Errorf("%+v", es[2])
			}
		})
	}
}

func TestCrashAtEachStepPaysOnce(t *testing.T) {
	for _, kind := range kinds {
		w := newWorld(t, kind, wide)
		n := uint64(10)
		for _, step := range []string{"journaled", "sent", "confirmed"} {
			for _, id := range []string{"", "id at " + step} {
				n++
				t.Run(fmt.Sprintf("%s %s with id %q", kind, step, id), func(t *testing.T) {
					do := func() error {
						var err error
						if id == "" {
							_, err = w.wallet.Send(w.ctx, pay(n, 1), pay(1000+n, 2))
						} else {
							_, _, err = w.wallet.Pay(w.ctx, id, pay(n, 1), pay(1000+n, 2))
						}
						return err
					}
					w.crashed(step, do)
					w.ok(do())
					w.once(n, 1)
					w.once(1000+n, 2)
					// The same after a recovery that nobody asked for.
					n += 100
					id += "'"
					if id == "'" {
						id = ""
					}
					w.crashed(step, do)
					w.ok(w.wallet.Recover(w.ctx))
					w.once(n, 1)
					w.ok(do())
					w.once(n, 1)
					n -= 100
				})
			}
		}
	}
}

// TestLostAnswersAndMessages: the server fails after it took the message, or
// takes it and drops it.
func TestLostAnswersAndMessages(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind, wide)
			w.flaky.send = func(pass func() error, _ *tlb.ExternalMessage) error {
				if err := pass(); err != nil {
					return err
				}
				return fault.New(fault.ExitNetwork, "ton.server.error", "", "no")
			}
			_, _, err := w.wallet.Pay(w.ctx, "a", pay(1, 1))
			w.ok(err)
			w.once(1, 1)
			w.flaky.send = func(pass func() error, _ *tlb.ExternalMessage) error {
				if err := pass(); err != nil {
					return err
				}
				return fault.New(fault.ExitNetwork, "ton.network.unreachable", "", "cut")
			}
			_, _, err = w.wallet.Pay(w.ctx, "b", pay(2, 1))
			w.want(err, "ton.wallet.pending")
			_, _, err = w.wallet.Pay(w.ctx, "b", pay(2, 1))
			w.ok(err)
			w.once(2, 1)
			dropped := 0
			w.flaky.send = func(pass func() error, _ *tlb.ExternalMessage) error {
				if dropped++; dropped < 3 {
					return nil
				}
				return pass()
			}
			_, _, err = w.wallet.Pay(w.ctx, "c", pay(3, 1))
			w.ok(err)
			w.once(3, 1)
			if dropped != 3 {
				t.Errorf("it was sent %d times", dropped)
			}
		})
	}
}

// TestDeadPaymentIsMadeAnewAndItsOldMessageIsWorthless: a message that nobody
// delivers expires by the chain's clock, and only then is another one signed.
func TestDeadPaymentIsMadeAnewAndItsOldMessageIsWorthless(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind, wide)
			_, err := w.wallet.Send(w.ctx, pay(9, 1)) // deploys the wallet
			w.ok(err)
			var held []*tlb.ExternalMessage
			w.flaky.send = func(_ func() error, ext *tlb.ExternalMessage) error {
				held = append(held, ext)
				return w.net.Advance(w.ctx, 4*time.Minute)
			}
			_, e, err := w.wallet.Pay(w.ctx, "a", pay(1, 1))
			w.want(err, "ton.wallet.expired")
			if e.State != Expired {
				t.Fatalf("it is %s", e.State)
			}
			w.flaky.send = nil
			_, e2, err := w.wallet.Pay(w.ctx, "a", pay(1, 1))
			w.ok(err)
			if e2.Number == e.Number {
				t.Error("the dead payment was taken up")
			}
			for _, ext := range held {
				w.want(w.client.Send(w.ctx, ext), "ton.message.not_accepted")
			}
			w.once(1, 1)
		})
	}
}

// TestForeignUseOfTheKeyIsNamed: another program with the same key takes the
// seqno.
func TestForeignUseOfTheKeyIsNamed(t *testing.T) {
	w := newWorld(t, V5R1, wide)
	other, err := w.client.Wallet(w.ctx, w.wallet.key)
	w.ok(err)
	var held *tlb.ExternalMessage
	w.flaky.send = func(_ func() error, ext *tlb.ExternalMessage) error {
		held = ext
		_, err := other.Send(w.ctx, chain.Message{To: numbered(5), Nano: coin.TON.Big()})
		return err
	}
	_, e, err := w.wallet.Pay(w.ctx, "a", pay(1, 1))
	w.want(err, "ton.wallet.replaced")
	if e.State != Replaced {
		t.Errorf("it is %s", e.State)
	}
	w.flaky.send = nil
	w.want(w.client.Send(w.ctx, held), "ton.message.not_accepted")
	_, _, err = w.wallet.Pay(w.ctx, "a", pay(1, 1))
	w.ok(err)
	w.once(1, 1)
}

func TestCapsHoldBeforeAnythingIsSigned(t *testing.T) {
	w := newWorld(t, V5R1, Caps{Day: 10 * coin.TON, Job: 6 * coin.TON})
	_, err := w.wallet.Send(w.ctx, pay(1, 4))
	w.ok(err)
	_, err = w.wallet.Send(w.ctx, pay(1, 2.1))
	w.want(err, "ton.wallet.cap_job")
	_, err = w.wallet.Send(w.ctx, pay(2, 3), pay(2, 3.1))
	w.want(err, "ton.wallet.cap_job")
	_, err = w.wallet.Send(w.ctx, pay(2, 5))
	w.ok(err)
	_, err = w.wallet.Send(w.ctx, pay(3, 1.1))
	w.want(err, "ton.wallet.cap_day")
	// A dead payment gives its share back, a crash does not lose it.
	w.crashed("journaled", func() error { _, err := w.wallet.Send(w.ctx, pay(4, 1)); return err })
	_, _, err = w.wallet.Pay(w.ctx, "x", pay(3, 0.5))
	w.want(err, "ton.wallet.cap_day")
	w.once(4, 1) // settled on the way
	w.ok(w.net.Advance(w.ctx, 25*time.Hour))
	_, err = w.wallet.Send(w.ctx, pay(3, 3))
	w.ok(err)
	_, err = w.wallet.Send(w.ctx, pay(1, 2.1)) // a job's cap has no end
	w.want(err, "ton.wallet.cap_job")
	w.flaky.send = func(func() error, *tlb.ExternalMessage) error { return w.net.Advance(w.ctx, 5*time.Minute) }
	_, err = w.wallet.Send(w.ctx, pay(5, 6))
	w.want(err, "ton.wallet.expired")
	w.flaky.send = nil
	_, err = w.wallet.Send(w.ctx, pay(5, 6))
	w.ok(err)
	w.once(5, 6)
	w.ok(w.wallet.SetCaps(Caps{}))
	w.ok(w.wallet.Close())
	w.open()
	_, err = w.wallet.Send(w.ctx, pay(6, 0.000000001))
	w.want(err, "ton.wallet.cap_job")
}

func TestDryRunShowsTheFeesAndSendsNothing(t *testing.T) {
	for _, kind := range kinds {
		t.Run(string(kind), func(t *testing.T) {
			w := newWorld(t, kind, wide)
			_, err := w.wallet.Send(w.ctx, pay(9, 1))
			w.ok(err)
			bounced := pay(8, 1)
			bounced.Bounce = true
			before, err := w.wallet.State(w.ctx)
			w.ok(err)
			est, err := w.wallet.Estimate(w.ctx, pay(1, 2), bounced)
			w.ok(err)
			after, err := w.wallet.State(w.ctx)
			w.ok(err)
			if after.LastLT != before.LastLT {
				t.Error("it was sent")
			}
			sent, err := w.wallet.Send(w.ctx, pay(1, 2), bounced)
			w.ok(err)
			var own coin.Nano
			for _, s := range est.Steps[:len(est.Steps)-3] { // the wallet's own
				own += s.Fees
			}
			if diff := int64(own) - sent.Fees.Int64(); diff > 1000 || diff < -1000 {
				t.Errorf("estimated %s, paid %s nanoton", own, sent.Fees)
			}
			now, err := w.wallet.State(w.ctx)
			w.ok(err)
			if diff := int64(est.Left) - now.Balance.Int64(); diff > 2000 || diff < -2000 || !est.Complete {
				t.Errorf("estimated to leave %s, left %s: %+v", est.Left, now.Balance, est)
			}
			if last := est.Steps[len(est.Steps)-1]; !last.Bounced || last.Account.String() != est.Steps[0].Account.String() {
				t.Errorf("the bounced message: %+v", est.Steps)
			}
			_, err = w.wallet.Send(w.ctx, pay(1, 5000))
			w.want(err, "ton.wallet.skipped")
			if es, err := w.wallet.History(1); err != nil || es[0].Total() != 3*coin.TON {
				t.Errorf("an overdraft was journaled: %+v, %v", es[0], err)
			}
		})
	}
}

func TestHighloadPaysManyAtOnce(t *testing.T) {
	w := newWorld(t, Highload, wide)
	var many []chain.Message
	for i := range uint64(200) {
		many = append(many, pay(100+i, 0.01))
	}
	sent, err := w.wallet.Send(w.ctx, many...)
	w.ok(err)
	if sent.Transaction.OutMsgCount != 200 {
		t.Errorf("%d messages", sent.Transaction.OutMsgCount)
	}
	w.once(100, 0.01)
	w.once(299, 0.01)
	var wg sync.WaitGroup
	for i := range uint64(12) {
		wg.Go(func() {
			if _, _, err := w.wallet.Pay(w.ctx, fmt.Sprint("job ", i), pay(i, 1)); err != nil {
				t.Errorf("payment %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	for i := range uint64(12) {
		w.once(i, 1)
	}
}

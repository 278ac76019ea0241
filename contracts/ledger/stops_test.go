package ledger_test

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"

	"cocoon/contracts/coin"
	"cocoon/contracts/devnet"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/internal/toncell"
)

const (
	flowCredit = 200_000
	flowMost   = 100_000
)

// has says whether an account that was only paid to has this balance, but for
// the storage fees of the seconds between the payments.
func (w *world) has(a toncell.Address, want coin.Nano) bool {
	w.t.Helper()
	got := w.balance(a)
	return got <= want && want-got < 1000
}

// settle closes the job and checks that all that was not paid goes back.
func (w *world) settle(paid coin.Nano) {
	w.t.Helper()
	_, _, err := w.ledger.Close(w.ctx, w.client, w.job)
	w.ok(err)
	w.ok(w.net.Advance(w.ctx, w.terms.CloseDelay))
	escrow, lt := w.escrow()
	s, tx, err := w.ledger.Finish(w.ctx, w.anyone, w.job)
	w.ok(err)
	if s.Status != job.Closed || s.Paid != uint64(paid) || tx.Paid(w.terms.Client) != escrow-w.storage(lt) || w.balance(w.job) != 0 {
		w.t.Errorf("closed: %+v, the client got %d of %d", s, tx.Paid(w.terms.Client), escrow)
	}
}

// Whoever stops gets nothing further, and loses at most the credit: a client
// that signs no more gets no more answers, and a worker that answers no more is
// paid no more than was signed for.
func TestDevnetWhoeverStopsGetsNothingFurther(t *testing.T) {
	for name, clientStops := range map[string]bool{"the client stops signing": true, "the worker stops answering": false} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.open(coin.TON)
			st := w.release()
			dir := t.TempDir()
			book, err := receipt.OpenBook(bookOptions(dir, w.job, st))
			w.ok(err)
			payer, err := receipt.OpenPayer(payerOptions(dir, w.job, st))
			w.ok(err)
			for n := uint64(1); ; n++ {
				s, err := issue(book, delivery(n))
				if n > 5 && clientStops && err != nil {
					w.want(err, "job.credit_used")
					break
				}
				w.ok(err)
				if n > 5 && clientStops {
					continue
				}
				d := delivery(n)
				v, err := payer.Accept(s, receipt.Expect{Request: d.Request, Response: &d.Response, Most: flowMost})
				w.ok(err)
				w.ok(book.Accept(v))
				if n == 5 && !clientStops {
					break
				}
			}
			owed, promised := book.Owed()
			if clientStops && owed == promised || owed-promised > flowCredit {
				t.Errorf("owed %d, promised %d", owed, promised)
			}
			if again, err := payer.Voucher(); err != nil || again.Voucher.Amount != promised {
				t.Errorf("without an answer the client signs %+v, %v", again, err)
			}
			// Whatever else the worker makes up, it is not the client's voucher.
			more := book.Voucher().Voucher
			more.Seq, more.Amount = more.Seq+1, owed+1
			forged, err := more.Sign(key("receipt"))
			w.ok(err)
			_, err = w.ledger.Redeem(w.ctx, w.worker, forged)
			w.want(err, "contract.voucher_signature")
			_, err = w.ledger.Redeem(w.ctx, w.worker, book.Voucher())
			w.ok(err)
			w.settle(promised)
			if fee := coin.Nano(w.terms.Fee(uint64(promised))); !w.has(w.payout, promised-fee) {
				t.Errorf("the worker has %d of %d", w.balance(w.payout), promised)
			}
			w.ok(errors.Join(book.Close(), payer.Close()))
		})
	}
}
func bookOptions(dir string, at toncell.Address, s *job.State) receipt.BookOptions {
	verdict, _ := s.ReleasedTo(job.Hash(public(key("receipt"))))
	return receipt.BookOptions{
		Job: at, GlobalID: devnet.GlobalID, ClientKey: public(key("client key")), Key: key("receipt"), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: receipt.Hash(verdict), Price: receipt.Price{Completion: 1_000_000},
		Deposit: coin.Nano(s.Deposited), Credit: flowCredit, Path: filepath.Join(dir, "worker.log"),
	}
}

func payerOptions(dir string, at toncell.Address, s *job.State) receipt.PayerOptions {
	verdict, _ := s.ReleasedTo(job.Hash(public(key("receipt"))))
	return receipt.PayerOptions{
		Job: at, GlobalID: devnet.GlobalID, Key: key("client key"), ReceiptKey: public(key("receipt")), ModelRoot: receipt.Hash(sum("model")),
		Manifest: receipt.Hash(sum("manifest")), Verdict: receipt.Hash(verdict), PriceCap: s.Terms.PriceCap, Deposit: coin.Nano(s.Deposited),
		Path: filepath.Join(dir, "client.log"),
	}
}

// The nth request, its answer, and what it costs.
func delivery(n uint64) receipt.Delivery {
	return receipt.Delivery{Request: receipt.Hash(sum(fmt.Sprint("request ", n))), Response: receipt.Hash(sum(fmt.Sprint("answer ", n))),
		Tokens: receipt.Tokens{Completion: 10_000 + 1000*(n%7)}}
}

func issue(b *receipt.Book, d receipt.Delivery) (*receipt.Signed, error) {
	a, err := b.Open(flowMost)
	if err != nil {
		return nil, err
	}
	return a.Issue(d)
}

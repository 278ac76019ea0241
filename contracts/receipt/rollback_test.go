package receipt

import (
	"errors"
	"os"
	"testing"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
)

// deal is a worker and a client with their logs.
type deal struct {
	t  *testing.T
	bo BookOptions
	po PayerOptions
	b  *Book
	p  *Payer
}

func newDeal(t *testing.T) *deal {
	t.Helper()
	dir := t.TempDir()
	d := &deal{t: t, bo: bookOptions(t, dir), po: payerOptions(t, dir)}
	d.bo.Deposit, d.po.Deposit = 100_000, 100_000
	d.open()
	return d
}

func (d *deal) ok(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

func (d *deal) open() {
	d.t.Helper()
	var err error
	d.b, err = OpenBook(d.bo)
	d.ok(err)
	d.p, err = OpenPayer(d.po)
	d.ok(err)
}

func (d *deal) close() {
	d.t.Helper()
	d.ok(errors.Join(d.b.Close(), d.p.Close()))
}

// issue delivers one answer.
func (d *deal) issue() (*Signed, Expect, error) {
	a, err := d.b.Open(30)
	if err != nil {
		return nil, Expect{}, err
	}
	got := Delivery{Request: sum("request"), Response: sum("response"), Tokens: Tokens{Completion: 10}}
	s, err := a.Issue(got)
	return s, Expect{Request: got.Request, Response: &got.Response, Most: 30}, err
}

// buy delivers and pays n answers and returns the last voucher.
func (d *deal) buy(n int) (v *SignedVoucher) {
	d.t.Helper()
	for range n {
		s, e, err := d.issue()
		d.ok(err)
		v, err = d.p.Accept(s, e)
		d.ok(err)
		d.ok(d.b.Accept(v))
	}
	return v
}

// until serves until the credit is used up, with what the client does about
// each receipt, and returns what that cost.
func (d *deal) until(do func(*Signed, Expect)) coin.Nano {
	d.t.Helper()
	var cost coin.Nano
	for {
		s, e, err := d.issue()
		if fault.Has(err, "job.credit_used") {
			return cost
		}
		d.ok(err)
		amount, err := s.Receipt.Price.Bill(s.Receipt.Tokens)
		d.ok(err)
		cost += amount
		do(s, e)
	}
}

// rolledBack puts an older log in place of a newer one, as a host can do with
// a disk.
func (d *deal) rolledBack(path string, do func()) {
	d.t.Helper()
	old, err := os.ReadFile(path)
	d.ok(err)
	do()
	d.close()
	d.ok(os.WriteFile(path, old, 0o600))
	d.open()
}

// A worker that has forgotten receipts gives their numbers again. The client
// notices and pays no more; what it has signed is with hostd and good. Lost is
// what the worker delivers on credit.
func TestAWorkerThatIsRolledBackLosesAtMostTheCredit(t *testing.T) {
	d := newDeal(t)
	d.buy(3)
	var kept *SignedVoucher // by hostd
	d.rolledBack(d.bo.Path, func() { kept = d.buy(3) })
	if v, err := d.p.Voucher(); err != nil || *v != *kept {
		t.Errorf("the client's voucher is %+v, %v", v, err)
	}
	if err := d.b.Accept(kept); !fault.Has(err, "voucher.mismatch") {
		t.Errorf("a voucher for what was forgotten: %v", err)
	}
	cost := d.until(func(s *Signed, e Expect) {
		if s.Receipt.Seq <= kept.Voucher.ReceiptCount {
			if _, err := d.p.Accept(s, e); !fault.Has(err, "receipt.sequence") {
				t.Errorf("number %d again: %v", s.Receipt.Seq, err)
			}
		}
	})
	if cost == 0 || cost > d.bo.Credit {
		t.Errorf("%d was delivered for nothing, the credit is %d", cost, d.bo.Credit)
	}
	if d.p.Owed() != kept.Voucher.Amount {
		t.Errorf("the client owes %d and has signed %d", d.p.Owed(), kept.Voucher.Amount)
	}
	d.close()
}

// A client that has forgotten receipts cannot sign for later ones. It loses
// nothing beyond what it had signed, and the worker stops at the credit.
func TestAClientThatIsRolledBackCostsAtMostTheCredit(t *testing.T) {
	d := newDeal(t)
	d.buy(3)
	var kept *SignedVoucher
	d.rolledBack(d.po.Path, func() { kept = d.buy(3) })
	old, err := d.p.Voucher()
	d.ok(err)
	if err := d.b.Accept(old); !fault.Has(err, "voucher.stale") {
		t.Errorf("the voucher of before: %v", err)
	}
	cost := d.until(func(s *Signed, e Expect) {
		if v, err := d.p.Accept(s, e); v != nil || err != nil {
			t.Errorf("after a gap the client signed %+v, %v", v, err)
		}
	})
	if cost == 0 || cost > d.bo.Credit {
		t.Errorf("%d was delivered for nothing, the credit is %d", cost, d.bo.Credit)
	}
	if v := d.b.Voucher(); *v != *kept {
		t.Errorf("the worker holds %+v", v)
	}
	d.close()
}

package receipt

import (
	"errors"
	"math/rand/v2"
	"os"
	"testing"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
)

// Both sides are killed at random points, with half a record at the end of
// their logs, receipts and vouchers get lost, come twice and late. Neither
// side ever has more outstanding than the stated credit, no number is signed
// twice, and in the end both agree on what is owed.
func TestRandomCrashesLossesAndReplaysCostAtMostTheCredit(t *testing.T) {
	for seed := range uint64(12) {
		rng := rand.New(rand.NewPCG(seed, 3))
		dir := ramDir(t)
		bo, po := bookOptions(t, dir), payerOptions(t, dir)
		bo.Deposit, po.Deposit = 100_000, 100_000
		b, err := OpenBook(bo)
		if err != nil {
			t.Fatal(err)
		}
		p, err := OpenPayer(po)
		if err != nil {
			t.Fatal(err)
		}
		type issued struct {
			s *Signed
			e Expect
		}
		var unpaid []issued
		var vouchers []*SignedVoucher
		numbers := map[uint64]*SignedVoucher{}
		served := 0
		for range 300 {
			switch rng.IntN(8) {
			case 0, 1, 2: // a request
				n := 1 + rng.Uint64N(20)
				a, err := b.Open(coin.Nano(3 * n))
				if err != nil {
					if !fault.Has(err, "job.credit_used") {
						t.Fatal(err)
					}
					continue
				}
				d := Delivery{Request: sum("request"), Response: sum("response"), Tokens: Tokens{Completion: n}}
				s, err := a.Issue(d)
				if err != nil {
					t.Fatal(err)
				}
				served++
				unpaid = append(unpaid, issued{s, Expect{Request: d.Request, Response: &d.Response, Most: coin.Nano(3 * n)}})
			case 3, 4: // a receipt arrives, perhaps out of order
				if len(unpaid) == 0 {
					continue
				}
				i := rng.IntN(len(unpaid))
				v, err := p.Accept(unpaid[i].s, unpaid[i].e)
				if err != nil {
					t.Fatal(err)
				}
				unpaid = append(unpaid[:i], unpaid[i+1:]...)
				if v != nil {
					if was := numbers[v.Voucher.Seq]; was != nil && *was != *v {
						t.Fatalf("seed %d: number %d was signed twice", seed, v.Voucher.Seq)
					}
					numbers[v.Voucher.Seq] = v
					vouchers = append(vouchers, v)
				}
			case 5: // a voucher arrives: the newest, or an old one again; others never do
				if len(vouchers) == 0 {
					continue
				}
				v := vouchers[len(vouchers)-1]
				if rng.IntN(3) == 0 {
					v = vouchers[rng.IntN(len(vouchers))]
				}
				if err := b.Accept(v); err != nil && !fault.Has(err, "voucher.stale") {
					t.Fatal(err)
				}
			case 6: // the worker is killed in the middle of a write
				if b, err = OpenBook(torn(t, &bo, b, rng)); err != nil {
					t.Fatal(err)
				}
			case 7: // the client is
				// What it had accepted ahead of an earlier receipt is fetched again.
				for _, s := range p.early {
					unpaid = append(unpaid, issued{s, Expect{Request: s.Receipt.Request, Response: &s.Receipt.Response, Most: po.Deposit}})
				}
				kill(t, p.log, po.Path, rng)
				if p, err = OpenPayer(po); err != nil {
					t.Fatal(err)
				}
				v, err := p.Voucher()
				if err != nil {
					t.Fatal(err)
				}
				if v != nil {
					if was := numbers[v.Voucher.Seq]; was != nil && *was != *v {
						t.Fatalf("seed %d: number %d was signed twice", seed, v.Voucher.Seq)
					}
					numbers[v.Voucher.Seq] = v
					vouchers = append(vouchers, v)
				}
			}
			owed, promised := b.Owed()
			if owed-promised > bo.Credit {
				t.Fatalf("seed %d: %d is delivered beyond the last voucher, the credit is %d", seed, owed-promised, bo.Credit)
			}
			if p.Owed() > owed {
				t.Fatalf("seed %d: the client pays %d for %d", seed, p.Owed(), owed)
			}
		}
		for len(unpaid) > 0 {
			if _, err := p.Accept(unpaid[0].s, unpaid[0].e); err != nil {
				t.Fatal(err)
			}
			unpaid = unpaid[1:]
		}
		if served > 0 {
			v, err := p.Voucher()
			if err == nil {
				err = b.Accept(v)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if owed, promised := b.Owed(); owed != promised || owed != p.Owed() || served == 0 {
			t.Errorf("seed %d: owed %d, promised %d, the client says %d after %d responses", seed, owed, promised, p.Owed(), served)
		}
		if err := errors.Join(b.Close(), p.Close()); err != nil {
			t.Fatal(err)
		}
	}
}

func torn(t *testing.T, o *BookOptions, b *Book, rng *rand.Rand) BookOptions {
	t.Helper()
	kill(t, b.log, o.Path, rng)
	return *o
}

// kill ends a log as a killed process does: nothing more is written, and half a
// record may be at its end.
func kill(t *testing.T, l *Log, path string, rng *rand.Rand) {
	t.Helper()
	if err := l.f.Close(); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	half := `0a1b2c3d {"receipt":{"receipt":{"cancelled":false,`
	_, err = f.WriteString(half[:rng.IntN(len(half))])
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

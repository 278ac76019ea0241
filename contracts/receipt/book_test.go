package receipt

import (
	"bytes"
	"errors"
	"math/rand/v2"
	"os"
	"sync"
	"testing"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
)

func TestReceiptsAreSequentialCumulativeAndPaid(t *testing.T) {
	dir := t.TempDir()
	b, p := book(t, bookOptions(t, dir)), payer(t, payerOptions(t, dir))
	for i, n := range []uint64{5, 1, 10} {
		s, e := deliver(t, b, n)
		if s.Receipt.Seq != uint64(i+1) {
			t.Errorf("receipt %d has number %d", i+1, s.Receipt.Seq)
		}
		v := pay(t, p, s, e)
		if v.Voucher.Seq != uint64(i+1) || v.Voucher.ReceiptCount != uint64(i+1) || v.Voucher.Amount != s.Receipt.Cumulative {
			t.Errorf("voucher %+v for receipt %+v", v.Voucher, s.Receipt)
		}
		if err := b.Accept(v); err != nil {
			t.Fatal(err)
		}
		if err := b.Accept(v); err != nil {
			t.Errorf("the same voucher again: %v", err)
		}
	}
	if owed, promised := b.Owed(); owed != 48 || promised != 48 || p.Owed() != 48 {
		t.Errorf("owed %d, promised %d, client %d", owed, promised, p.Owed())
	}
}

func TestWorkerServesWithinCreditAndDeposit(t *testing.T) {
	dir := t.TempDir()
	b, p := book(t, bookOptions(t, dir)), payer(t, payerOptions(t, dir))
	a, err := b.Open(60)
	if err != nil {
		t.Fatal(err)
	}
	_, err = b.Open(41)
	want(t, err, "job.credit_used")
	a.Cancel()
	a.Cancel()
	if _, err := a.Issue(Delivery{}); err == nil {
		t.Error("a cancelled account issued a receipt")
	}
	s, e := deliver(t, b, 20) // 60 nanoton
	_, err = b.Open(41)
	want(t, err, "job.credit_used")
	if err := b.Accept(pay(t, p, s, e)); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Open(100); err != nil {
		t.Errorf("after the voucher: %v", err)
	}
	_, err = b.Open(1001)
	want(t, err, "job.deposit_used")

	over, err := b.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = over.Issue(Delivery{Tokens: Tokens{Completion: 1}})
	want(t, err, "receipt.over_admitted")
}

func TestWorkerRefusesVouchersThatDoNotPay(t *testing.T) {
	b := book(t, bookOptions(t, t.TempDir()))
	first, _ := deliver(t, b, 5)
	deliver(t, b, 5)
	leaf, err := first.Leaf()
	if err != nil {
		t.Fatal(err)
	}
	one := Voucher{GlobalID: globalID, Job: testJob, Seq: 5, Amount: 15, ReceiptCount: 1, ReceiptsRoot: Root([]Hash{leaf}), Verdict: sum("verdict")}
	sign := func(v Voucher, k string) *SignedVoucher {
		s, err := v.Sign(key(k))
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	change := func(f func(*Voucher)) *SignedVoucher {
		v := one
		f(&v)
		return sign(v, "client")
	}
	for name, tc := range map[string]struct {
		s    *SignedVoucher
		code string
	}{
		"another key":        {sign(one, "enclave"), "voucher.signature"},
		"another job":        {change(func(v *Voucher) { v.Job.Hash[0]++ }), "voucher.mismatch"},
		"another network":    {change(func(v *Voucher) { v.GlobalID = -239 }), "voucher.mismatch"},
		"an unknown verdict": {change(func(v *Voucher) { v.Verdict = sum("x") }), "voucher.mismatch"},
		"a lower amount":     {change(func(v *Voucher) { v.Amount-- }), "voucher.mismatch"},
		"another root":       {change(func(v *Voucher) { v.ReceiptsRoot = sum("x") }), "voucher.mismatch"},
		"too many receipts":  {change(func(v *Voucher) { v.ReceiptCount = 3 }), "voucher.mismatch"},
	} {
		t.Log(name)
		want(t, b.Accept(tc.s), tc.code)
	}
	if b.Voucher() != nil {
		t.Fatal("a refused voucher was kept")
	}
	if err := b.Accept(sign(one, "client")); err != nil {
		t.Fatal(err)
	}
	want(t, b.Accept(change(func(v *Voucher) { v.Seq = 4 })), "voucher.stale")
	all := b.Accept(change(func(v *Voucher) { v.Seq, v.Amount, v.ReceiptCount, v.ReceiptsRoot = 1, 0, 0, Root(nil) }))
	if n := len(fault.All(all)); n != 2 {
		t.Errorf("%d failures at once, want 2: %v", n, all)
	}
}

func TestClientRefusesReceiptsThatLie(t *testing.T) {
	dir := t.TempDir()
	good, e := deliver(t, book(t, bookOptions(t, dir)), 5)
	p := payer(t, payerOptions(t, dir))
	change := func(f func(*Receipt)) *Signed {
		r := good.Receipt
		f(&r)
		s, err := Sign(key("enclave"), r)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	forged := *good
	forged.Receipt.Cumulative++
	other := sum("other")
	for name, tc := range map[string]struct {
		s    *Signed
		e    Expect
		code string
	}{
		"a forged signature":    {&forged, e, "receipt.signature"},
		"another job":           {change(func(r *Receipt) { r.Job.Hash[1]++ }), e, "receipt.job"},
		"another request":       {good, Expect{other, e.Response, e.Most}, "receipt.request"},
		"another response":      {good, Expect{e.Request, &other, e.Most}, "receipt.response"},
		"another model":         {change(func(r *Receipt) { r.ModelRoot = other }), e, "receipt.model"},
		"another manifest":      {change(func(r *Receipt) { r.Manifest = other }), e, "receipt.manifest"},
		"another verdict":       {change(func(r *Receipt) { r.Verdict = other }), e, "receipt.verdict"},
		"a price over the cap":  {change(func(r *Receipt) { r.Price.Prompt = 3_000_001 }), e, "receipt.price"},
		"more than was allowed": {good, Expect{e.Request, e.Response, e.Most - 1}, "receipt.amount"},
		"over the deposit":      {change(func(r *Receipt) { r.Cumulative = 1001 }), e, "receipt.over_deposit"},
		"a wrong sum":           {change(func(r *Receipt) { r.Cumulative++ }), e, "receipt.cumulative"},
		"a number far ahead":    {change(func(r *Receipt) { r.Seq = 1 + maxEarly }), e, "receipt.sequence"},
	} {
		t.Log(name)
		v, err := p.Accept(tc.s, tc.e)
		want(t, err, tc.code)
		if v != nil {
			t.Errorf("%s was paid", name)
		}
		p.early = map[uint64]*Signed{} // a wrong sum ends the channel; go on here
	}
	pay(t, p, good, e)
	_, err := p.Accept(good, e)
	want(t, err, "receipt.sequence")
}

func TestReceiptsOfParallelRequestsMayComeInAnyOrder(t *testing.T) {
	for seed := range uint64(8) {
		dir := t.TempDir()
		o, po := bookOptions(t, dir), payerOptions(t, dir)
		o.Deposit, o.Credit, po.Deposit = 1_000_000, 1_000_000, 1_000_000
		b, p := book(t, o), payer(t, po)
		const n = 9
		type got struct {
			s *Signed
			e Expect
		}
		all := make([]got, n)
		for i := range all {
			all[i].s, all[i].e = deliver(t, b, uint64(i+1))
		}
		var last *SignedVoucher
		for _, i := range rand.New(rand.NewPCG(seed, 1)).Perm(n) {
			if v := pay(t, p, all[i].s, all[i].e); v != nil {
				last = v
				if err := b.Accept(v); err != nil {
					t.Fatal(err)
				}
			}
		}
		owed, promised := b.Owed()
		if last == nil || last.Voucher.ReceiptCount != n || owed != promised {
			t.Fatalf("order %d: %+v, owed %d, promised %d", seed, last, owed, promised)
		}
	}
}

func TestBooksGoOnAfterACrash(t *testing.T) {
	dir := ramDir(t)
	o, po := bookOptions(t, dir), payerOptions(t, dir)
	b, p := book(t, o), payer(t, po)
	s, e := deliver(t, b, 5)
	v := pay(t, p, s, e)
	if err := b.Accept(v); err != nil {
		t.Fatal(err)
	}
	deliver(t, b, 2)
	if err := errors.Join(b.Close(), p.Close()); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	prefix := len(whole) - len(lines[len(lines)-2])
	// The machine stops after any byte of the last record.
	for cut := prefix; cut < len(whole); cut++ {
		if err := os.WriteFile(o.Path, whole[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		b, err := OpenBook(o)
		if err != nil {
			t.Fatalf("cut at %d: %v", cut, err)
		}
		if owed, promised := b.Owed(); owed != 15 || promised != 15 || *b.Voucher() != *v {
			t.Fatalf("cut at %d: owed %d, promised %d", cut, owed, promised)
		}
		if s, _ := deliver(t, b, 1); s.Receipt.Seq != 2 {
			t.Fatalf("cut at %d: receipt %d follows", cut, s.Receipt.Seq)
		}
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	p2 := payer(t, po)
	if again, err := p2.Voucher(); err != nil || *again != *v {
		t.Errorf("the client's voucher after a restart: %+v, %v", again, err)
	}
}

func TestPayerSignsAgainWhatACrashLeftUnsigned(t *testing.T) {
	dir := t.TempDir()
	po := payerOptions(t, dir)
	b, p := book(t, bookOptions(t, dir)), payer(t, po)
	s, e := deliver(t, b, 5)
	pay(t, p, s, e)
	s, e = deliver(t, b, 1)
	pay(t, p, s, e)
	if err := p.Close(); err != nil {
		t.Fatal(err)
	}
	log, err := os.ReadFile(po.Path)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(log, []byte("\n"))
	if err := os.WriteFile(po.Path, bytes.Join(lines[:3], nil), 0o600); err != nil {
		t.Fatal(err)
	}
	v, err := payer(t, po).Voucher()
	if err != nil || v.Voucher.Amount != 18 || v.Voucher.Seq != 2 {
		t.Fatalf("%+v, %v", v, err)
	}
	if err := b.Accept(v); err != nil {
		t.Error(err)
	}
}

func TestDamageInsideALogIsAnError(t *testing.T) {
	o := bookOptions(t, t.TempDir())
	b := book(t, o)
	deliver(t, b, 5)
	deliver(t, b, 5)
	if _, err := OpenBook(o); !fault.Has(err, "receipt.log_in_use") {
		t.Errorf("a second process: %v", err)
	}
	if err := b.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(o.Path)
	if err != nil {
		t.Fatal(err)
	}
	first := bytes.IndexByte(whole, '\n')
	for i := 0; i < first; i += 7 {
		bad := append([]byte(nil), whole...)
		bad[i] ^= 1
		if err := os.WriteFile(o.Path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := OpenBook(o)
		want(t, err, "receipt.log_corrupt")
	}
	o.Job.Hash[0]++
	if err := os.WriteFile(o.Path, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = OpenBook(o)
	want(t, err, "receipt.log_corrupt")
}

func TestBookIsSafeForParallelRequests(t *testing.T) {
	o := bookOptions(t, t.TempDir())
	o.Deposit, o.Credit = 1_000_000, 1_000_000
	b := book(t, o)
	var wg sync.WaitGroup
	for range 16 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			a, err := b.Open(30)
			if err != nil {
				t.Error(err)
				return
			}
			if _, err := a.Issue(Delivery{Tokens: Tokens{Completion: 10}}); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	if owed, _ := b.Owed(); owed != coin.Nano(16*30) || b.Receipt().Receipt.Seq != 16 {
		t.Errorf("owed %d after receipt %d", owed, b.Receipt().Receipt.Seq)
	}
}

func FuzzReplay(f *testing.F) {
	o := bookOptions(f, f.TempDir())
	b := book(f, o)
	deliver(f, b, 5)
	whole, err := os.ReadFile(o.Path)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(whole)
	f.Add(whole[:len(whole)-3])
	f.Fuzz(func(t *testing.T, log []byte) {
		var n int64
		end, err := replay(bytes.NewReader(log), func(*Signed) error { n++; return nil }, func(*SignedVoucher) error { n++; return nil })
		if err != nil {
			want(t, err, "receipt.log_corrupt")
			return
		}
		if end > int64(len(log)) || (end > 0) != (n > 0) {
			t.Fatalf("%d records end at %d of %d", n, end, len(log))
		}
	})
}

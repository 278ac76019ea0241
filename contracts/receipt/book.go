package receipt

import (
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// BookOptions describe one job to the worker that serves it.
type BookOptions struct {
	Job       toncell.Address
	GlobalID  int32
	ClientKey ed25519.PublicKey  // from the job's terms
	Key       ed25519.PrivateKey // the enclave's receipt key
	ModelRoot Hash
	Manifest  Hash
	Verdict   Hash      // the one that released the job to Key
	Price     Price     // at most the job's price cap
	Deposit   coin.Nano // proven on chain
	Credit    coin.Nano // most that may be delivered without a voucher
	Path      string    // of the log
	Clock     func() time.Time
	Rand      io.Reader
}

// Book is the worker's side of one job: it admits requests, issues receipts
// and takes vouchers. Every receipt and voucher is on disk before it is given
// out or acknowledged.
type Book struct {
	opt BookOptions

	mu        sync.Mutex
	log       *Log
	tree      Tree
	totals    []total // by receipt count, from 0
	reserved  coin.Nano
	verdicts  map[Hash]bool
	receipt   *Signed        // last one
	voucher   *SignedVoucher // last one
	lastError error          // of the log: nothing is issued after it, unless it was full
}

// total is what a voucher over the first n receipts must say.
type total struct {
	root Hash
	owed coin.Nano
}

// OpenBook opens or continues the job's book.
func OpenBook(opt BookOptions) (*Book, error) {
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	if opt.Rand == nil {
		opt.Rand = rand.Reader
	}
	b := &Book{opt: opt, verdicts: map[Hash]bool{opt.Verdict: true}}
	b.totals = []total{{root: b.tree.Root()}}
	log, err := OpenLog(opt.Path, b.replayReceipt, b.replayVoucher)
	if err != nil {
		return nil, err
	}
	b.log = log
	return b, nil
}

func (b *Book) replayReceipt(s *Signed) error {
	r := &s.Receipt
	if r.Job != b.opt.Job || r.Seq != b.tree.Len()+1 || r.Cumulative < b.owed() {
		return fmt.Errorf("receipt %d of job %s does not continue the log", r.Seq, r.Job)
	}
	b.verdicts[r.Verdict] = true
	return b.add(s)
}

func (b *Book) replayVoucher(s *SignedVoucher) error {
	b.verdicts[s.Voucher.Verdict] = true
	if err := b.checkVoucher(s); err != nil {
		return err
	}
	b.voucher = s
	return nil
}

func (b *Book) add(s *Signed) error {
	leaf, err := s.Leaf()
	if err != nil {
		return err
	}
	b.addLeaf(s, leaf)
	return nil
}

func (b *Book) addLeaf(s *Signed, leaf Hash) {
	b.tree.Append(leaf)
	b.totals = append(b.totals, total{b.tree.Root(), s.Receipt.Cumulative})
	b.receipt = s
}

func (b *Book) owed() coin.Nano { return b.totals[len(b.totals)-1].owed }

func (b *Book) promised() coin.Nano {
	if b.voucher == nil {
		return 0
	}
	return b.voucher.Voucher.Amount
}

// Chain takes over what was proven on chain since: a deposit, a renewal's
// verdict.
func (b *Book) Chain(deposit coin.Nano, verdict Hash) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opt.Deposit = max(b.opt.Deposit, deposit)
	b.opt.Verdict = verdict
	b.verdicts[verdict] = true
}

// Account is one admitted request; exactly one of Issue and Cancel ends it.
type Account struct {
	b    *Book
	most coin.Nano
	once sync.Once
	doc  []byte
}

// Open admits a request that will cost at most most: within the deposit, and
// within the credit on top of the client's last voucher.
func (b *Book) Open(most coin.Nano) (*Account, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if fault.Has(b.lastError, CodeFull) {
		// There may be room again; if not, nothing is served that no receipt
		// could be written for.
		b.lastError = b.log.Room()
	}
	if b.lastError != nil {
		return nil, b.lastError
	}
	owed := b.owed() + b.reserved
	if most > b.opt.Deposit || owed > b.opt.Deposit-most {
		return nil, fault.Mismatch(fault.ExitRefused, "job.deposit_used", "what the request may cost beside what is owed",
			"at most "+b.opt.Deposit.String()+" TON", (owed+most).String()+" TON", "deposit more, or open another job")
	}
	if limit := b.promised() + b.opt.Credit; owed+most > limit {
		return nil, fault.Mismatch(fault.ExitRefused, "job.credit_used", "what is delivered without a voucher",
			"at most "+b.opt.Credit.String()+" TON", (owed+most-b.promised()).String()+" TON", "send a voucher for the receipts so far")
	}
	b.reserved += most
	return &Account{b: b, most: most}, nil
}

// Delivery is what was delivered for an admitted request.
type Delivery struct {
	Request, Response Hash // SHA-256 of the exact bodies
	Tokens            Tokens
	Cancelled         bool // the response ended early
}

// Issue signs the receipt for what was delivered and ends the account. A bill
// over what was admitted is refused: the client's limit holds whatever the
// engine counted.
func (a *Account) Issue(d Delivery) (*Signed, error) {
	var s *Signed
	err := errors.New("issuing a receipt: the account has ended")
	a.once.Do(func() {
		a.b.mu.Lock()
		defer a.b.mu.Unlock()
		a.b.reserved -= a.most
		var w *written
		if w, err = a.b.issue(d, a.most); err == nil {
			s, a.doc = w.Signed, w.doc
		}
	})
	return s, err
}

// Document returns, after Issue, what Marshal makes of the receipt.
func (a *Account) Document() []byte { return a.doc }

// Cancel ends the account; nothing was delivered.
func (a *Account) Cancel() {
	a.once.Do(func() {
		a.b.mu.Lock()
		defer a.b.mu.Unlock()
		a.b.reserved -= a.most
	})
}

// broken returns why nothing is written any more. A log that was full is tried
// again each time: nothing was lost but what did not fit.
func (b *Book) broken() error {
	if fault.Has(b.lastError, CodeFull) {
		return nil
	}
	return b.lastError
}

func (b *Book) issue(d Delivery, most coin.Nano) (*written, error) {
	if err := b.broken(); err != nil {
		return nil, err
	}
	amount, err := b.opt.Price.Bill(d.Tokens)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "receipt.impossible_count", "check the engine", "issuing a receipt: %w", err)
	}
	if amount > most {
		return nil, fault.Mismatch(fault.ExitInternal, "receipt.over_admitted", "the response's price",
			"at most "+most.String()+" TON", amount.String()+" TON", "reserve what the request can cost at most")
	}
	r := Receipt{
		Type: Type, Job: b.opt.Job, Seq: b.tree.Len() + 1, Request: d.Request, Response: d.Response,
		ModelRoot: b.opt.ModelRoot, Manifest: b.opt.Manifest, Tokens: d.Tokens, Price: b.opt.Price,
		Cumulative: b.owed() + amount, Verdict: b.opt.Verdict, Cancelled: d.Cancelled,
		Time: b.opt.Clock().UTC().Truncate(time.Second),
	}
	if _, err := io.ReadFull(b.opt.Rand, r.Salt[:]); err != nil {
		return nil, fmt.Errorf("issuing a receipt: %w", err)
	}
	w, err := write(b.opt.Key, r)
	if err != nil {
		return nil, err
	}
	if b.lastError = b.log.appendReceipt(w.doc); b.lastError != nil {
		return nil, b.lastError
	}
	b.addLeaf(w.Signed, LeafHash(w.plain))
	return w, nil
}

// checkVoucher returns every reason against a voucher.
func (b *Book) checkVoucher(s *SignedVoucher) error {
	const remedy = "sign a voucher for receipts as this worker issued them"
	v := &s.Voucher
	var errs []error
	refuse := func(code, what string, want, got any) {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, code, "the voucher's "+what, fmt.Sprint(want), fmt.Sprint(got), remedy))
	}
	if !s.Verify(b.opt.ClientKey) {
		errs = append(errs, fault.New(fault.ExitRefused, "voucher.signature", "sign with the key in the job's terms",
			"checking a voucher: the job's client key did not sign it"))
	}
	if v.Job != b.opt.Job {
		refuse("voucher.mismatch", "job", b.opt.Job, v.Job)
	}
	if v.GlobalID != b.opt.GlobalID {
		refuse("voucher.mismatch", "network", b.opt.GlobalID, v.GlobalID)
	}
	if !b.verdicts[v.Verdict] {
		refuse("voucher.mismatch", "verdict", b.opt.Verdict, v.Verdict)
	}
	if v.ReceiptCount >= uint64(len(b.totals)) {
		refuse("voucher.mismatch", "receipt count", fmt.Sprintf("at most %d", len(b.totals)-1), v.ReceiptCount)
	} else {
		t := b.totals[v.ReceiptCount]
		if v.ReceiptsRoot != t.root {
			refuse("voucher.mismatch", "receipts root", t.root, v.ReceiptsRoot)
		}
		if v.Amount != t.owed {
			refuse("voucher.mismatch", "amount", t.owed, v.Amount)
		}
	}
	if b.voucher != nil {
		last := &b.voucher.Voucher
		if v.Seq <= last.Seq {
			refuse("voucher.stale", "number", fmt.Sprintf("over %d", last.Seq), v.Seq)
		}
		if v.ReceiptCount < last.ReceiptCount {
			refuse("voucher.stale", "receipt count", fmt.Sprintf("at least %d", last.ReceiptCount), v.ReceiptCount)
		}
	}
	return errors.Join(errs...)
}

// Accept takes a voucher. The same voucher again is acknowledged again.
func (b *Book) Accept(s *SignedVoucher) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.voucher != nil && *b.voucher == *s {
		return nil
	}
	if err := b.checkVoucher(s); err != nil {
		return err
	}
	if err := b.broken(); err != nil {
		return err
	}
	if b.lastError = b.log.AppendVoucher(s); b.lastError != nil {
		return b.lastError
	}
	b.voucher = s
	return nil
}

// Voucher returns the last voucher, to redeem; nil before the first.
func (b *Book) Voucher() *SignedVoucher {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.voucher
}

// Receipt returns the last receipt; nil before the first.
func (b *Book) Receipt() *Signed {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.receipt
}

// Owed returns what the receipts so far cost, and what vouchers promise.
func (b *Book) Owed() (owed, promised coin.Nano) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.owed(), b.promised()
}

// Close closes the log.
func (b *Book) Close() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.log.Close()
}

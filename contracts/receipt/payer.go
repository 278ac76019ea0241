package receipt

import (
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"

	"cocoon/contracts/coin"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// maxEarly bounds the receipts that wait for an earlier one: responses of
// parallel requests end in any order.
const maxEarly = 64

// PayerOptions describe one job to the client that pays for it. All of it was
// verified by the client: the terms are its own, the rest is in the worker's
// evidence and on chain.
type PayerOptions struct {
	Job        toncell.Address
	GlobalID   int32
	Key        ed25519.PrivateKey // signs vouchers; its public half is in the job's terms
	ReceiptKey ed25519.PublicKey  // the enclave's, as released on chain
	ModelRoot  Hash
	Manifest   Hash
	Verdict    Hash // verdict hash that released the job to ReceiptKey
	PriceCap   uint64
	Deposit    coin.Nano
	Path       string // of the log
}

// Payer is the client's side of one job: it checks receipts and signs
// vouchers. What it has signed for is on disk before the voucher is given out,
// so that a restart never signs a number twice.
type Payer struct {
	opt PayerOptions

	mu      sync.Mutex
	log     *Log
	tree    Tree
	owed    coin.Nano
	receipt *Signed
	voucher *SignedVoucher
	early   map[uint64]*Signed
	// verdicts are those recorded for the receipt key: a receipt that was
	// issued before a renewal may arrive after it.
	verdicts map[Hash]bool
	failed   error
}

// OpenPayer opens or continues the job's log.
func OpenPayer(opt PayerOptions) (*Payer, error) {
	p := &Payer{opt: opt, early: map[uint64]*Signed{}, verdicts: map[Hash]bool{opt.Verdict: true}}
	log, err := OpenLog(opt.Path, p.replayReceipt, func(v *SignedVoucher) error { p.voucher = v; return nil })
	if err != nil {
		return nil, err
	}
	p.log = log
	return p, nil
}

func (p *Payer) replayReceipt(s *Signed) error {
	if s.Receipt.Job != p.opt.Job || s.Receipt.Seq != p.tree.Len()+1 || s.Receipt.Cumulative < p.owed {
		return fmt.Errorf("receipt %d of job %s does not continue the log", s.Receipt.Seq, s.Receipt.Job)
	}
	return p.add(s)
}

func (p *Payer) add(s *Signed) error {
	leaf, err := s.Leaf()
	if err != nil {
		return err
	}
	p.tree.Append(leaf)
	p.owed, p.receipt = s.Receipt.Cumulative, s
	return nil
}

// Chain takes over a renewal: the enclave's receipt key, which may be new, and
// its verdict, which vouchers name from now on.
func (p *Payer) Chain(receiptKey ed25519.PublicKey, verdict Hash, deposit coin.Nano) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.opt.ReceiptKey.Equal(receiptKey) {
		clear(p.verdicts)
	}
	p.opt.ReceiptKey, p.opt.Verdict, p.opt.Deposit = receiptKey, verdict, deposit
	p.verdicts[verdict] = true
}

// Expect is what the client itself knows about a response.
type Expect struct {
	Request  Hash      // SHA-256 of the body that it sent
	Response *Hash     // SHA-256 of the body that it received; nil: not received in full
	Most     coin.Nano // what the request may cost
}

// Check returns every reason against a receipt, but for its place in the
// sequence.
func (p *Payer) Check(s *Signed, e Expect) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.check(s, e)
}

func (p *Payer) check(s *Signed, e Expect) error {
	r := &s.Receipt
	var errs []error
	refuse := func(code, what string, want, got any) {
		errs = append(errs, fault.Mismatch(fault.ExitRefused, code, "the receipt's "+what, fmt.Sprint(want), fmt.Sprint(got),
			"do not pay for this response; leave the worker and close the job"))
	}
	if !s.Verify(p.opt.ReceiptKey) {
		errs = append(errs, fault.New(fault.ExitRefused, "receipt.signature", "do not pay for this response; leave the worker and close the job",
			"checking a receipt: the enclave's receipt key did not sign it"))
	}
	if r.Job != p.opt.Job {
		refuse("receipt.job", "job", p.opt.Job, r.Job)
	}
	if r.Request != e.Request {
		refuse("receipt.request", "request hash", e.Request, r.Request)
	}
	if e.Response != nil && r.Response != *e.Response {
		refuse("receipt.response", "response hash", *e.Response, r.Response)
	}
	if r.ModelRoot != p.opt.ModelRoot {
		refuse("receipt.model", "model root", p.opt.ModelRoot, r.ModelRoot)
	}
	if r.Manifest != p.opt.Manifest {
		refuse("receipt.manifest", "manifest", p.opt.Manifest, r.Manifest)
	}
	if !p.verdicts[r.Verdict] {
		refuse("receipt.verdict", "verdict", p.opt.Verdict, r.Verdict)
	}
	if r.Price.Max() > p.opt.PriceCap {
		refuse("receipt.price", "price", fmt.Sprintf("at most %d", p.opt.PriceCap), r.Price.Max())
	}
	if amount, err := r.Price.Bill(r.Tokens); err != nil || amount > e.Most {
		refuse("receipt.amount", "amount", "at most "+e.Most.String()+" TON", amount)
	}
	if r.Cumulative > p.opt.Deposit {
		refuse("receipt.over_deposit", "total", "at most "+p.opt.Deposit.String()+" TON", r.Cumulative)
	}
	return errors.Join(errs...)
}

// Accept checks a receipt and returns the voucher that pays for it and all
// before it. Where an earlier receipt is still to come it returns nil: the
// voucher for that one covers this one too.
func (p *Payer) Accept(s *Signed, e Expect) (*SignedVoucher, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return nil, p.failed
	}
	if err := p.check(s, e); err != nil {
		return nil, err
	}
	next := p.tree.Len() + 1
	if _, dup := p.early[s.Receipt.Seq]; dup || s.Receipt.Seq < next || s.Receipt.Seq >= next+maxEarly {
		return nil, sequence(next, s.Receipt.Seq)
	}
	p.early[s.Receipt.Seq] = s
	var grown bool
	for n := p.early[next]; n != nil; n = p.early[next] {
		delete(p.early, next)
		if err := p.take(n); err != nil {
			return nil, err
		}
		grown, next = true, next+1
	}
	if !grown {
		return nil, nil
	}
	return p.sign()
}

func sequence(want, got uint64) error {
	return fault.Mismatch(fault.ExitRefused, "receipt.sequence", "the receipt's number", fmt.Sprint(want), fmt.Sprint(got),
		"the worker has lost or repeated receipts; leave it and close the job")
}

// take adds the next receipt if its total is the last one plus its own amount.
func (p *Payer) take(s *Signed) error {
	amount, err := s.Receipt.Price.Bill(s.Receipt.Tokens)
	if err != nil {
		return malformed("receipt", err)
	}
	if s.Receipt.Cumulative != p.owed+amount {
		return fault.Mismatch(fault.ExitRefused, "receipt.cumulative", "the receipt's total", (p.owed+amount).String()+" TON",
			s.Receipt.Cumulative.String()+" TON", "the worker's sum is wrong; leave it and close the job")
	}
	if err := p.log.AppendReceipt(s); err != nil {
		p.failed = err
		return err
	}
	return p.add(s)
}

func (p *Payer) sign() (*SignedVoucher, error) {
	v := Voucher{
		GlobalID: p.opt.GlobalID, Job: p.opt.Job, Seq: 1, Amount: p.owed,
		ReceiptCount: p.tree.Len(), ReceiptsRoot: p.tree.Root(), Verdict: p.opt.Verdict,
	}
	if p.voucher != nil {
		v.Seq = p.voucher.Voucher.Seq + 1
	}
	s, err := v.Sign(p.opt.Key)
	if err != nil {
		return nil, err
	}
	if err := p.log.AppendVoucher(s); err != nil {
		p.failed = err
		return nil, err
	}
	p.voucher = s
	return s, nil
}

// Voucher returns the voucher for all receipts so far, to send again after a
// broken connection or a restart; nil before the first receipt.
func (p *Payer) Voucher() (*SignedVoucher, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.failed != nil:
		return nil, p.failed
	case p.tree.Len() == 0:
		return nil, nil
	case p.voucher == nil || p.voucher.Voucher.ReceiptCount < p.tree.Len():
		return p.sign() // a crash came between receipt and voucher
	}
	return p.voucher, nil
}

// Owed returns the total that the receipts so far cost.
func (p *Payer) Owed() coin.Nano {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.owed
}

// Close closes the log.
func (p *Payer) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.log.Close()
}

package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"sync"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/hexbytes"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
)

// Names of HTTP fields and paths of billing, as the enclave serves them.
const (
	headerJob      = "Cocoon-Job"
	headerTimeout  = "Cocoon-Timeout-Ms"
	trailerReceipt = "Cocoon-Receipt"
	pathVoucher    = "/.well-known/cocoon/voucher"
	pathReceipt    = "/.well-known/cocoon/receipt"
)

// PaymentOptions name the job that pays for a client's requests.
type PaymentOptions struct {
	Ledger   *ledger.Ledger
	GlobalID int32
	Job      toncell.Address
	Key      ed25519.PrivateKey // signs vouchers; its public half is in the job's terms
	Path     string             // log of receipts and vouchers; continued if it exists
	Log      *slog.Logger       // nil discards
}

// Payment pays for requests from one job: it checks each response's receipt
// and answers with a cumulative voucher. After a receipt that is not right it
// sends no further request.
type Payment struct {
	opt   PaymentOptions
	terms *job.Terms
	payer *receipt.Payer
	next  http.RoundTripper
	// chain tells the payer what the chain says now of the job; renewals and
	// deposits come while requests go on.
	chain func(context.Context) error
	life  context.Context // ends with Close
	end   context.CancelFunc

	mu     sync.Mutex
	flight int           // requests that are not settled
	idle   chan struct{} // closed while flight is 0
	closed bool
	failed error
	last   *receipt.Signed
	first  uint64           // receipts of the log when it was opened
	taken  map[uint64]claim // latest receipts by number
}

// claim is a receipt that a response was settled with.
type claim struct {
	signature hexbytes.Sig
	early     bool // fetched, not in a trailer
}

// OpenPayment reads the job from the chain, checks that it is the client's own
// and released to the worker that was verified, and returns the payment. next
// carries requests to that worker.
func OpenPayment(ctx context.Context, opt PaymentOptions, peer *Peer, manifest [32]byte, next http.RoundTripper) (*Payment, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	claims := &peer.Evidence.Claims
	clientKey := job.Hash(opt.Key.Public().(ed25519.PublicKey))
	s, _, err := opt.Ledger.Job(ctx, opt.Job)
	if err != nil {
		return nil, err
	}
	if s.Terms.ClientKey != clientKey {
		return nil, fault.Mismatch(fault.ExitRefused, "payment.key", "the job's client key", s.Terms.ClientKey.String(), clientKey.String(), "use the key with which the job was opened")
	}
	payout, err := toncell.ParseAddress(claims.Payout)
	if err != nil {
		return nil, fault.New(fault.ExitRefused, "payment.payout", "choose another worker", "reading the worker's payout address: %w", err)
	}
	registryAddr, err := toncell.ParseAddress(peer.Evidence.Config.Registry)
	if err != nil {
		return nil, fault.New(fault.ExitRefused, "payment.registry", "choose another worker", "reading the worker's registry address: %w", err)
	}
	if err := checkVerdict(ctx, opt, peer, registryAddr, manifest); err != nil {
		return nil, err
	}
	own := job.Hash(claims.ReceiptKey)
	demand := ledger.Demand{
		ReceiptKey: claims.ReceiptKey[:], Payout: payout, Registry: registryAddr, ModelRoot: job.Hash(claims.Model.VerityRoot),
	}
	verdict, err := ledger.CheckRelease(s, demand)
	if err != nil {
		return nil, err
	}
	if err := opt.Ledger.CheckStake(ctx, &s.Terms); err != nil {
		return nil, err
	}
	payer, err := receipt.OpenPayer(receipt.PayerOptions{
		Job: opt.Job, GlobalID: opt.GlobalID, Key: opt.Key, ReceiptKey: claims.ReceiptKey[:],
		ModelRoot: receipt.Hash(claims.Model.VerityRoot), Manifest: receipt.Hash(manifest), Verdict: receipt.Hash(verdict),
		PriceCap: s.Terms.PriceCap, Deposit: coin.Nano(s.Deposited), Path: opt.Path,
	})
	if err != nil {
		return nil, err
	}
	p, err := newPayment(opt, &s.Terms, payer, next)
	if err != nil {
		return nil, errors.Join(err, payer.Close())
	}
	p.chain = func(ctx context.Context) error {
		s, _, err := opt.Ledger.VerifyRelease(ctx, opt.Job, demand)
		if err != nil {
			return err
		}
		var recorded []receipt.Hash
		newest, _ := s.ReleasedTo(own)
		for hash, v := range s.Verdicts {
			if v.ReceiptKey == own && hash != newest {
				recorded = append(recorded, receipt.Hash(hash))
			}
		}
		for _, hash := range append(recorded, receipt.Hash(newest)) {
			payer.Chain(demand.ReceiptKey, hash, coin.Nano(s.Deposited))
		}
		return nil
	}
	p.sendAgain(ctx)
	return p, nil
}

// checkVerdict holds the worker's verdict against the registry before anything
// is paid: the registry's verifiers, by their keys in its proven state, vouch
// for the very evidence that this client has appraised, under the same
// manifest.
func checkVerdict(ctx context.Context, opt PaymentOptions, peer *Peer, at toncell.Address, manifest [32]byte) error {
	v := &Verifiers{Registry: at, NetworkID: opt.GlobalID, State: func(ctx context.Context) (*registry.State, error) {
		s, _, err := opt.Ledger.Registry(ctx, at)
		return s, err
	}}
	if err := v.Check(ctx, peer); err != nil {
		return err
	}
	named, err := peer.manifest()
	if err != nil {
		return err
	}
	if named != manifest {
		return fault.Mismatch(fault.ExitRefused, codeVerdictForeign, "the verdict's manifest", digest.SHA256(manifest).String(), named.String(), remedyVerdict)
	}
	return nil
}

func newPayment(opt PaymentOptions, terms *job.Terms, payer *receipt.Payer, next http.RoundTripper) (*Payment, error) {
	p := &Payment{opt: opt, terms: terms, payer: payer, next: next, idle: make(chan struct{}), taken: map[uint64]claim{}}
	close(p.idle)
	p.life, p.end = context.WithCancel(context.Background())
	v, err := payer.Voucher()
	if err != nil {
		return nil, err
	}
	if v != nil {
		p.first = v.Voucher.ReceiptCount
	}
	return p, nil
}

// sendAgain gives the worker the last voucher of an earlier run, which may not
// have arrived: without it the worker may have no credit left to give.
func (p *Payment) sendAgain(ctx context.Context) {
	v, err := p.payer.Voucher()
	if err == nil && v != nil {
		err = p.send(ctx, v)
	}
	if err != nil {
		p.opt.Log.Warn("last voucher not delivered again", "err", err)
	}
}

// begin counts a request that is to be settled; finish ends it.
func (p *Payment) begin() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed != nil {
		return p.failed
	}
	if p.closed {
		return errors.New("sending request: the payment is closed")
	}
	p.count()
	return nil
}

func (p *Payment) count() {
	if p.flight == 0 {
		p.idle = make(chan struct{})
	}
	p.flight++
}

func (p *Payment) finish() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.flight--; p.flight == 0 {
		close(p.idle)
	}
}

// Wait waits until every response is settled, or ctx ends.
func (p *Payment) Wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		n, idle := p.flight, p.idle
		p.mu.Unlock()
		if n == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %d receipts: %w", n, ctx.Err())
		}
	}
}

// Close ends what is under way and closes the log. Responses that were not
// settled stay unpaid: Wait first.
func (p *Payment) Close() error {
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	p.end()
	ctx, cancel := context.WithTimeout(context.Background(), drainTime)
	defer cancel()
	if err := p.Wait(ctx); err != nil {
		p.opt.Log.Warn("closing with requests under way", "err", err)
	}
	return p.payer.Close()
}

// Last returns the last receipt that was accepted, and the voucher that covers
// it, or nil.
func (p *Payment) Last() (*receipt.Signed, *receipt.SignedVoucher, error) {
	v, err := p.payer.Voucher()
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.last, v, err
}

// Err returns why the payment has stopped, or nil.
func (p *Payment) Err() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failed
}

func (p *Payment) stop(err error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.failed == nil {
		p.failed = err
	}
	p.opt.Log.Warn("payment stopped", "err", err)
	return err
}

package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"sync"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/ledger"
	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

// Names of HTTP fields and paths of billing, as the enclave serves them.
const (
	headerJob      = "Cocoon-Job"
	trailerReceipt = "Cocoon-Receipt"
	pathVoucher    = "/.well-known/cocoon/voucher"
	pathReceipt    = "/.well-known/cocoon/receipt"
)

// promptOverhead is what an engine may add to a prompt, in tokens: roles and
// the template's marks.
const promptOverhead = 512

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
	state *job.State
	payer *receipt.Payer
	next  http.RoundTripper

	mu     sync.Mutex
	failed error
	last   *receipt.Signed
}

// OpenPayment reads the job from the chain, checks that it is the client's own
// and released to the worker that was verified, and returns the payment. next
// carries requests to that worker.
func OpenPayment(ctx context.Context, opt PaymentOptions, peer *Peer, manifest [32]byte, next http.RoundTripper) (*Payment, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	claims := &peer.Evidence.Claims
	own := job.Hash(opt.Key.Public().(ed25519.PublicKey))
	s, _, err := opt.Ledger.Job(ctx, opt.Job)
	if err != nil {
		return nil, err
	}
	if s.Terms.ClientKey != own {
		return nil, fault.Mismatch(fault.ExitRefused, "payment.key", "the job's client key", s.Terms.ClientKey.String(), own.String(), "use the key with which the job was opened")
	}
	payout, err := toncell.ParseAddress(claims.Payout)
	if err != nil {
		return nil, fault.New(fault.ExitRefused, "payment.payout", "choose another worker", "reading the worker's payout address: %w", err)
	}
	registry, err := toncell.ParseAddress(peer.Evidence.Config.Registry)
	if err != nil {
		return nil, fault.New(fault.ExitRefused, "payment.registry", "choose another worker", "reading the worker's registry address: %w", err)
	}
	verdict, err := ledger.CheckRelease(s, ledger.Demand{
		ReceiptKey: claims.ReceiptKey[:], Payout: payout, Registry: registry, ModelRoot: job.Hash(claims.Model.VerityRoot),
	})
	if err != nil {
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
	return &Payment{opt: opt, state: s, payer: payer, next: next}, nil
}

// Close closes the log.
func (p *Payment) Close() error { return p.payer.Close() }

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

// RoundTrip names the job on a request, and checks the receipt when the
// response ends.
func (p *Payment) RoundTrip(req *http.Request) (*http.Response, error) {
	if err := p.Err(); err != nil {
		return nil, err
	}
	var body []byte
	if req.Body != nil {
		var err error
		body, err = io.ReadAll(io.LimitReader(req.Body, MaxRequestBody+1))
		if err = errors.Join(err, req.Body.Close()); err != nil {
			return nil, fmt.Errorf("reading request: %w", err)
		}
		if len(body) > MaxRequestBody {
			return nil, &http.MaxBytesError{Limit: MaxRequestBody}
		}
	}
	out := req.Clone(req.Context())
	out.Body, out.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	out.Header.Set(headerJob, p.opt.Job.String())
	resp, err := p.next.RoundTrip(out)
	if err != nil || req.Method != http.MethodPost || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	expect := receipt.Expect{Request: sha256.Sum256(body), Most: p.most(body)}
	resp.Body = &billed{p: p, resp: resp, body: resp.Body, sum: sha256.New(), expect: expect, ctx: context.WithoutCancel(req.Context())}
	return resp, nil
}

// most bounds what a request may cost: each byte of it a token at most, the
// tokens that it asks for, at the job's price cap.
func (p *Payment) most(body []byte) coin.Nano {
	var q struct {
		Max        *uint64 `json:"max_tokens"`
		Completion *uint64 `json:"max_completion_tokens"`
		N          *uint64 `json:"n"`
	}
	// The enclave refuses a body that is not JSON; here it only has no bound
	// of its own.
	_ = json.Unmarshal(body, &q)
	limit := q.Completion
	if limit == nil {
		limit = q.Max
	}
	if limit == nil || *limit > 1<<30 || q.N != nil && *q.N > 1 {
		return coin.Nano(p.state.Deposited)
	}
	price := receipt.Price{Prompt: p.state.Terms.PriceCap, Completion: p.state.Terms.PriceCap}
	amount, err := price.Bill(receipt.Tokens{Prompt: uint64(len(body)) + promptOverhead, Completion: *limit})
	if err != nil {
		return coin.Nano(p.state.Deposited)
	}
	return amount
}

// billed hashes a response as it is read and settles it at its end.
type billed struct {
	p      *Payment
	resp   *http.Response
	body   io.ReadCloser
	sum    hash.Hash
	expect receipt.Expect
	ctx    context.Context
	done   bool
}

// Read implements io.Reader. A response whose receipt is not right ends in an
// error instead of io.EOF.
func (b *billed) Read(buf []byte) (int, error) {
	n, err := b.body.Read(buf)
	b.sum.Write(buf[:n])
	if err == io.EOF && !b.done {
		b.done = true
		whole := receipt.Hash(b.sum.Sum(nil))
		b.expect.Response = &whole
		if serr := b.p.settle(b.ctx, b.resp.Trailer.Get(trailerReceipt), b.expect); serr != nil {
			return n, b.p.stop(serr)
		}
	}
	return n, err
}

// Close implements io.Closer. A response that was left early was delivered in
// part: its receipt is fetched, and paid for what it says.
func (b *billed) Close() error {
	err := b.body.Close()
	if !b.done {
		b.done = true
		go func() {
			if err := b.p.settleEarly(b.ctx, b.expect); err != nil {
				_ = b.p.stop(err) // kept in Err and logged
			}
		}()
	}
	return err
}

// settle accepts one receipt and sends the voucher for it.
func (p *Payment) settle(ctx context.Context, trailer string, expect receipt.Expect) error {
	if trailer == "" {
		return fault.New(fault.ExitRefused, "receipt.missing", "do not pay for this response; leave the worker and close the job",
			"settling a response: it came without a receipt")
	}
	doc, err := base64.StdEncoding.DecodeString(trailer)
	if err != nil {
		return fault.New(fault.ExitParse, "receipt.parse", "leave the worker and close the job", "reading receipt: %w", err)
	}
	s, err := receipt.Parse(doc)
	if err != nil {
		return err
	}
	return p.accept(ctx, s, expect)
}

func (p *Payment) accept(ctx context.Context, s *receipt.Signed, expect receipt.Expect) error {
	v, err := p.payer.Accept(s, expect)
	if err != nil {
		return err
	}
	p.mu.Lock()
	p.last = s
	p.mu.Unlock()
	if v == nil {
		return nil // an earlier response is still under way; its voucher covers this one
	}
	// A voucher that does not arrive is sent again with the next one, which
	// covers it: not a failure of this response.
	if err := p.send(ctx, v); err != nil {
		p.opt.Log.Warn("voucher not delivered", "seq", v.Voucher.Seq, "err", err)
	}
	return nil
}

func (p *Payment) send(ctx context.Context, v *receipt.SignedVoucher) error {
	doc, err := v.Marshal()
	if err != nil {
		return err
	}
	_, err = p.ask(ctx, http.MethodPost, pathVoucher, doc)
	return err
}

// settleEarly fetches the receipt of a response that was left before its
// trailer. The worker writes it once its engine has stopped.
func (p *Payment) settleEarly(ctx context.Context, expect receipt.Expect) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	for {
		doc, err := p.ask(ctx, http.MethodGet, pathReceipt+"?job="+url.QueryEscape(p.opt.Job.String())+"&request="+expect.Request.String(), nil)
		if err == nil {
			if s, perr := receipt.Parse(doc); perr == nil && s.Receipt.Request == expect.Request {
				return p.accept(ctx, s, expect)
			}
		}
		select {
		case <-ctx.Done():
			// Without a receipt there is nothing to pay; a later receipt that
			// skips a number is refused then.
			return nil
		case <-time.After(time.Second):
		}
	}
}

func (p *Payment) ask(ctx context.Context, method, path string, doc []byte) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, method, "https://enclave"+path, bytes.NewReader(doc))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := p.next.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return nil, fault.New(fault.ExitNetwork, "payment.answer", "it is tried again with the next response", "the worker answered %s: %.200s", resp.Status, b)
	}
	return b, nil
}

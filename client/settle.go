package client

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"maps"
	"math"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
)

// settle accepts the receipt of a trailer and sends the voucher for it.
func (p *Payment) settle(ctx context.Context, trailer string, expect receipt.Expect) error {
	if trailer == "" {
		return fault.New(fault.ExitRefused, "receipt.missing", "do not pay for this response; leave the worker and close the job",
			"settling a response: it came without a receipt")
	}
	doc, err := base64.StdEncoding.Strict().DecodeString(trailer)
	if err != nil {
		return fault.New(fault.ExitParse, "receipt.malformed", "leave the worker and close the job", "reading a receipt: %w", err)
	}
	s, err := receipt.Parse(doc)
	if err != nil {
		return err
	}
	if was, ok := p.claim(s, false); !ok && was.early && was.signature == s.Signature {
		// A request with the same body was left early and took this receipt:
		// the two change places.
		if err := p.payer.Check(s, expect); err != nil {
			return err
		}
		p.mu.Lock()
		p.taken[s.Receipt.Seq] = claim{s.Signature, false}
		p.count()
		p.mu.Unlock()
		expect.Response = nil
		go p.settleLater(expect)
		return nil
	}
	return p.accept(ctx, s, expect)
}

// maxTaken bounds the receipts that are remembered; the enclave keeps 64.
const maxTaken = 256

// claim takes a receipt for a response unless another response has it.
func (p *Payment) claim(s *receipt.Signed, early bool) (was claim, ok bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := s.Receipt.Seq
	if was, ok := p.taken[n]; ok || n <= p.first {
		return was, false
	}
	p.taken[n] = claim{s.Signature, early}
	if len(p.taken) > maxTaken {
		low := slices.Min(slices.Collect(maps.Keys(p.taken)))
		delete(p.taken, low)
		p.first = max(p.first, low)
	}
	return claim{}, true
}

func (p *Payment) accept(ctx context.Context, s *receipt.Signed, expect receipt.Expect) error {
	v, err := p.payer.Accept(s, expect)
	if p.chain != nil && (fault.Has(err, "receipt.verdict") || fault.Has(err, "receipt.over_deposit")) {
		// The job may have been renewed, or its deposit grown, meanwhile: the
		// chain decides.
		if cerr := p.chain(ctx); cerr != nil {
			return errors.Join(err, cerr)
		}
		v, err = p.payer.Accept(s, expect)
	}
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
	ctx, cancel := context.WithTimeout(ctx, sendTime)
	defer cancel()
	doc, err := v.Marshal()
	if err != nil {
		return err
	}
	_, err = p.ask(ctx, http.MethodPost, pathVoucher, doc)
	return err
}

// settleLater fetches the receipt of a response whose trailer did not come.
// Without a receipt there is nothing to pay; the receipts after it are then
// not paid either, until the worker shows it.
func (p *Payment) settleLater(expect receipt.Expect) {
	defer p.finish()
	ctx, cancel := context.WithTimeout(p.life, earlyTime)
	defer cancel()
	for wait := 100 * time.Millisecond; ; wait = min(2*wait, maxAskAgain) {
		s, err := p.fetch(ctx, expect.Request)
		if err == nil && s != nil {
			err = p.accept(ctx, s, expect)
		}
		if err != nil {
			_ = p.stop(err) // kept in Err and logged
			return
		}
		if s != nil {
			return
		}
		select {
		case <-ctx.Done():
			p.opt.Log.Warn("no receipt for a response that was left early", "request", expect.Request.String())
			return
		case <-time.After(wait):
		}
	}
}

// fetch takes the newest receipt for a request that no other response has: the
// same body may have been sent more than once. It returns nil where there is
// none yet.
func (p *Payment) fetch(ctx context.Context, request receipt.Hash) (*receipt.Signed, error) {
	q := url.Values{"job": {p.opt.Job.String()}, "request": {request.String()}}
	for before := uint64(math.MaxUint64); ; {
		doc, err := p.ask(ctx, http.MethodGet, pathReceipt+"?"+q.Encode(), nil)
		if err != nil {
			return nil, nil // it is asked again
		}
		s, err := receipt.Parse(doc)
		if err != nil {
			return nil, err
		}
		if _, ok := p.claim(s, true); ok {
			return s, nil
		}
		if s.Receipt.Seq >= before {
			return nil, nil
		}
		before = s.Receipt.Seq
		q.Set("before", strconv.FormatUint(before, 10))
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

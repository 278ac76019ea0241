package client

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"sync/atomic"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/receipt"
)

// RoundTrip names the job on a request, and checks the receipt when the
// response ends.
func (p *Payment) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := takeBody(req)
	if err != nil {
		return nil, err
	}
	if err := p.begin(); err != nil {
		return nil, err
	}
	// A stock client hangs up at "[DONE]", before the trailer has come: the
	// request outlives it by a moment, in which the receipt arrives.
	ctx, cancel := context.WithCancel(context.WithoutCancel(req.Context()))
	stopReq := context.AfterFunc(req.Context(), func() { time.AfterFunc(drainTime, cancel) })
	stopLife := context.AfterFunc(p.life, cancel)
	end := func() { stopReq(); stopLife(); cancel() }
	var sent atomic.Bool
	out := req.Clone(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{WroteHeaders: func() { sent.Store(true) }}))
	// With these, net/http takes a POST for one that may be sent twice; each
	// time is paid. It may send again what was not written at all.
	out.Header.Del("Idempotency-Key")
	out.Header.Del("X-Idempotency-Key")
	out.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(body)), nil }
	out.Body, _ = out.GetBody()
	out.ContentLength = int64(len(body))
	if len(body) == 0 {
		out.Body, out.GetBody = http.NoBody, nil
	}
	out.Header.Set(headerJob, p.opt.Job.String())
	paid := req.Method == http.MethodPost
	expect := receipt.Expect{Request: sha256.Sum256(body), Most: p.most(body)}
	resp, err := p.next.RoundTrip(out)
	if err != nil {
		end()
		if paid && sent.Load() {
			go p.settleLater(expect) // the worker may have answered
		} else {
			p.finish()
		}
		return nil, err
	}
	if !paid || resp.StatusCode != http.StatusOK {
		p.finish() // nothing is billed
		resp.Body = &ended{resp.Body, end}
		return resp, nil
	}
	resp.Body = &billed{p: p, resp: resp, body: resp.Body, sum: sha256.New(), expect: expect, end: end}
	return resp, nil
}

// takeBody reads and closes a request's body.
func takeBody(req *http.Request) ([]byte, error) {
	if req.Body == nil {
		return nil, nil
	}
	body, err := io.ReadAll(io.LimitReader(req.Body, MaxRequestBody+1))
	if err = errors.Join(err, req.Body.Close()); err != nil {
		return nil, fmt.Errorf("reading request: %w", err)
	}
	if len(body) > MaxRequestBody {
		return nil, &http.MaxBytesError{Limit: MaxRequestBody}
	}
	return body, nil
}

// Times of settling. A worker stops when it sees that its client has hung up,
// and has the receipt then; over a network that only fell silent it may see it
// after the ten minutes that a request has at most.
const (
	drainTime   = 3 * time.Second // for a response that its reader has left to end by itself
	earlyTime   = 11 * time.Minute
	sendTime    = 30 * time.Second
	maxAskAgain = 10 * time.Second
)

// The enclave's bounds of a request (docs/worker-api.md).
const (
	promptOverhead   = 1024 // tokens that a template adds
	messageOverhead  = 16   // tokens that it adds to each message
	defaultMaxTokens = 4096
)

// most bounds what a request may cost, as the enclave does: each byte of it a
// token at most, the template's, and the tokens that it asks for, at the job's
// price cap.
func (p *Payment) most(body []byte) coin.Nano {
	var q struct {
		Max        uint64            `json:"max_tokens"`
		Completion uint64            `json:"max_completion_tokens"`
		Messages   []json.RawMessage `json:"messages"`
	}
	// The enclave refuses a body that is not what it should be; nothing is
	// billed for one.
	_ = json.Unmarshal(body, &q)
	limit := max(q.Max, q.Completion)
	if limit == 0 {
		limit = defaultMaxTokens
	}
	price := receipt.Price{Prompt: p.terms.PriceCap, Completion: p.terms.PriceCap}
	amount, err := price.Bill(receipt.Tokens{
		Prompt: uint64(len(body)) + promptOverhead + messageOverhead*uint64(len(q.Messages)), Completion: limit,
	})
	if err != nil {
		return 0 // no enclave admits that many tokens
	}
	return amount
}

// ended is a body that releases its request when it is closed.
type ended struct {
	io.ReadCloser
	end func()
}

// Close implements io.Closer.
func (e *ended) Close() error {
	defer e.end()
	return e.ReadCloser.Close()
}

// billed hashes a response as it is read and settles it at its end.
type billed struct {
	p      *Payment
	resp   *http.Response
	body   io.ReadCloser
	expect receipt.Expect
	end    func() // releases the request
	close  sync.Once

	mu   sync.Mutex // one read at a time: Close reads on what was left
	sum  hash.Hash
	done bool
	err  error // of the settlement
}

// Read implements io.Reader. A response whose receipt is not right ends in an
// error instead of io.EOF.
func (b *billed) Read(buf []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.done {
		return 0, b.err
	}
	n, err := b.body.Read(buf)
	b.sum.Write(buf[:n])
	if err == io.EOF {
		b.done, b.err = true, io.EOF
		defer b.p.finish()
		whole := receipt.Hash(b.sum.Sum(nil))
		b.expect.Response = &whole
		if serr := b.p.settle(b.p.life, b.resp.Trailer.Get(trailerReceipt), b.expect); serr != nil {
			b.err = b.p.stop(serr)
		}
		return n, b.err
	}
	return n, err
}

// Close implements io.Closer. A response that was left early may be about to
// end by itself; else it was delivered in part, and its receipt is fetched and
// paid for what it says.
func (b *billed) Close() error {
	b.close.Do(func() { go b.leave() })
	return nil
}

func (b *billed) leave() {
	timer := time.AfterFunc(drainTime, b.end)
	_, _ = io.Copy(io.Discard, b) // its outcome is b.done
	timer.Stop()
	_ = b.body.Close() // it has ended, or was given up
	b.end()
	b.mu.Lock()
	done := b.done
	b.done, b.err = true, http.ErrBodyReadAfterClose
	b.mu.Unlock()
	if !done {
		b.p.settleLater(b.expect)
	}
}

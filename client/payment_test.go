package client

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptrace"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
)

const payCap = 1_000_000 // a nanoton a token

func payKey(name string) ed25519.PrivateKey {
	seed := sha256.Sum256([]byte("payment test " + name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func payHash(s string) receipt.Hash { return sha256.Sum256([]byte(s)) }

// worker is the other end of a payment: a real book with real signatures
// behind a round tripper, which a test may make lie.
type worker struct {
	t    *testing.T
	book *receipt.Book

	mu       sync.Mutex
	paid     int // requests that came
	vouchers []*receipt.SignedVoucher
	receipts []*receipt.Signed
	header   http.Header // of the last request

	sign    func(*receipt.Receipt)                // changes a receipt before it is signed anew
	trailer func(string) string                   // changes the trailer
	answer  func(body []byte) []byte              // changes the body after it was hashed
	hold    func(n int) <-chan struct{}           // the nth response ends then
	fail    func(n int) error                     // of the nth request, after it was served
	status  int                                   // 0 for 200
	stall   func(n int, ctx context.Context) bool // the nth response never ends, but by ctx
}

func newPaymentWorld(t *testing.T) (*Payment, *worker) {
	t.Helper()
	dir := t.TempDir()
	addr := toncell.Address{Hash: payHash("job")}
	w := &worker{t: t}
	var err error
	w.book, err = receipt.OpenBook(receipt.BookOptions{
		Job: addr, GlobalID: -239, ClientKey: payKey("client").Public().(ed25519.PublicKey), Key: payKey("enclave"),
		ModelRoot: payHash("model"), Manifest: payHash("manifest"), Verdict: payHash("verdict"),
		Price: receipt.Price{Prompt: payCap, Cached: payCap, Completion: payCap, Reasoning: payCap}, Deposit: coin.TON, Credit: coin.TON,
		Path: filepath.Join(dir, "book"),
	})
	if err != nil {
		t.Fatal(err)
	}
	payer, err := receipt.OpenPayer(receipt.PayerOptions{
		Job: addr, GlobalID: -239, Key: payKey("client"), ReceiptKey: payKey("enclave").Public().(ed25519.PublicKey),
		ModelRoot: payHash("model"), Manifest: payHash("manifest"), Verdict: payHash("verdict"),
		PriceCap: payCap, Deposit: coin.TON, Path: filepath.Join(dir, "payer"),
	})
	if err != nil {
		t.Fatal(err)
	}
	p, err := newPayment(PaymentOptions{Job: addr, Log: slog.New(slog.DiscardHandler)}, &job.Terms{PriceCap: payCap}, payer, w)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(p.Close(), w.book.Close()); err != nil {
			t.Error(err)
		}
	})
	return p, w
}

// RoundTrip implements http.RoundTripper.
func (w *worker) RoundTrip(req *http.Request) (*http.Response, error) {
	body, err := io.ReadAll(req.Body)
	if err != nil {
		return nil, err
	}
	switch req.URL.Path {
	case pathVoucher:
		v, err := receipt.ParseVoucher(body)
		if err == nil {
			err = w.book.Accept(v)
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		if err != nil {
			return plain(http.StatusConflict, []byte(err.Error())), nil
		}
		w.vouchers = append(w.vouchers, v)
		return plain(http.StatusOK, nil), nil
	case pathReceipt:
		return w.find(req), nil
	}
	w.mu.Lock()
	w.paid++
	n := w.paid
	w.header = req.Header.Clone()
	w.mu.Unlock()
	if tr := httptrace.ContextClientTrace(req.Context()); tr != nil && tr.WroteHeaders != nil {
		tr.WroteHeaders()
	}
	if w.status != 0 {
		return plain(w.status, []byte(`{"error":{}}`)), nil
	}
	a, err := w.book.Open(1000)
	if err != nil {
		return nil, err
	}
	answer := []byte("data: answer\n\ndata: [DONE]\n\n")
	signed, err := a.Issue(receipt.Delivery{Request: sha256.Sum256(body), Response: sha256.Sum256(answer), Tokens: receipt.Tokens{Prompt: 2, Completion: 3}})
	if err != nil {
		return nil, err
	}
	if w.sign != nil {
		r := signed.Receipt
		w.sign(&r)
		if signed, err = receipt.Sign(payKey("enclave"), r); err != nil {
			return nil, err
		}
	}
	w.mu.Lock()
	w.receipts = append(w.receipts, signed)
	w.mu.Unlock()
	if w.fail != nil {
		if err := w.fail(n); err != nil {
			return nil, err
		}
	}
	doc, err := signed.Marshal()
	if err != nil {
		return nil, err
	}
	trailer := base64.StdEncoding.EncodeToString(doc)
	if w.trailer != nil {
		trailer = w.trailer(trailer)
	}
	if w.answer != nil {
		answer = w.answer(answer)
	}
	resp := plain(http.StatusOK, nil)
	resp.Trailer = http.Header{trailerReceipt: nil}
	r, pw := io.Pipe()
	resp.Body = r
	go func() {
		if _, err := pw.Write(answer); err != nil {
			return // the client has hung up
		}
		if w.hold != nil {
			<-w.hold(n)
		}
		if w.stall != nil && w.stall(n, req.Context()) {
			<-req.Context().Done()
			pw.CloseWithError(req.Context().Err())
			return
		}
		if trailer != "" {
			resp.Trailer.Set(trailerReceipt, trailer)
		}
		pw.Close()
	}()
	return resp, nil
}

func (w *worker) find(req *http.Request) *http.Response {
	w.mu.Lock()
	defer w.mu.Unlock()
	before, err := strconv.ParseUint(req.URL.Query().Get("before"), 10, 64)
	for i := len(w.receipts) - 1; i >= 0; i-- {
		r := w.receipts[i]
		if r.Receipt.Request.String() == req.URL.Query().Get("request") && (err != nil || r.Receipt.Seq < before) {
			doc, _ := r.Marshal() // it was parsed from one
			return plain(http.StatusOK, doc)
		}
	}
	return plain(http.StatusNotFound, nil)
}

func plain(status int, body []byte) *http.Response {
	return &http.Response{StatusCode: status, Status: strconv.Itoa(status), Header: http.Header{}, Body: io.NopCloser(bytes.NewReader(body))}
}

func send(t *testing.T, ctx context.Context, p *Payment, body string) (*http.Response, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://enclave/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Idempotency-Key", "k")
	return p.RoundTrip(req)
}

// ask sends a request and reads its answer to the end.
func ask(t *testing.T, p *Payment, body string) error {
	t.Helper()
	resp, err := send(t, t.Context(), p, body)
	if err != nil {
		return err
	}
	_, err = io.ReadAll(resp.Body)
	return errors.Join(err, resp.Body.Close())
}

func settled(t *testing.T, p *Payment, w *worker, want coin.Nano) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := errors.Join(p.Wait(ctx), p.Err()); err != nil {
		t.Fatal(err)
	}
	if owed, promised := w.book.Owed(); owed != want || promised != want {
		t.Errorf("owed %d, promised %d, want %d", owed, promised, want)
	}
}

func TestAGoodReceiptIsPaid(t *testing.T) {
	p, w := newPaymentWorld(t)
	for range 3 {
		if err := ask(t, p, `{"max_tokens":10}`); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, p, w, 15)
	if len(w.vouchers) != 3 || w.header.Get(headerJob) != p.opt.Job.String() || w.header.Get("Idempotency-Key") != "" {
		t.Errorf("%d vouchers, header %v", len(w.vouchers), w.header)
	}
	last, v, err := p.Last()
	if err != nil || last.Receipt.Seq != 3 || v.Voucher.Amount != 15 {
		t.Errorf("last %+v, %+v, %v", last, v, err)
	}
}

func TestAReceiptThatIsNotRightStopsThePayment(t *testing.T) {
	for name, tc := range map[string]struct {
		code  string
		spoil func(*worker)
	}{
		"no trailer":     {"receipt.missing", func(w *worker) { w.trailer = func(string) string { return "" } }},
		"no base64":      {"receipt.malformed", func(w *worker) { w.trailer = func(s string) string { return "!" + s } }},
		"half a receipt": {"receipt.malformed", func(w *worker) { w.trailer = func(s string) string { return s[:len(s)/2/4*4] } }},
		"a forged signature": {"receipt.signature", func(w *worker) {
			w.trailer = func(s string) string {
				b, _ := base64.StdEncoding.DecodeString(s)
				return base64.StdEncoding.EncodeToString(bytes.Replace(b, []byte(`"cumulative":"5"`), []byte(`"cumulative":"4"`), 1))
			}
		}},
		"another request": {"receipt.request", func(w *worker) { w.sign = func(r *receipt.Receipt) { r.Request[0]++ } }},
		"one byte of the answer": {"receipt.response", func(w *worker) {
			w.answer = func(b []byte) []byte { b = bytes.Clone(b); b[7] ^= 1; return b }
		}},
		"one byte more":        {"receipt.response", func(w *worker) { w.answer = func(b []byte) []byte { return append(bytes.Clone(b), '\n') } }},
		"a price over the cap": {"receipt.price", func(w *worker) { w.sign = func(r *receipt.Receipt) { r.Price.Prompt++ } }},
		"more than asked for": {"receipt.amount", func(w *worker) {
			w.sign = func(r *receipt.Receipt) { r.Tokens.Completion, r.Cumulative = 5000, 5002 }
		}},
		"another manifest":      {"receipt.manifest", func(w *worker) { w.sign = func(r *receipt.Receipt) { r.Manifest[0]++ } }},
		"an unrecorded verdict": {"receipt.verdict", func(w *worker) { w.sign = func(r *receipt.Receipt) { r.Verdict[0]++ } }},
		"another job":           {"receipt.job", func(w *worker) { w.sign = func(r *receipt.Receipt) { r.Job.Hash[0]++ } }},
		"a wrong sum":           {"receipt.cumulative", func(w *worker) { w.sign = func(r *receipt.Receipt) { r.Cumulative++ } }},
	} {
		t.Run(name, func(t *testing.T) {
			p, w := newPaymentWorld(t)
			tc.spoil(w)
			if err := ask(t, p, `{"max_tokens":10}`); !fault.Has(err, tc.code) {
				t.Fatalf("got %v, want %s", err, tc.code)
			}
			if err := ask(t, p, `{"max_tokens":10}`); !fault.Has(err, tc.code) || w.paid != 1 {
				t.Errorf("after it: %v, %d requests reached the worker", err, w.paid)
			}
			if len(w.vouchers) != 0 {
				t.Error("it was paid")
			}
		})
	}
}

func TestAReplayedReceiptIsRefused(t *testing.T) {
	p, w := newPaymentWorld(t)
	var first string
	w.trailer = func(s string) string {
		if first == "" {
			first = s
		}
		return first
	}
	w.sign = func(r *receipt.Receipt) {}
	if err := ask(t, p, `{}`); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, p, `{}`); !fault.Has(err, "receipt.sequence") {
		t.Errorf("got %v", err)
	}
	if len(w.vouchers) != 1 {
		t.Errorf("%d vouchers", len(w.vouchers))
	}
}

func TestParallelResponsesMayEndInAnyOrder(t *testing.T) {
	p, w := newPaymentWorld(t)
	gates := []chan struct{}{nil, make(chan struct{}), make(chan struct{}), make(chan struct{})}
	w.hold = func(n int) <-chan struct{} { return gates[n] }
	var all []*http.Response
	for i := range 3 {
		resp, err := send(t, t.Context(), p, fmt.Sprintf(`{"seed":%d}`, i))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, resp)
	}
	for _, n := range []int{3, 1, 2} {
		close(gates[n])
		if _, err := io.ReadAll(all[n-1].Body); err != nil {
			t.Fatal(err)
		}
		all[n-1].Body.Close()
	}
	settled(t, p, w, 15)
}

func TestAClientThatHangsUpAtDoneHasItsReceipt(t *testing.T) {
	p, w := newPaymentWorld(t)
	gate := make(chan struct{})
	w.hold = func(int) <-chan struct{} { return gate }
	ctx, cancel := context.WithCancel(t.Context())
	resp, err := send(t, ctx, p, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(resp.Body, make([]byte, 28)); err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	resp.Body.Close() // more than once is allowed
	cancel()
	close(gate)
	settled(t, p, w, 5)
	if last, _, _ := p.Last(); last == nil || p.taken[1].early {
		t.Error("the trailer's receipt was not used")
	}
}

func TestAClientThatHangsUpInTheMiddlePaysLater(t *testing.T) {
	p, w := newPaymentWorld(t)
	w.stall = func(int, context.Context) bool { return true }
	resp, err := send(t, t.Context(), p, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	settled(t, p, w, 5)
	if !p.taken[1].early {
		t.Error("the receipt was not fetched")
	}
}

// An OpenAI client that times out sends the same body again.
func TestTheSameBodyAgainAfterAHangUpIsPaidTwice(t *testing.T) {
	p, w := newPaymentWorld(t)
	gate := make(chan struct{})
	w.stall = func(n int, _ context.Context) bool { return n == 1 }
	w.hold = func(n int) <-chan struct{} {
		if n == 1 {
			c := make(chan struct{})
			close(c)
			return c
		}
		return gate
	}
	first, err := send(t, t.Context(), p, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	second, err := send(t, t.Context(), p, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	first.Body.Close()
	// The newest receipt of this body is the second response's; the first
	// takes it, and gives it back.
	for {
		p.mu.Lock()
		n := len(p.taken)
		p.mu.Unlock()
		if n > 0 {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	close(gate)
	if _, err := io.ReadAll(second.Body); err != nil {
		t.Fatal(err)
	}
	second.Body.Close()
	settled(t, p, w, 10)
}

func TestARequestThatBrokeAfterItWasSentIsPaid(t *testing.T) {
	p, w := newPaymentWorld(t)
	w.fail = func(n int) error {
		if n == 1 {
			return errors.New("connection reset")
		}
		return nil
	}
	if err := ask(t, p, `{}`); err == nil {
		t.Fatal("no error")
	}
	if err := ask(t, p, `{}`); err != nil {
		t.Fatal(err)
	}
	settled(t, p, w, 10)
}

func TestAnErrorAnswerCostsNothing(t *testing.T) {
	p, w := newPaymentWorld(t)
	w.status = http.StatusTooManyRequests
	if err := ask(t, p, `{}`); err != nil {
		t.Fatal(err)
	}
	settled(t, p, w, 0)
}

func TestARenewalGoesOn(t *testing.T) {
	p, w := newPaymentWorld(t)
	if err := ask(t, p, `{}`); err != nil {
		t.Fatal(err)
	}
	asked := 0
	p.chain = func(context.Context) error {
		asked++
		p.payer.Chain(payKey("enclave").Public().(ed25519.PublicKey), payHash("renewed"), coin.TON)
		return nil
	}
	w.book.Chain(coin.TON, payHash("renewed"))
	for range 2 {
		if err := ask(t, p, `{}`); err != nil {
			t.Fatal(err)
		}
	}
	settled(t, p, w, 15)
	if asked != 1 || w.vouchers[2].Voucher.Verdict != payHash("renewed") {
		t.Errorf("the chain was asked %d times, voucher %+v", asked, w.vouchers[2])
	}
	// One that was issued before the renewal and comes after it counts too.
	w.sign = func(r *receipt.Receipt) { r.Verdict = payHash("verdict") }
	if err := ask(t, p, `{}`); err != nil {
		t.Error(err)
	}
}

func TestNothingIsSentAfterClose(t *testing.T) {
	p, w := newPaymentWorld(t)
	w.stall = func(int, context.Context) bool { return true }
	resp, err := send(t, t.Context(), p, `{}`)
	if err != nil {
		t.Fatal(err)
	}
	p.end()
	p.mu.Lock()
	p.closed = true
	p.mu.Unlock()
	resp.Body.Close()
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := ask(t, p, `{}`); err == nil || w.paid != 1 {
		t.Errorf("%v, %d requests", err, w.paid)
	}
}

package serve_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/coin"
	"cocoon/contracts/job"
	"cocoon/contracts/receipt"
	"cocoon/enclave/engine"
	"cocoon/enclave/ledger"
	"cocoon/enclave/meter"
	"cocoon/enclave/serve"
	"cocoon/internal/toncell"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

const (
	globalID = -1009
	priceCap = 2_000_000
)

func address(name string) toncell.Address { return toncell.Address{Hash: digest.Sum256([]byte(name))} }

func keyOf(name string) ed25519.PrivateKey {
	seed := digest.Sum256([]byte(name))
	return ed25519.NewKeyFromSeed(seed[:])
}

func hashOf(k ed25519.PrivateKey) job.Hash { return job.Hash(k.Public().(ed25519.PublicKey)) }

// oneJob is a chain on which one job is released to the worker.
type oneJob struct{}

func (oneJob) Job(context.Context, toncell.Address) (*job.State, *chain.State, error) {
	now := time.Now()
	return &job.State{
		Status: job.Released, Deposited: uint64(1000 * coin.TON),
		Verdicts: map[job.Hash]job.Recorded{job.Hash(digest.Sum256([]byte("verdict"))): {ReceiptKey: hashOf(keyOf("receipt")), At: now}},
		Terms: job.Terms{
			Client: address("client"), ClientKey: hashOf(keyOf("client")), Payout: address("payout"), Registry: address("registry"),
			ModelRoot: job.Hash(digest.Sum256([]byte("model"))), PriceCap: priceCap, CloseDelay: time.Hour,
		},
	}, &chain.State{GlobalID: globalID, Utime: uint32(now.Unix())}, nil
}

// payer is the client's side: it keeps the receipts and signs for them now and
// then, so that the job's credit lasts.
type payer struct {
	tree receipt.Tree
	seq  uint64
	owed coin.Nano
}

func (p *payer) take(tb testing.TB, trailer string) {
	doc, err := base64.StdEncoding.DecodeString(trailer)
	if err != nil {
		tb.Fatal(err)
	}
	s, err := receipt.Parse(doc)
	if err != nil {
		tb.Fatalf("the trailer is no receipt: %v", err)
	}
	leaf, err := s.Leaf()
	if err != nil {
		tb.Fatal(err)
	}
	p.tree.Append(leaf)
	p.owed = s.Receipt.Cumulative
}

func (p *payer) pay(tb testing.TB, l *ledger.Ledger) {
	p.seq++
	v, err := receipt.Voucher{GlobalID: globalID, Job: address("job"), Seq: p.seq, Amount: p.owed, ReceiptCount: p.tree.Len(),
		ReceiptsRoot: p.tree.Root(), Verdict: receipt.Hash(digest.Sum256([]byte("verdict")))}.Sign(keyOf("client"))
	if err != nil {
		tb.Fatal(err)
	}
	doc, err := v.Marshal()
	if err != nil {
		tb.Fatal(err)
	}
	if _, err := l.Accept(context.Background(), doc); err != nil {
		tb.Fatal(err)
	}
}

// fakeEngine answers at once on a UNIX socket: an answer of 12 tokens, or a
// stream of 64 events and the usage.
func fakeEngine(tb testing.TB) (socket string) {
	tb.Helper()
	socket = filepath.Join(tb.TempDir(), engine.SocketName)
	ln, err := net.Listen("unix", socket)
	if err != nil {
		tb.Fatal(err)
	}
	const whole = `{"id":"x","object":"chat.completion","choices":[{"index":0,"message":{"role":"assistant","content":"The capital of Japan is Tokyo."},"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":12,"total_tokens":21}}`
	var events [64][]byte
	for i := range events {
		events[i] = fmt.Appendf(nil, `data: {"id":"x","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"content":" word%d"},"finish_reason":null}]}`+"\n\n", i*i)
	}
	const end = `data: {"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":64,"total_tokens":73}}` + "\n\ndata: [DONE]\n\n"
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		if !strings.Contains(string(body), `"stream":true`) {
			w.Header().Set("Content-Type", "application/json")
			_, _ = io.WriteString(w, whole)
			return
		}
		w.Header().Set("Content-Type", "text/event-stream")
		rc := http.NewResponseController(w)
		for _, event := range events {
			_, _ = w.Write(event)
			_ = rc.Flush()
		}
		_, _ = io.WriteString(w, end)
	})}
	go func() { _ = srv.Serve(ln) }()
	tb.Cleanup(func() { srv.Close() })
	return socket
}

// overTLS serves a handler as the worker does: TLS 1.3, HTTP/1.1.
func overTLS(tb testing.TB, h http.Handler) (url string, client *http.Client) {
	tb.Helper()
	srv := httptest.NewUnstartedServer(h)
	srv.TLS = &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: []string{"http/1.1"}}
	srv.StartTLS()
	tb.Cleanup(srv.Close)
	return srv.URL, srv.Client()
}

// readFirst gives a handler the request's body in memory. A reverse proxy reads
// it while the answer comes, and net/http closes it under the proxy when an
// engine answers as soon as it has the last byte; then the answer is cut short.
func readFirst(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		h.ServeHTTP(w, r)
	})
}

// route is one way from the client to the engine.
type route struct {
	url    string
	client *http.Client
	took   []time.Duration
}

func (r *route) ask(tb testing.TB, body string, paid bool) (trailer string) {
	begin := time.Now()
	req, err := http.NewRequest("POST", r.url+"/v1/chat/completions", strings.NewReader(body))
	if err != nil {
		tb.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	if paid {
		req.Header.Set(serve.HeaderJob, address("job").String())
	}
	rsp, err := r.client.Do(req)
	if err != nil {
		tb.Fatal(err)
	}
	n, err := io.Copy(io.Discard, rsp.Body)
	rsp.Body.Close()
	r.took = append(r.took, time.Since(begin))
	if err != nil || rsp.StatusCode != http.StatusOK || n == 0 {
		tb.Fatalf("got %s, %d bytes, %v", rsp.Status, n, err)
	}
	return rsp.Trailer.Get(serve.TrailerReceipt)
}

func (r *route) p50() float64 {
	slices.Sort(r.took)
	return float64(r.took[len(r.took)/2]) / float64(time.Millisecond)
}

// ramDir is where a machine without a data disk keeps its books: in RAM.
func ramDir(tb testing.TB) string {
	dir, err := os.MkdirTemp("/dev/shm", "books-")
	if err != nil {
		return tb.TempDir()
	}
	tb.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// newWorker serves the engine as the enclave does, meter and books included.
func newWorker(tb testing.TB, socket string) (*serve.Server, *ledger.Ledger) {
	tb.Helper()
	return newLoggedWorker(tb, socket, &meter.Meter{}, slog.New(slog.DiscardHandler))
}

func newLoggedWorker(tb testing.TB, socket string, m *meter.Meter, log *slog.Logger) (*serve.Server, *ledger.Ledger) {
	tb.Helper()
	books := ledger.New(ledger.Options{
		Chain: oneJob{}, GlobalID: globalID, Registry: address("registry"), Models: []ledger.Model{{Name: "m", Root: receipt.Hash(digest.Sum256([]byte("model")))}},
		Payout: address("payout"), Key: keyOf("receipt"), Dir: ramDir(tb), Clock: time.Now,
		Manifest: func(string) (receipt.Hash, error) { return receipt.Hash(digest.Sum256([]byte("manifest"))), nil },
	})
	tb.Cleanup(func() { books.Close() })
	s, err := serve.New(serve.Options{
		Model: "m", Created: time.Now(), Engine: engineAPI(tb, socket), Attestation: http.NotFoundHandler(),
		Gate: func() error { return nil }, Ledger: books, Meter: m, Log: log,
	})
	if err != nil {
		tb.Fatal(err)
	}
	return s, books
}

// BenchmarkServing asks the same engine directly, through a bare
// httputil.ReverseProxy over TLS 1.3, and through the worker over TLS 1.3 with
// metering and a receipt for each answer, in turn and on one connection each.
// added_ms is what the worker adds to the direct way, over_proxy_ms what it
// adds to the proxy, ratio the worker's time over the proxy's; all of them of
// medians.
func BenchmarkServing(b *testing.B) {
	for _, bm := range []struct{ name, body string }{
		{"whole", `{"model":"m","messages":[{"role":"user","content":"What is the capital of Japan?"}],"max_tokens":64}`},
		{"stream64", `{"model":"m","messages":[{"role":"user","content":"What is the capital of Japan?"}],"max_tokens":64,"stream":true}`},
	} {
		b.Run(bm.name, func(b *testing.B) {
			socket := fakeEngine(b)
			up := engineAPI(b, socket)
			direct := &route{url: "http://engine", client: &http.Client{Transport: up}}
			target := &url.URL{Scheme: "http", Host: "engine"}
			bare := &route{}
			bare.url, bare.client = overTLS(b, readFirst(&httputil.ReverseProxy{
				Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) }, Transport: engineAPI(b, socket), FlushInterval: -1,
			}))
			server, books := newWorker(b, socket)
			worker := &route{}
			worker.url, worker.client = overTLS(b, server)
			p := &payer{}
			n := 0
			for b.Loop() {
				direct.ask(b, bm.body, false)
				bare.ask(b, bm.body, false)
				p.take(b, worker.ask(b, bm.body, true))
				if n++; n%500 == 0 {
					p.pay(b, books)
				}
			}
			d, x, w := direct.p50(), bare.p50(), worker.p50()
			b.ReportMetric(d, "direct_p50_ms")
			b.ReportMetric(x, "proxy_p50_ms")
			b.ReportMetric(w, "worker_p50_ms")
			b.ReportMetric(w-d, "added_ms")
			b.ReportMetric(w-x, "over_proxy_ms")
			b.ReportMetric(w/x, "ratio")
		})
	}
}

// TestTheWholeWayIsPaid goes the benchmark's way a few times: what is measured
// there is metered and billed.
func TestTheWholeWayIsPaid(t *testing.T) {
	server, books := newWorker(t, fakeEngine(t))
	worker := &route{}
	worker.url, worker.client = overTLS(t, server)
	p := &payer{}
	for i, body := range []string{`{"model":"m","prompt":"x"}`, `{"model":"m","prompt":"x","stream":true}`} {
		body = strings.Replace(body, `"prompt":"x"`, `"messages":[{"role":"user","content":"x"}]`, 1)
		p.take(t, worker.ask(t, body, true))
		if want := []coin.Nano{42, 42 + 146}[i]; p.owed != want {
			t.Errorf("after %d answers %s is owed, want %s", i+1, p.owed, want)
		}
	}
	p.pay(t, books)
	if doc, err := books.Voucher(t.Context(), address("job").String()); err != nil || !strings.Contains(string(doc), `"188"`) {
		t.Errorf("the voucher is %s, %v", doc, err)
	}
}

// engineAPI is the interface of an engine that listens on a socket.
func engineAPI(tb testing.TB, socket string) *engine.API {
	tb.Helper()
	a, err := engine.AdapterFor(evidence.EngineLlamaServer)
	if err != nil {
		tb.Fatal(err)
	}
	return engine.NewAPI(a, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", socket) })
}

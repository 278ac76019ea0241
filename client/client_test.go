package client

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cocoon/gateway"
	"cocoon/gateway/tunnel"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/ratls"
	"cocoon/verifier/evidence"
)

// world is a real gateway and a real worker end on loopback; only the CPU
// evidence is made up, so the appraisal is the test's.
type world struct {
	t       *testing.T
	gwAddr  string
	gw      *gateway.Gateway
	tlsKey  *ecdsa.PrivateKey
	rcptKey ed25519.PrivateKey
	key     digest.SHA256
	ev      *evidence.Evidence
	doc     []byte
	further map[string][]byte // evidence for models beside m; nil: a release that knows one model
	life    time.Duration
	mux     *http.ServeMux
	leave   func() // takes the worker off the gateway
}

func newWorld(t *testing.T, change func(*world)) *world {
	t.Helper()
	w := &world{t: t, life: time.Hour, mux: http.NewServeMux()}
	var err error
	if w.tlsKey, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	_, w.rcptKey, _ = ed25519.GenerateKey(rand.Reader)
	copy(w.key[:], w.rcptKey.Public().(ed25519.PublicKey))
	spki, err := ratls.SPKIHash(w.tlsKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	v := evidence.Verity{Root: digest.Sum256([]byte("root")), DataBlocks: 1}
	w.ev = &evidence.Evidence{
		Profile:     evidence.Profile,
		Claims:      evidence.Claims{TLSSPKISHA256: spki, ReceiptKey: w.key, Model: evidence.Model{Name: "m", VerityRoot: v.Root}},
		Config:      evidence.Config{Version: 1, Role: evidence.RoleWorker, Model: evidence.ConfigModel{Name: "m", Verity: v}, Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Verity: v, Args: []string{}}, GPUs: evidence.ConfigGPUs{Mode: "none"}},
		NonceInputs: []digest.SHA256{digest.Sum256(nil)},
		CPU:         evidence.CPU{Type: evidence.TypeTPM, Quote: []byte("quote"), CertChain: [][]byte{}, RuntimeEvents: []evidence.RuntimeEvent{}},
		GPUs:        []evidence.GPU{},
	}
	if change != nil {
		change(w)
	}
	if w.doc, err = w.ev.Marshal(); err != nil {
		t.Fatal(err)
	}
	w.serve()
	return w
}

func (w *world) serve() {
	t := w.t
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	if w.gw == nil {
		w.startGateway(ctx)
	}
	offers := []tunnel.Offer{{Name: "m"}}
	for model := range w.further {
		offers = append(offers, tunnel.Offer{Name: model})
	}
	tun, err := tunnel.Dial(ctx, w.gwAddr, w.rcptKey, tunnel.State{Models: offers})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tun.Close() })
	w.mux.Handle(ratls.AttestationPath, ratls.Handler(func(model string) (ratls.Document, error) {
		if doc, ok := w.further[model]; ok {
			return ratls.Document{Evidence: doc, Verdict: "verdict of " + model, VerdictCell: "cell of " + model}, nil
		} else if w.further != nil && model != "" && model != "m" {
			return ratls.Document{}, ratls.ErrNoModel
		}
		return ratls.Document{Evidence: w.doc, Verdict: "verdict", VerdictCell: "cell"}, nil
	}, w.rcptKey))
	w.mux.HandleFunc("/v1/echo", func(rw http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		fmt.Fprintf(rw, "auth=%q timeout=%q body=%s", r.Header.Get("Authorization"), r.Header.Get(headerTimeout), b)
	})
	leaf, err := ratls.NewCertificate(w.tlsKey, w.doc, time.Now(), w.life)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: w.mux}
	go srv.Serve(tls.NewListener(tun, ratls.ServerConfig(func() (*tls.Certificate, error) { return leaf, nil })))
	t.Cleanup(func() { srv.Close() })
	w.listed(true)
	w.leave = func() {
		tun.Close()
		w.listed(false)
	}
}

func (w *world) startGateway(ctx context.Context) {
	cert, err := gateway.SelfSigned(time.Now())
	if err != nil {
		w.t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	w.gwAddr, w.gw = ln.Addr().String(), gateway.New(gateway.Options{Certificate: cert})
	go w.gw.Serve(ctx, ln)
}

// listed waits until the gateway lists the worker, or no more.
func (w *world) listed(want bool) {
	w.t.Helper()
	is := func() bool {
		return slices.ContainsFunc(w.gw.Workers(), func(l gateway.Worker) bool { return l.ReceiptKey == w.key })
	}
	for deadline := time.Now().Add(time.Minute); is() != want; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("listed by the gateway: %v, want %v", !want, want)
		}
	}
}

func (w *world) client(opt Options) *Client {
	opt.Gateway = w.gwAddr
	if opt.Appraise == nil {
		opt.Appraise = func(*evidence.Evidence, digest.SHA256) error { return nil }
	}
	c, err := New(opt)
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func TestClientReachesTheEnclaveThroughTheGateway(t *testing.T) {
	w := newWorld(t, nil)
	var appraised atomic.Int32
	c := w.client(Options{Model: "m", Appraise: func(ev *evidence.Evidence, spki digest.SHA256) error {
		appraised.Add(1)
		if ev.Claims.TLSSPKISHA256 != spki {
			t.Error("appraised evidence names another TLS key")
		}
		return nil
	}})
	srv := httptest.NewServer(NewProxy(c, c.Transport(), nil))
	defer srv.Close()
	req, _ := http.NewRequest("POST", srv.URL+"/v1/echo", strings.NewReader("hello"))
	req.Header.Set("Authorization", "Bearer secret")
	req.Header.Set(headerTimeout, "5000")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	body, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if got, want := string(body), `auth="" timeout="5000" body=hello`; got != want {
		t.Errorf("answer %q, want %q", got, want)
	}
	if appraised.Load() != 1 {
		t.Errorf("same evidence appraised %d times in one connection, want 1", appraised.Load())
	}
	p := c.Peer()
	if p == nil || p.Verdict != "verdict" || p.VerdictCell != "cell" || !bytes.Equal(p.Document, w.doc) {
		t.Errorf("peer %+v", p)
	}
}

func TestClientRefusesWhatIsNotTheWorkerItAskedFor(t *testing.T) {
	refused := fault.New(fault.ExitPolicy, "image.initrd", "", "initrd differs")
	for _, tc := range []struct {
		name   string
		change func(*world)
		opt    func(*world) Options
		code   string
	}{
		{name: "evidence for another TLS key", code: codeTLSKey,
			change: func(w *world) { w.ev.Claims.TLSSPKISHA256[0] ^= 1 }},
		{name: "evidence of another worker", code: codeWorkerKey,
			change: func(w *world) { w.ev.Claims.ReceiptKey[0] ^= 1 }},
		{name: "evidence that the policy refuses", code: "image.initrd",
			opt: func(*world) Options {
				return Options{Appraise: func(*evidence.Evidence, digest.SHA256) error { return refused }}
			}},
		{name: "an expired certificate", code: ratls.CodeExpired,
			opt: func(*world) Options {
				return Options{Clock: func() time.Time { return time.Now().Add(2 * time.Hour) }}
			}},
		{name: "unknown profile", code: "evidence.parse", change: func(w *world) { w.ev.Profile = "x" }},
		{name: "a worker that is not connected", code: "gateway.worker_absent",
			opt: func(w *world) Options { return Options{Worker: digest.Sum256([]byte("nobody"))} }},
		{name: "no worker for the model", code: codeNoWorker,
			opt: func(w *world) Options { return Options{Model: "other"} }},
	} {
		t.Run(tc.name, func(t *testing.T) {
			w := newWorld(t, tc.change)
			var opt Options
			if tc.opt != nil {
				opt = tc.opt(w)
			}
			c := w.client(opt)
			if _, err := c.Connect(context.Background()); !fault.Has(err, tc.code) {
				t.Fatalf("Connect: %v, want code %s", err, tc.code)
			}
			rec := httptest.NewRecorder()
			req := httptest.NewRequest("POST", "http://127.0.0.1/v1/echo", strings.NewReader("prompt"))
			NewProxy(c, c.Transport(), nil).ServeHTTP(rec, req)
			var e struct{ Error struct{ Code string } }
			if err := json.Unmarshal(rec.Body.Bytes(), &e); err != nil || e.Error.Code != tc.code || rec.Code < 400 {
				t.Errorf("proxy answered %d %s, want code %s", rec.Code, rec.Body, tc.code)
			}
		})
	}
}

func TestAttestationDoesNotMoveToAnotherConnection(t *testing.T) {
	// A relay that ends TLS itself with a stolen certificate key could pass
	// on the endpoint's answers; the exporter differs, so they do not verify.
	w := newWorld(t, nil)
	var stale atomic.Pointer[ratls.Response]
	inner := ratls.Handler(func(string) (ratls.Document, error) { return ratls.Document{Evidence: w.doc}, nil }, w.rcptKey)
	replay := http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		rec := httptest.NewRecorder()
		inner.ServeHTTP(rec, r)
		var resp ratls.Response
		if err := json.Unmarshal(rec.Body.Bytes(), &resp); err != nil {
			t.Errorf("reading attestation: %v", err)
		}
		if !stale.CompareAndSwap(nil, &resp) {
			resp = *stale.Load()
		}
		json.NewEncoder(rw).Encode(resp)
	})
	mux := http.NewServeMux()
	mux.Handle(ratls.AttestationPath, replay)
	before := w.gw.Workers()[0].Since
	tun, err := tunnel.Dial(context.Background(), w.gwAddr, w.rcptKey, tunnel.State{Models: []tunnel.Offer{{Name: "m"}}})
	if err != nil {
		t.Fatal(err)
	}
	defer tun.Close()
	for deadline := time.Now().Add(time.Minute); w.gw.Workers()[0].Since.Equal(before); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the worker's second tunnel did not replace the first")
		}
	}
	leaf, err := ratls.NewCertificate(w.tlsKey, w.doc, time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: mux}
	defer srv.Close()
	go srv.Serve(tls.NewListener(tun, ratls.ServerConfig(func() (*tls.Certificate, error) { return leaf, nil })))
	if _, err := w.client(Options{Worker: w.key}).Connect(context.Background()); err != nil {
		t.Fatalf("first connection: %v", err)
	}
	_, err = w.client(Options{Worker: w.key}).Connect(context.Background())
	if !fault.Has(err, ratls.CodeBinding) {
		t.Errorf("replayed attestation: %v, want %s", err, ratls.CodeBinding)
	}
}

func TestProxyIsForThisMachineOnly(t *testing.T) {
	w := newWorld(t, nil)
	c := w.client(Options{})
	h := NewProxy(c, c.Transport(), nil)
	for name, change := range map[string]func(*http.Request){
		"web page":      func(r *http.Request) { r.Header.Set("Origin", "https://example.org") },
		"rebound name":  func(r *http.Request) { r.Host = "evil.example:80" },
		"other address": func(r *http.Request) { r.Host = "192.0.2.1" },
	} {
		t.Run(name, func(t *testing.T) {
			req := httptest.NewRequest("POST", "http://127.0.0.1:8080/v1/echo", strings.NewReader("x"))
			change(req)
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, req)
			if rec.Code != http.StatusForbidden || !strings.Contains(rec.Body.String(), "proxy.origin") {
				t.Errorf("answered %d %s", rec.Code, rec.Body)
			}
		})
	}
}

func TestABusyConnectionIsAttestedAnewAfterAWhile(t *testing.T) {
	w := newWorld(t, nil)
	var appraised atomic.Int32
	var shift atomic.Int64
	c := w.client(Options{
		Appraise: func(*evidence.Evidence, digest.SHA256) error { appraised.Add(1); return nil },
		Clock:    func() time.Time { return time.Now().Add(time.Duration(shift.Load())) },
	})
	tr := c.Transport()
	defer tr.CloseIdleConnections()
	var dials []time.Time
	for _, after := range []time.Duration{0, 5 * time.Minute, 11 * time.Minute} {
		shift.Store(int64(after))
		req, _ := http.NewRequest("POST", "https://enclave/v1/echo", strings.NewReader("x"))
		resp, err := tr.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		dials = append(dials, c.Peer().VerifiedAt)
	}
	if !dials[0].Equal(dials[1]) {
		t.Error("a young connection was not used again")
	}
	if !dials[2].After(dials[1].Add(10 * time.Minute)) {
		t.Errorf("after eleven minutes the worker was last verified at %s, first at %s", dials[2], dials[0])
	}
}

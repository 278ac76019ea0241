// Package gateway is the blind relay between clients and workers. Workers
// dial in and hold a tunnel (package tunnel); a client sends
//
//	CONNECT <receipt key, 64 hex digits>:443
//
// and gets a stream to the worker with that key, over which it runs TLS to
// the enclave. The gateway sees ciphertext, sizes and times, and is trusted
// with nothing else. GET /v1/workers lists who is connected, apart those that
// drain.
package gateway

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sort"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"cocoon/gateway/tunnel"
	"cocoon/measurements/digest"
)

// Default limits of a gateway.
const (
	DefaultMaxWorkers          = 4096
	DefaultMaxStreamsPerWorker = 256
	DefaultIdleTimeout         = 10 * time.Minute
)

// Options configure a Gateway; zero values mean the defaults above.
type Options struct {
	Certificate         tls.Certificate // any certificate: peers do not rely on it
	MaxWorkers          int
	MaxStreamsPerWorker int
	IdleTimeout         time.Duration // of a relayed stream without traffic
	Clock               func() time.Time
	Log                 *slog.Logger
}

// Gateway relays streams. Use New.
type Gateway struct {
	opt Options
	mu  sync.Mutex
	wrk map[digest.SHA256]*worker
}

type worker struct {
	hello   tunnel.Hello
	sess    *yamux.Session
	since   time.Time
	streams int
	drains  bool
}

// Worker is one line of GET /v1/workers.
type Worker struct {
	ReceiptKey digest.SHA256  `json:"receipt_key"`
	Model      string         `json:"model"`  // the first of Models
	Models     []tunnel.Offer `json:"models"` // the worker's word; attestation and job decide
	Since      time.Time      `json:"since"`
	Streams    int            `json:"streams"`
	Draining   bool           `json:"draining,omitempty"` // takes no new requests; those that run finish
}

// New returns a Gateway.
func New(opt Options) *Gateway {
	if opt.MaxWorkers == 0 {
		opt.MaxWorkers = DefaultMaxWorkers
	}
	if opt.MaxStreamsPerWorker == 0 {
		opt.MaxStreamsPerWorker = DefaultMaxStreamsPerWorker
	}
	if opt.IdleTimeout == 0 {
		opt.IdleTimeout = DefaultIdleTimeout
	}
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	return &Gateway{opt: opt, wrk: map[digest.SHA256]*worker{}}
}

// Serve accepts connections on ln until ctx ends, then closes every tunnel.
func (g *Gateway) Serve(ctx context.Context, ln net.Listener) error {
	srv := &http.Server{
		Handler:           g,
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(g.opt.Log.Handler(), slog.LevelDebug),
		TLSNextProto:      map[string]func(*http.Server, *tls.Conn, http.Handler){},
	}
	for _, version := range tunnel.ALPN() {
		srv.TLSNextProto[version] = func(_ *http.Server, c *tls.Conn, _ http.Handler) { g.serveWorker(c) }
	}
	tln := tls.NewListener(ln, &tls.Config{
		MinVersion:   tls.VersionTLS13,
		Certificates: []tls.Certificate{g.opt.Certificate},
		NextProtos:   append(tunnel.ALPN(), "http/1.1"),
	})
	stop := context.AfterFunc(ctx, func() {
		srv.Close()
		g.mu.Lock()
		defer g.mu.Unlock()
		for _, w := range g.wrk {
			w.sess.Close()
		}
	})
	defer stop()
	err := srv.Serve(tln)
	if errors.Is(err, http.ErrServerClosed) && ctx.Err() != nil {
		return nil
	}
	return err
}

func (g *Gateway) serveWorker(c *tls.Conn) {
	defer c.Close()
	h, sess, err := tunnel.Accept(c, g.admit)
	if err != nil {
		g.opt.Log.Info("worker refused", "remote", c.RemoteAddr().String(), "err", err)
		return
	}
	w := &worker{hello: h, sess: sess, since: g.opt.Clock().UTC(), drains: h.Draining}
	g.mu.Lock()
	old := g.wrk[h.ReceiptKey]
	if old == nil && len(g.wrk) >= g.opt.MaxWorkers {
		g.mu.Unlock() // others came while this one was being answered
		sess.Close()
		return
	}
	g.wrk[h.ReceiptKey] = w
	g.mu.Unlock()
	if old != nil {
		// The key's holder came back, after a cut line, say: it has proven
		// the key anew, so the new tunnel wins.
		old.sess.Close()
	}
	g.opt.Log.Info("worker connected", "receipt_key", h.ReceiptKey.String(), "models", names(h.Models), "draining", h.Draining)
	var heard func(draining bool)
	if c.ConnectionState().NegotiatedProtocol == tunnel.ALPN2 {
		heard = func(draining bool) { g.drains(w, draining) }
	}
	if err := tunnel.Notices(sess, heard); err != nil {
		g.opt.Log.Info("worker cut off", "receipt_key", h.ReceiptKey.String(), "err", err)
		sess.Close()
	}
	<-sess.CloseChan()
	g.mu.Lock()
	if g.wrk[h.ReceiptKey] == w {
		delete(g.wrk, h.ReceiptKey)
	}
	g.mu.Unlock()
	g.opt.Log.Info("worker gone", "receipt_key", h.ReceiptKey.String())
}

// drains notes what a worker says of itself: the tunnel on which it comes is the
// one on which the key was proven, so that nobody speaks for another worker. Any
// worker may say it as often as it likes: the log is not to grow with it.
func (g *Gateway) drains(w *worker, draining bool) {
	g.mu.Lock()
	w.drains = draining
	g.mu.Unlock()
	g.opt.Log.Debug("worker", "receipt_key", w.hello.ReceiptKey.String(), "draining", draining)
}

func names(offers []tunnel.Offer) []string {
	out := make([]string, len(offers))
	for i, o := range offers {
		out[i] = o.Name
	}
	return out
}

func (g *Gateway) admit(h tunnel.Hello) (code, reason string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, again := g.wrk[h.ReceiptKey]; !again && len(g.wrk) >= g.opt.MaxWorkers {
		return "gateway.full", "the gateway holds as many workers as it may"
	}
	return "", ""
}

// Workers lists the connected workers, those that drain too, by receipt key.
func (g *Gateway) Workers() []Worker {
	g.mu.Lock()
	defer g.mu.Unlock()
	list := make([]Worker, 0, len(g.wrk))
	for k, w := range g.wrk {
		list = append(list, Worker{k, w.hello.Model, w.hello.Models, w.since, w.streams, w.drains})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].ReceiptKey.String() < list[j].ReceiptKey.String() })
	return list
}

// list is the answer to GET /v1/workers. Workers that drain stand apart, so that
// a client of any version chooses among the others alone. CONNECT reaches them
// still: the enclave itself refuses new requests (worker.draining), and clients
// fetch receipts and bring vouchers of what ran.
func (g *Gateway) list() map[string][]Worker {
	list := map[string][]Worker{"workers": {}, "draining": {}}
	for _, w := range g.Workers() {
		name := "workers"
		if w.Draining {
			name = "draining"
		}
		list[name] = append(list[name], w)
	}
	return list
}

// ServeHTTP answers CONNECT, GET /v1/workers and GET /healthz.
func (g *Gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodConnect:
		g.connect(w, r)
	case r.Method == http.MethodGet && r.URL.Path == "/v1/workers":
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(g.list())
	case r.Method == http.MethodGet && r.URL.Path == "/healthz":
		_, _ = io.WriteString(w, "ok\n")
	default:
		problem(w, http.StatusNotFound, "gateway.not_found", "the gateway knows CONNECT, GET /v1/workers and GET /healthz")
	}
}

func (g *Gateway) connect(w http.ResponseWriter, r *http.Request) {
	key, err := digest.Parse256(strings.TrimSuffix(r.Host, ":443"))
	if err != nil {
		problem(w, http.StatusBadRequest, "gateway.target", "CONNECT wants <receipt key, 64 hex digits>:443")
		return
	}
	wk, stream, code, reason := g.open(key)
	if wk == nil {
		problem(w, http.StatusBadGateway, code, reason)
		return
	}
	defer g.release(wk)
	defer stream.Close()
	hj, ok := w.(http.Hijacker)
	if !ok {
		problem(w, http.StatusInternalServerError, "gateway.protocol", "CONNECT works over HTTP/1.1 only")
		return
	}
	conn, buf, err := hj.Hijack()
	if err != nil {
		return
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		return
	}
	relay(conn, buf.Reader, stream, g.opt.IdleTimeout)
}

func (g *Gateway) open(key digest.SHA256) (*worker, net.Conn, string, string) {
	g.mu.Lock()
	wk := g.wrk[key]
	if wk == nil {
		g.mu.Unlock()
		return nil, nil, "gateway.worker_absent", "no worker with this receipt key is connected"
	}
	if wk.streams >= g.opt.MaxStreamsPerWorker {
		g.mu.Unlock()
		return nil, nil, "gateway.worker_busy", "the worker has as many connections as it may"
	}
	wk.streams++
	g.mu.Unlock()
	s, err := wk.sess.Open()
	if err != nil {
		g.release(wk)
		return nil, nil, "gateway.worker_absent", "the worker's tunnel is closing"
	}
	return wk, s, "", ""
}

func (g *Gateway) release(wk *worker) {
	g.mu.Lock()
	defer g.mu.Unlock()
	wk.streams--
}

// grace is how long a client may go on sending after the worker has closed.
const grace = 30 * time.Second

// relay copies both ways until both directions have ended, or nothing moved
// in either for idle. A client that has finished sending still gets its
// answer.
func relay(client net.Conn, fromClient io.Reader, stream net.Conn, idle time.Duration) {
	touch := func() {
		until := time.Now().Add(idle)
		_ = client.SetReadDeadline(until)
		_ = stream.SetReadDeadline(until)
	}
	touch()
	var wg sync.WaitGroup
	wg.Add(2)
	go func() {
		defer wg.Done()
		copyAll(stream, fromClient, idle, touch)
		_ = stream.Close() // yamux: ends our direction, the worker's goes on
	}()
	go func() {
		defer wg.Done()
		copyAll(client, stream, idle, touch)
		if cw, ok := client.(interface{ CloseWrite() error }); ok {
			_ = cw.CloseWrite()
		}
		_ = client.SetReadDeadline(time.Now().Add(grace))
	}()
	wg.Wait()
}

func copyAll(dst net.Conn, src io.Reader, idle time.Duration, touch func()) {
	buf := make([]byte, 32<<10)
	for {
		n, err := src.Read(buf)
		if n > 0 {
			touch()
			if dst.SetWriteDeadline(time.Now().Add(idle)) != nil {
				return
			}
			if _, werr := dst.Write(buf[:n]); werr != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

func problem(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{
		"type": "about:blank", "title": http.StatusText(status), "status": status, "code": code, "detail": detail,
	})
}

// Package serve is the worker's HTTP surface inside the enclave: the OpenAI
// API for the machine's models, attestation, and the exchange of receipts and vouchers.
// In come requests over TLS that ends here; out go filtered requests to the
// engine, metered streams to the client, and nothing to any log that tells
// what was said.
package serve

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"cocoon/enclave/queue"
	"cocoon/measurements/digest"
	"cocoon/ratls"
)

// Paths of the OpenAI surface. The first three are those that reach an engine,
// each only if the engine offers it.
const (
	PathChat        = "/v1/chat/completions"
	PathCompletions = "/v1/completions"
	PathEmbeddings  = "/v1/embeddings"
	pathModels      = "/v1/models"
	pathHealth      = "/healthz"
)

// Limits and defaults.
const (
	DefaultMaxRequests = 8                // that run at a time
	DefaultMaxWaiting  = 32               // that wait for one of these to end
	DefaultMaxPerJob   = 8                // of one job that wait
	DefaultTimeout     = 10 * time.Minute // of one request, from first byte to last
	DefaultMaxHeld     = 64 << 20         // bytes of all requests' bodies
	bodyTimeout        = 30 * time.Second // for a request's body to come
	writeTimeout       = 30 * time.Second // for a client to take a piece of its answer
	maxHeader          = 16 << 10
	maxVoucher         = 16 << 10
)

// Options of a Server.
type Options struct {
	Model       string
	Created     time.Time         // when the model came up
	Engine      http.RoundTripper // the engine's HTTP interface
	Further     []Model           // served beside Model, by engines of the same kind
	Endpoints   []string          // paths that the engine offers, nil for chat and completions
	Private     string            // members that every request to the engine has, none of which a client may set
	Attestation http.Handler      // of ratls.AttestationPath
	Gate        func() error      // nil while the worker may serve
	Ledger      Ledger            // nil without a ledger
	MaxRequests int               // requests that run at a time, 0 for DefaultMaxRequests
	MaxWaiting  int               // requests that wait, 0 for DefaultMaxWaiting
	MaxPerJob   int               // requests of one job that wait, 0 for DefaultMaxPerJob
	MaxHeld     int64             // bytes of bodies in memory, 0 for DefaultMaxHeld
	Timeout     time.Duration     // 0 for DefaultTimeout; a client may ask for less
	Clock       func() time.Time
	Meter       Meter
	Log         *slog.Logger
}

// Model is a further model and its engine.
type Model struct {
	Name   string
	Engine http.RoundTripper
}

// Meter counts what was served.
type Meter interface {
	Begin()
	Waiting(change int) // requests that wait for others to end
	End(endpoint string, status int, u Usage, took time.Duration)
	Refused(code string)
}

// Server serves the surface. Use New.
type Server struct {
	opt   Options
	names []string                     // of the models, in order
	model map[string]http.RoundTripper // engine of each
	queue *queue.Queue
	mux   *http.ServeMux

	mu    sync.Mutex
	held  int64           // bytes of bodies in memory
	usual time.Duration   // what a request takes, roughly
	cut   context.Context // ends when running requests are cut off
	cutFn context.CancelFunc
}

// New returns a Server.
func New(opt Options) (*Server, error) {
	if opt.Engine == nil || opt.Attestation == nil || opt.Gate == nil || opt.Meter == nil || opt.Model == "" {
		return nil, errors.New("making server: model, engine, attestation, gate and meter are needed")
	}
	if opt.Endpoints == nil {
		opt.Endpoints = []string{PathChat, PathCompletions}
	}
	opt.MaxRequests = cmp.Or(opt.MaxRequests, DefaultMaxRequests)
	opt.MaxWaiting = cmp.Or(opt.MaxWaiting, DefaultMaxWaiting)
	opt.MaxPerJob = cmp.Or(opt.MaxPerJob, DefaultMaxPerJob)
	opt.MaxHeld = cmp.Or(opt.MaxHeld, DefaultMaxHeld)
	opt.Timeout = cmp.Or(opt.Timeout, DefaultTimeout)
	if opt.Clock == nil {
		opt.Clock = time.Now
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opt: opt, mux: http.NewServeMux(), queue: queue.New(queue.Options{
		Slots: opt.MaxRequests, Waiting: opt.MaxWaiting, PerKey: opt.MaxPerJob,
	})}
	s.model = make(map[string]http.RoundTripper, 1+len(opt.Further))
	for _, m := range append([]Model{{opt.Model, opt.Engine}}, opt.Further...) {
		if m.Name == "" || m.Engine == nil || s.model[m.Name] != nil {
			return nil, fmt.Errorf("making server: model %q is there twice, or has no engine", m.Name)
		}
		s.names, s.model[m.Name] = append(s.names, m.Name), m.Engine
	}
	s.cut, s.cutFn = context.WithCancel(context.Background())
	s.mux.Handle(ratls.AttestationPath, opt.Attestation)
	s.mux.HandleFunc("GET "+pathHealth, s.health)
	s.mux.HandleFunc("GET "+pathModels, s.models)
	for _, path := range opt.Endpoints {
		switch path {
		case PathChat, PathCompletions, PathEmbeddings:
			s.mux.HandleFunc("POST "+path, func(w http.ResponseWriter, r *http.Request) { s.generate(w, r, path) })
		default: // an engine's own routes show prompts and change what it runs
			return nil, fmt.Errorf("making server: %s is no endpoint of the OpenAI surface", path)
		}
	}
	if opt.Ledger != nil {
		s.mux.HandleFunc("POST "+PathVoucher, s.acceptVoucher)
		s.mux.HandleFunc("GET "+PathVoucher, s.voucher)
		s.mux.HandleFunc("GET "+PathReceipt, s.receipt)
	}
	s.mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		s.refuse(w, &apiError{status: http.StatusNotFound, kind: "invalid_request_error", code: "request.not_found", message: "the worker has no such endpoint"})
	})
	return s, nil
}

// Serve answers connections of ln, which must be TLS, until ctx ends; requests
// in flight get grace to finish.
func (s *Server) Serve(ctx context.Context, ln net.Listener, grace time.Duration) error {
	srv := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 15 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// A bound for all answers; streams set a closer one for each event,
		// which the next request on the connection must not inherit.
		WriteTimeout:   s.opt.Timeout + bodyTimeout + writeTimeout,
		MaxHeaderBytes: maxHeader,
		ConnContext:    withConn,
		// net/http names peers and malformed input here; neither belongs in
		// a log.
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		sctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), grace)
		defer cancel()
		if srv.Shutdown(sctx) != nil {
			srv.Close()
		}
	})
	err := srv.Serve(ln)
	if !stop() {
		<-stopped
	}
	if errors.Is(err, http.ErrServerClosed) {
		return nil
	}
	return err
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	s.mux.ServeHTTP(w, r)
}

func (s *Server) refuse(w http.ResponseWriter, e *apiError) {
	s.opt.Meter.Refused(e.code)
	e.write(w)
}

func (s *Server) health(w http.ResponseWriter, _ *http.Request) {
	if apiErr := s.open(); apiErr != nil {
		s.refuse(w, apiErr)
		return
	}
	_, _ = io.WriteString(w, "ok\n")
}

func (s *Server) models(w http.ResponseWriter, _ *http.Request) {
	if apiErr := s.open(); apiErr != nil {
		s.refuse(w, apiErr)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	var list []map[string]any
	for _, name := range s.names {
		list = append(list, map[string]any{"id": name, "object": "model", "created": s.opt.Created.Unix(), "owned_by": "cocoon"})
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"object": "list", "data": list})
}

func (s *Server) acceptVoucher(w http.ResponseWriter, r *http.Request) {
	doc, apiErr := readBody(w, r, maxVoucher, io.Discard)
	if apiErr != nil {
		s.refuse(w, apiErr)
		return
	}
	answer, err := s.opt.Ledger.Accept(r.Context(), doc)
	s.answer(w, answer, err)
}

// voucher answers GET PathVoucher?job=ADDRESS.
func (s *Server) voucher(w http.ResponseWriter, r *http.Request) {
	answer, err := s.opt.Ledger.Voucher(r.Context(), r.URL.Query().Get("job"))
	s.answer(w, answer, err)
}

// receipt answers GET PathReceipt?job=ADDRESS&request=SHA256[&before=SEQ].
func (s *Server) receipt(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	answer, err := s.opt.Ledger.Receipt(r.Context(), q.Get("job"), q.Get("request"), q.Get("before"))
	s.answer(w, answer, err)
}

func (s *Server) answer(w http.ResponseWriter, doc []byte, err error) {
	if err != nil {
		s.refuse(w, fromFault(err))
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(doc)
}

// readBody reads a request's body, with a limit and a deadline. All that is
// read is also written to seen, which may refuse it.
func readBody(w http.ResponseWriter, r *http.Request, limit int, seen io.Writer) ([]byte, *apiError) {
	rc := http.NewResponseController(w)
	// A connection that cannot take a deadline has its own limits.
	_ = rc.SetReadDeadline(time.Now().Add(bodyTimeout))
	defer func() { _ = rc.SetReadDeadline(time.Time{}) }()
	b, err := io.ReadAll(io.TeeReader(http.MaxBytesReader(w, r.Body, int64(limit)), seen))
	if err == nil {
		return b, nil
	}
	if errors.Is(err, errHeld) {
		return nil, &apiError{status: http.StatusTooManyRequests, kind: "rate_limit_error", code: "worker.busy", message: errHeld.Error() + "; try again"}
	}
	var tooLarge *http.MaxBytesError
	if errors.As(err, &tooLarge) {
		return nil, &apiError{status: http.StatusRequestEntityTooLarge, kind: "invalid_request_error", code: "request.too_large", message: "the body is too large"}
	}
	return nil, badRequest(codeMalformed, "", "the body could not be read")
}

// hashing counts and hashes what is written.
type hashing struct {
	w   io.Writer
	sum interface {
		io.Writer
		Sum([]byte) []byte
	}
	n int64
}

// Write implements io.Writer: what the client is sent is hashed.
func (h *hashing) Write(p []byte) (int, error) {
	n, err := h.w.Write(p)
	_, _ = h.sum.Write(p[:n]) // hash.Hash never fails
	h.n += int64(n)
	return n, err
}

func (h *hashing) digest() digest.SHA256 { return digest.SHA256(h.sum.Sum(nil)) }

package serve

import (
	"context"
	"errors"
	"math"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"cocoon/enclave/queue"
)

// Why a request ends before its answer does.
var (
	errDeadline = errors.New("the request's time is over")
	errCut      = errors.New("the worker drains")
	errGone     = errors.New("the client takes no more of its answer")
	errHeld     = errors.New("the worker has as many requests in memory as it may")
)

// connKey is the context key of a connection's name.
type connKey struct{}

var conns atomic.Uint64

// withConn names each connection: who pays for nothing waits as one client for
// each connection.
func withConn(ctx context.Context, _ net.Conn) context.Context {
	return context.WithValue(ctx, connKey{}, "connection "+strconv.FormatUint(conns.Add(1), 10))
}

// open says whether the worker takes requests.
func (s *Server) open() *apiError {
	if s.queue.Closed() {
		return draining()
	}
	if err := s.opt.Gate(); err != nil {
		return unavailable("worker.paused", "the worker is not serving")
	}
	return nil
}

func draining() *apiError {
	e := unavailable("worker.draining", "the worker takes no more requests; choose another one")
	e.retry = 30
	return e
}

func (s *Server) busy(code, message string) *apiError {
	return &apiError{status: http.StatusTooManyRequests, kind: "rate_limit_error", code: code, message: message, retry: s.retryAfter()}
}

// retryAfter guesses in seconds when a request that is turned away now would
// find a place: when those before it have had their turn.
func (s *Server) retryAfter() int {
	_, waiting := s.queue.Load()
	s.mu.Lock()
	usual := s.usual
	s.mu.Unlock()
	rounds := float64(waiting+1) / float64(s.opt.MaxRequests)
	return int(min(60, max(1, math.Ceil(rounds*usual.Seconds()))))
}

// took learns what a request usually takes.
func (s *Server) took(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.usual == 0 {
		s.usual = d
	}
	s.usual += (d - s.usual) / 8
}

// holding is the room that one request's body takes: bodies are read before
// anybody is known to pay, so what they take together is bounded. Room is
// taken as bytes come, not as they are announced: an announcement costs its
// client nothing.
type holding struct {
	s *Server
	n int64
}

// Write takes room for what was read.
func (h *holding) Write(p []byte) (int, error) {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	if h.s.held+int64(len(p)) > h.s.opt.MaxHeld {
		return 0, errHeld
	}
	h.s.held += int64(len(p))
	h.n += int64(len(p))
	return len(p), nil
}

func (h *holding) release() {
	h.s.mu.Lock()
	defer h.s.mu.Unlock()
	h.s.held -= h.n
}

// bounded returns the context of a request: it ends when the client is gone,
// when the time is over that the client or the worker gives the request, and
// when the worker cuts off what runs. Its cause says which.
func (s *Server) bounded(r *http.Request) (ctx context.Context, cancel context.CancelCauseFunc, apiErr *apiError) {
	limit := s.opt.Timeout
	if text := r.Header.Get(HeaderTimeout); text != "" {
		ms, err := strconv.ParseUint(text, 10, 32)
		if err != nil || ms == 0 {
			return nil, nil, badRequest(codeValue, HeaderTimeout, "the header "+HeaderTimeout+" is no number of milliseconds")
		}
		limit = min(limit, time.Duration(ms)*time.Millisecond)
	}
	s.mu.Lock()
	cut := s.cut
	s.mu.Unlock()
	timed, stopTimer := context.WithTimeoutCause(r.Context(), limit, errDeadline)
	ctx, cancelCause := context.WithCancelCause(timed)
	unhook := context.AfterFunc(cut, func() { cancelCause(errCut) })
	return ctx, func(cause error) { unhook(); cancelCause(cause); stopTimer() }, nil
}

// ended says why a request's context ended.
func ended(ctx context.Context) *apiError {
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDeadline):
		return &apiError{status: http.StatusGatewayTimeout, kind: "server_error", code: "request.deadline", message: "the request's time is over"}
	case errors.Is(cause, errCut):
		return draining()
	default:
		return &apiError{status: statusGone, kind: "invalid_request_error", code: "request.cancelled", message: "the client hung up"}
	}
}

// statusGone is counted for clients that hung up before the answer's first
// byte; nobody sees it.
const statusGone = 499

// wait returns when it is the request's turn: jobs take turns, and without a
// ledger connections do.
func (s *Server) wait(ctx context.Context, c *call) (release func(), apiErr *apiError) {
	key, _ := ctx.Value(connKey{}).(string)
	if c.account != nil {
		key = c.account.Job()
	}
	s.opt.Meter.Waiting(1)
	release, err := s.queue.Acquire(ctx, key)
	s.opt.Meter.Waiting(-1)
	switch {
	case err == nil:
		return release, nil
	case errors.Is(err, queue.ErrClosed):
		return nil, draining()
	case errors.Is(err, queue.ErrFull):
		return nil, s.busy("worker.busy", "the worker has as many requests as it may; try again")
	case errors.Is(err, queue.ErrKeyFull):
		return nil, s.busy("job.busy", "as many requests of this job wait as may; try again when one has ended")
	default:
		return nil, ended(ctx)
	}
}

// Drain takes no more requests and sends the waiting ones away; those that
// run go on. Receipts, vouchers and attestation go on, too.
func (s *Server) Drain() { s.queue.Close() }

// Resume takes requests again.
func (s *Server) Resume() {
	s.mu.Lock()
	if s.cut.Err() != nil {
		s.cut, s.cutFn = context.WithCancel(context.Background())
	}
	s.mu.Unlock()
	s.queue.Open()
}

// CutOff ends the requests that run. Their clients get what was delivered,
// and its receipt. It is for a server that drains.
func (s *Server) CutOff() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutFn()
}

// Load returns how many requests run and wait.
func (s *Server) Load() (running, waiting int) { return s.queue.Load() }

// Idle returns once no request runs, or with ctx's error.
func (s *Server) Idle(ctx context.Context) error { return s.queue.Idle(ctx) }

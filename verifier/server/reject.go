package server

import (
	"maps"
	"net/http"
	"time"

	"connectrpc.com/connect"

	"cocoon/internal/fault"
	"cocoon/verifier/wire"
)

// rejection is an answer to requests that are not looked at. In the Connect
// protocol's unary form, which most are in, it is the same for all of them and
// made beforehand: under overload it is what the service says most, and what it
// costs is missing to those who were let in.
type rejection struct {
	err    error
	code   string
	header http.Header
	body   []byte
}

func newRejection(err error) *rejection {
	r := &rejection{err: err, code: fault.All(err)[0].Code}
	req := &http.Request{Method: http.MethodPost, Header: http.Header{"Content-Type": {"application/json"}}}
	w := &written{header: http.Header{}}
	if connect.NewErrorWriter().Write(w, req, wire.Error(err)) == nil && w.status == http.StatusTooManyRequests {
		r.header, r.body = w.header, w.body
	}
	return r
}

// written is an http.ResponseWriter that keeps what is written.
type written struct {
	header http.Header
	status int
	body   []byte
}

// Header implements http.ResponseWriter.
func (w *written) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *written) WriteHeader(status int) { w.status = status }

// Write implements http.ResponseWriter.
func (w *written) Write(b []byte) (int, error) {
	w.body = append(w.body, b...)
	return len(b), nil
}

// Who repeats at once, whatever Retry-After says, would be answered many thousand
// times a second, on the processors that those who were let in are waiting for: an
// answer costs a fifth of a verdict. So it comes after a moment, and to many in turn, at
// a pace; who finds maxPaused that wait for theirs is answered at once. That is for HTTP/1,
// where it holds the caller's connection, and his evidence is where the system keeps
// what was not read; on HTTP/2 it would hold neither.
const (
	leastPause   = 20 * time.Millisecond
	turnAwayEach = 500 * time.Microsecond // of each CPU
	maxPaused    = 4096
)

// enter takes a place, which admission.leave gives back. Who finds none is to be
// turned away: his moment is over. Package http notices no hang-up during it.
func (s *Server) enter(r *http.Request) bool {
	if s.admission.enter() {
		return true
	}
	if r.ProtoMajor != 1 {
		return false
	}
	if s.paused.Add(1) <= maxPaused {
		s.wait(max(leastPause, s.turns.Reserve().Delay()))
	}
	s.paused.Add(-1)
	return false
}

// turnAway answers without reading the request.
func (s *Server) turnAway(w http.ResponseWriter, r *http.Request, why string, with *rejection) {
	s.metrics.turned.WithLabelValues(why).Inc()
	s.metrics.refused(method(r.URL.Path), with.code)
	unary := r.Method == http.MethodPost && (r.Header.Get("Content-Type") == "application/proto" || r.Header.Get("Content-Type") == "application/json")
	switch {
	case unary && with.body != nil:
		maps.Copy(w.Header(), with.header)
		w.WriteHeader(http.StatusTooManyRequests)
		_, _ = w.Write(with.body) // an error here is the peer's hang-up
	case !s.errors.IsSupported(r):
		w.Header().Set("Retry-After", "1")
		s.writeProblem(w, r, http.StatusTooManyRequests, with.err)
	default:
		_ = s.errors.Write(w, r, wire.Error(with.err)) // likewise
	}
}

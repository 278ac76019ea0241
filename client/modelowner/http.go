package modelowner

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"

	"cocoon/internal/fault"
	"cocoon/ratls/modelkey"
	"cocoon/verifier/wire"
)

// DefaultConcurrent is how many requests for a key are read and appraised at a
// time; others are told to come again.
const DefaultConcurrent = 8

// perCaller is how many of these one caller may have.
const perCaller = DefaultConcurrent / 2

// Handler serves the exchange, and GET /healthz.
func (w *Owner) Handler() http.Handler {
	slots := &places{of: map[netip.Prefix]int{}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(rw http.ResponseWriter, _ *http.Request) { write(rw, http.StatusOK, "text/plain", []byte("ok\n")) })
	mux.HandleFunc("POST "+modelkey.PathChallenge, func(rw http.ResponseWriter, r *http.Request) {
		w.serve(rw, r, modelkey.MaxHello, w.Offer)
	})
	mux.HandleFunc("POST "+modelkey.PathRelease, func(rw http.ResponseWriter, r *http.Request) {
		// Before the body is read: it may be large.
		leave, ok := slots.enter(r.RemoteAddr)
		if !ok {
			rw.Header().Set("Retry-After", "2")
			w.refuse(rw, r, fault.New(fault.ExitNetwork, modelkey.CodeBusy, "ask again in some seconds", "releasing a key: %d requests are under way, or %d of this caller's", DefaultConcurrent, perCaller))
			return
		}
		defer leave()
		from, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil {
			from = r.RemoteAddr
		}
		w.serve(rw, r, modelkey.MaxAsk, func(b []byte) ([]byte, error) { return w.Release(r.Context(), b, from) })
	})
	return mux
}

func (w *Owner) serve(rw http.ResponseWriter, r *http.Request, limit int64, answer func([]byte) ([]byte, error)) {
	body, err := io.ReadAll(http.MaxBytesReader(rw, r.Body, limit))
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		w.refuse(rw, r, fault.New(fault.ExitParse, modelkey.CodeMessage, "use releases that know the same exchange on both sides", "reading message: more than %d bytes", limit))
		return
	case err != nil:
		return // whoever asked has gone
	}
	out, err := answer(body)
	if err != nil {
		w.refuse(rw, r, err)
		return
	}
	write(rw, http.StatusOK, "application/json", out)
}

// status says by an exit code whether it is worth trying again: 5xx is.
func status(err error) int {
	switch fault.ExitCode(err) {
	case fault.ExitParse:
		return http.StatusBadRequest
	case fault.ExitRefused, fault.ExitPolicy:
		return http.StatusForbidden
	case fault.ExitNetwork, fault.ExitNotReady:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}

// refuse answers with an error (RFC 9457), and logs it. What is not a fault is
// internal: the log learns what.
func (w *Owner) refuse(rw http.ResponseWriter, r *http.Request, err error) {
	w.o.Log.WarnContext(r.Context(), "not released", "from", r.RemoteAddr, "path", r.URL.Path, "err", err)
	code := status(err)
	p := wire.Problem{Status: code, Title: http.StatusText(code), Code: "internal", Faults: []wire.Fault{}}
	for _, f := range fault.All(err) {
		p.Faults = append(p.Faults, wire.Fault{Code: f.Code, Message: f.Msg, Expected: f.Expected, Actual: f.Actual, Remedy: f.Remedy, Exit: f.Exit})
	}
	if len(p.Faults) > 0 {
		p.Code, p.Detail = p.Faults[0].Code, p.Faults[0].Message
	}
	p.Type = "urn:cocoon:problem:" + p.Code
	b, err := json.Marshal(p)
	if err != nil {
		code, b = http.StatusInternalServerError, []byte("{}")
	}
	write(rw, code, "application/problem+json", b)
}

func write(rw http.ResponseWriter, status int, kind string, b []byte) {
	rw.Header().Set("Content-Type", kind)
	rw.Header().Set("Cache-Control", "no-store")
	rw.Header().Set("X-Content-Type-Options", "nosniff")
	rw.WriteHeader(status)
	_, _ = rw.Write(b) // who asked has gone; there is nobody to tell
}

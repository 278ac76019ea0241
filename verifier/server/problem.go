package server

import (
	"encoding/json"
	"net/http"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// writeProblem answers with an error (RFC 9457). What is not a fault is
// internal: the client learns that, the log learns what.
func (s *Server) writeProblem(w http.ResponseWriter, r *http.Request, status int, err error) {
	s.writeProblemOf(w, r, status, err, nil)
}

// writeProblemOf also has the result of what was refused, where there is one.
func (s *Server) writeProblemOf(w http.ResponseWriter, r *http.Request, status int, err error, refused *result.Result) {
	p := wire.Problem{Status: status, Title: http.StatusText(status), Code: "internal", Faults: []wire.Fault{}, Result: refused}
	for _, f := range fault.All(err) {
		if len(p.Faults) == 0 {
			p.Code = f.Code
		}
		p.Faults = append(p.Faults, wire.FaultOf(f))
	}
	if len(p.Faults) == 0 {
		s.log.ErrorContext(r.Context(), "request failed", "path", r.URL.Path, "error", err)
	} else {
		p.Detail = p.Faults[0].Message
	}
	p.Type = "urn:cocoon:problem:" + p.Code
	w.Header().Set("Content-Type", "application/problem+json")
	writeBody(w, status, p)
}

func writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	writeBody(w, http.StatusOK, v)
}

func writeBody(w http.ResponseWriter, status int, v any) {
	b, err := json.Marshal(v)
	if err != nil {
		w.Header().Set("Content-Type", "text/plain")
		status, b = http.StatusInternalServerError, []byte("encoding answer failed")
	}
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	_, _ = w.Write(b) // the client has gone; there is nobody to tell
}

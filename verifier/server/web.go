package server

import (
	"context"
	"crypto/ed25519"
	"net/http"

	verifierv1 "cocoon/api/verifier/v1"
	"cocoon/verifier/jwks"
	"cocoon/verifier/page"
	"cocoon/verifier/result"
	"cocoon/verifier/wire"
)

// web adds what is served beside the API's methods.
func (s *Server) web() {
	s.get(wire.PathInfo, func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeout(r.Context(), ownWait)
		defer cancel()
		info, err := s.describe(ctx)
		if err != nil { // the description goes without, or with what was: it is for whoever asks to want it
			s.log.ErrorContext(r.Context(), "no new evidence of its own", "error", err)
		}
		writeJSON(w, info)
	})
	s.get(wire.PathJWKS, s.getJWKS)
	s.get(wire.PathOpenAPI, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		_, _ = w.Write([]byte(verifierv1.OpenAPI)) // an error here is the peer's hang-up
	})
	s.get(wire.PathChecks, func(w http.ResponseWriter, _ *http.Request) { writeJSON(w, result.References()) })
	s.mux.HandleFunc("GET "+wire.PathHealth, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]string{"status": "ok"})
	})
	s.mux.HandleFunc("GET "+wire.PathReady, s.getReady)
	s.mux.Handle("GET "+wire.PathMetrics, s.metrics.handler())
	s.mux.HandleFunc("POST "+wire.PathMAA, s.attestTDX)
	s.serveLog()
	page.Register(limitedMux{s})
}

// limitedMux registers handlers within the caller's rate.
type limitedMux struct{ s *Server }

// Handle implements page.Mux.
func (m limitedMux) Handle(pattern string, h http.Handler) {
	m.s.mux.Handle(pattern, m.s.Limited("page", h))
}

// get serves a document within the caller's rate.
func (s *Server) get(path string, h http.HandlerFunc) {
	s.mux.Handle("GET "+path, s.Limited(path, h))
}

// Limited holds callers of a handler to their rate, which is one for all that the
// service does for them. label names it in metrics.
func (s *Server) Limited(label string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.metrics.requests.WithLabelValues(label).Inc()
		if !s.admit(r) {
			w.Header().Set("Retry-After", "1")
			s.metrics.turned.WithLabelValues(turnedRate).Inc()
			s.metrics.refused(label, wire.CodeRateLimited)
			s.writeProblem(w, r, http.StatusTooManyRequests, errTooManyRequests)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// getJWKS answers with the keys that verify verdicts (RFC 7517, section 5): the
// one that signs, those that will, and those whose verdicts are still good.
func (s *Server) getJWKS(w http.ResponseWriter, _ *http.Request) {
	var keys []ed25519.PublicKey
	for _, k := range s.trust.Load().published(s.o.Clock()) {
		keys = append(keys, k.public)
	}
	writeJSON(w, jwks.Of(keys...))
}

// getReady says whether requests are to be sent here: not while the service
// drains, has no key to sign with, or cannot reach its registry or the store of
// its challenges.
func (s *Server) getReady(w http.ResponseWriter, r *http.Request) {
	t := s.trust.Load()
	why := ""
	if s.draining.Load() {
		why = "draining"
	} else if _, err := t.signer(s.o.Clock()); err != nil {
		why = "no signing key in force"
	} else if err := s.challenges.Ready(r.Context()); err != nil {
		s.log.WarnContext(r.Context(), "not ready", "error", err)
		why = "challenges unavailable"
	} else if t.Policy.Manifests.Registry != nil {
		if _, err := t.Registry(r.Context()); err != nil {
			s.log.WarnContext(r.Context(), "not ready", "error", err)
			why = "registry unreachable"
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if why != "" {
		writeBody(w, http.StatusServiceUnavailable, map[string]string{"status": why})
		return
	}
	writeBody(w, http.StatusOK, map[string]string{"status": "ready"})
}

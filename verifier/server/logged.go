package server

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/verifier/appraise"
)

// Logged says where a verdict is in the log of a Journal that is a Log.
type Logged struct {
	Index   uint64
	Leaf    digest.SHA256
	Promise string // signed note (package journal)
}

// Log is a Journal that is a transparency log.
type Log interface {
	Journal
	Key() log.Key
	// Manifest puts a manifest that the service accepts into the log, once.
	Manifest(ctx context.Context, manifest digest.SHA256) error
	// Prove returns the proof that a verdict is under a published checkpoint
	// (C2SP tlog-proof), nil where none covers it yet.
	Prove(ctx context.Context, l *Logged) ([]byte, error)
	// Read returns the part that a path of C2SP tlog-tiles names, fs.ErrNotExist
	// for none.
	Read(ctx context.Context, path string) ([]byte, error)
}

// Waiting for the proof of a verdict. It is longer than journal.PublishedWithin.
const (
	proofWait = 2 * time.Second
	proofPoll = 50 * time.Millisecond
)

// logWait is what the log has to take in manifests.
const logWait = 30 * time.Second

var errNoLog = fault.New(fault.ExitNetwork, "verifier.log.none", "ask a verifier with a journal", "this verifier has no log")

var errNoProof = fault.New(fault.ExitNetwork, "verifier.log.pending", "ask again; the promise in the answer to the appraisal binds the verifier meanwhile",
	"no checkpoint covers the verdict yet")

// prove waits for the proof that a verdict is in the log.
func (s *Server) prove(ctx context.Context, l *Logged) (string, error) {
	j, ok := s.journal.(Log)
	if !ok {
		return "", errNoLog
	}
	ctx, cancel := context.WithTimeout(ctx, proofWait)
	defer cancel()
	for {
		doc, err := j.Prove(ctx, l)
		if err != nil && ctx.Err() == nil {
			return "", fault.New(fault.ExitNetwork, "verifier.journal", "try again; the verifier's operator has to look at its log", "proving verdict: %w", err)
		}
		if len(doc) > 0 {
			return string(doc), nil
		}
		select {
		case <-time.After(proofPoll):
		case <-ctx.Done():
			return "", errNoProof
		}
	}
}

// logManifests puts the manifests that are accepted into the log: not those that
// every appraisal will refuse. A disk that is stuck is an error after logWait.
func (s *Server) logManifests(ctx context.Context, m *material) error {
	j, ok := s.o.Journal.(Log)
	if !ok {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, logWait)
	defer cancel()
	for _, v := range m.Manifests {
		if appraise.CheckLogged(m.Policy, v) != nil {
			continue
		}
		if err := j.Manifest(ctx, v.SHA256); err != nil {
			return err
		}
	}
	return nil
}

// logKey is the log's verifier key, "" without one.
func (s *Server) logKey() string {
	if j, ok := s.journal.(Log); ok {
		return j.Key().String()
	}
	return ""
}

// serveLog serves the log, in whatever storage it is, as C2SP tlog-tiles has it.
// Full tiles never change.
func (s *Server) serveLog() {
	j, ok := s.journal.(Log)
	if !ok {
		return
	}
	serve := func(label string) http.Handler {
		return s.Limited(label, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			part, err := j.Read(r.Context(), r.URL.Path)
			if errors.Is(err, fs.ErrNotExist) {
				http.NotFound(w, r)
				return
			}
			if err != nil {
				s.writeProblem(w, r, http.StatusServiceUnavailable, fault.New(fault.ExitNetwork, "verifier.journal", "try again; the verifier's operator has to look at its log", "reading log: %w", err))
				return
			}
			h := w.Header()
			h.Set("X-Content-Type-Options", "nosniff")
			if label == pathCheckpoint {
				h.Set("Content-Type", "text/plain; charset=utf-8")
				h.Set("Cache-Control", "no-store")
			} else {
				h.Set("Content-Type", "application/octet-stream")
				h.Set("Cache-Control", map[bool]string{true: "public, max-age=60", false: "public, max-age=31536000, immutable"}[strings.Contains(r.URL.Path, ".p/")])
			}
			http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(part))
		}))
	}
	s.mux.Handle("GET "+pathCheckpoint, serve(pathCheckpoint))
	s.mux.Handle("GET "+pathTile, serve(pathTile))
}

// Paths of the log.
const (
	pathCheckpoint = "/checkpoint"
	pathTile       = "/tile/"
)

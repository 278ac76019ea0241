package server

import (
	"context"
	"fmt"
	"net/http"
	"net/netip"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/journal"
)

// Verdicts are the latest verdicts of all replicas (package shared). They are
// signed: nothing is believed of who keeps them.
type Verdicts interface {
	Put(ctx context.Context, g *Given, ttl time.Duration) error
	Get(ctx context.Context, evidence digest.SHA256) (Given, bool, error)
}

// Limits hold callers to one rate, whichever replica they ask (package shared).
type Limits interface {
	// Allow takes one request of a client, who may make burst at once and
	// perSecond after that.
	Allow(ctx context.Context, client netip.Prefix, perSecond float64, burst int) (bool, error)
}

// limitsHold is for how long shared limits are left alone after they could not be
// asked: how long one question takes, whoever keeps them bounds.
const limitsHold = time.Second

// admit takes one request from its caller's bucket: from this replica's own, and
// from the shared one. Where that cannot be asked, the own one decides.
func (s *Server) admit(r *http.Request) bool {
	if !s.limiter.allow(r, s.o.Clock()) {
		return false
	}
	if s.o.Limits == nil || int64(s.o.Age()) < s.limitsHeld.Load() {
		return true
	}
	ok, err := s.o.Limits.Allow(r.Context(), clientPrefix(r), s.o.PerSecond, s.o.Burst)
	if err != nil {
		s.limitsHeld.Store(int64(s.o.Age() + limitsHold))
		s.log.WarnContext(r.Context(), "limits of callers are not shared for a second", "error", err)
		return true
	}
	return ok
}

// share lets other replicas have a verdict that is given. Who asks one that does
// not have it asks for another verdict.
func (s *Server) share(ctx context.Context, g *Given) {
	if s.o.Verdicts == nil {
		return
	}
	if err := s.o.Verdicts.Put(ctx, g, g.NotAfter.Sub(s.o.Clock())); err != nil {
		s.log.WarnContext(ctx, "a verdict is not shared", "evidence_sha256", g.EvidenceSHA256.String(), "error", err)
	}
}

// elsewhere says which log has a verdict of another replica's. Its address only
// the operator knows.
func elsewhere(g *Given) error {
	where := "its own log"
	if origin, index, ok := journal.PromisedPlace([]byte(g.Logged.Promise)); ok {
		where = fmt.Sprintf("its own log, %s, as entry %d", origin, index)
	}
	return fault.New(fault.ExitNetwork, "verifier.log.elsewhere", "read the proof from that log, or ask the replica that keeps it; the promise binds it meanwhile",
		"another replica gave the verdict, and has it in %s", where)
}

// stored finds a verdict, of this replica or of another.
func (s *Server) stored(ctx context.Context, evidence digest.SHA256) (g Given, own, ok bool, err error) {
	g, ok, err = s.journal.Get(ctx, evidence)
	if err != nil || ok || s.o.Verdicts == nil {
		return g, true, ok, err
	}
	g, ok, err = s.o.Verdicts.Get(ctx, evidence)
	return g, false, ok, err
}

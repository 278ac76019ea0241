// Package server is the verifier as an HTTP service: challenges, enrolment of
// attestation keys, and verdicts on evidence (docs/verifier-api.md). In come
// untrusted requests, out go signed verdicts or problem details; the decision
// is package appraise's.
package server

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"cocoon/measurements/manifest"
	"cocoon/verifier/api"
	"cocoon/verifier/appraise"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
	"cocoon/verifier/tpm"
)

// Defaults of Options.
const (
	DefaultChallengeTTL    = 5 * time.Minute
	DefaultMaxUsed         = 1 << 16 // challenges remembered as used
	DefaultPerSecond       = 5.0     // requests of one client
	DefaultBurst           = 40
	DefaultMaxClients      = 1 << 14
	DefaultArchiveMaxBytes = 8 << 30
	DefaultQueue           = 5 * time.Second // how long evidence waits to be appraised
)

// Options of a Server.
type Options struct {
	Policy    *policy.Policy
	Manifests []*manifest.Verified    // opened under the policy
	Key       ed25519.PrivateKey      // signs verdicts
	Enroller  *tpm.Enroller           // nil: no enrolment
	AKRoots   [][]byte                // DER; shown to clients
	CPUs      map[string]appraise.CPU // further CPU types
	GPUs      appraise.GPU
	// Registry returns the proven state of the registry that the policy names;
	// needed where it names one. It is asked at every verification.
	Registry func(context.Context) (*appraise.Registry, error)
	Build    string // version of this software, in verdicts

	ChallengeTTL    time.Duration    // 0: DefaultChallengeTTL
	PerSecond       float64          // requests of one client; 0: DefaultPerSecond
	Burst           int              // 0: DefaultBurst
	Concurrent      int              // appraisals at a time; 0: number of CPUs
	ArchiveDir      string           // "": nothing is kept
	ArchiveMaxBytes int64            // 0: DefaultArchiveMaxBytes
	Clock           func() time.Time // nil: time.Now
	Log             *slog.Logger     // nil: nothing is logged
}

// Server is the service; it is an http.Handler.
type Server struct {
	o          Options
	log        *slog.Logger
	challenges *challenges
	limiter    *limiter
	metrics    *metrics
	archive    *archive
	rules      *rules.Set
	slots      chan struct{}
	mux        *http.ServeMux
}

// New returns a Server.
func New(o Options) (*Server, error) {
	if o.Policy == nil || len(o.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("making verifier: a policy and a signing key are needed")
	}
	if err := o.Policy.Validate(); err != nil {
		return nil, fmt.Errorf("making verifier: %w", err)
	}
	if o.Policy.Manifests.Registry != nil && o.Registry == nil {
		return nil, errors.New("making verifier: the policy names a registry, and there is no ledger to read it from")
	}
	setDefaults(&o)
	s := &Server{o: o, log: o.Log, limiter: newLimiter(o.PerSecond, o.Burst, DefaultMaxClients),
		slots: make(chan struct{}, o.Concurrent), mux: http.NewServeMux()}
	var err error
	if s.challenges, err = newChallenges(o.ChallengeTTL, DefaultMaxUsed); err != nil {
		return nil, err
	}
	if o.ArchiveDir != "" {
		if s.archive, err = openArchive(o.ArchiveDir, o.ArchiveMaxBytes); err != nil {
			return nil, err
		}
	}
	if s.rules, err = rules.Compile(o.Policy.Rules); err != nil {
		return nil, fmt.Errorf("making verifier: %w", err)
	}
	s.metrics = newMetrics(func() float64 {
		if o.Enroller == nil {
			return 0
		}
		return float64(o.Enroller.Pending())
	})
	s.routes()
	return s, nil
}

func setDefaults(o *Options) {
	if o.ChallengeTTL <= 0 {
		o.ChallengeTTL = DefaultChallengeTTL
	}
	if o.PerSecond <= 0 {
		o.PerSecond = DefaultPerSecond
	}
	if o.Burst <= 0 {
		o.Burst = DefaultBurst
	}
	if o.Concurrent <= 0 {
		o.Concurrent = runtime.NumCPU()
	}
	if o.ArchiveMaxBytes <= 0 {
		o.ArchiveMaxBytes = DefaultArchiveMaxBytes
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Build == "" {
		o.Build = "cocoon-verifier"
	}
}

func (s *Server) routes() {
	for pattern, h := range map[string]func(http.ResponseWriter, *http.Request) error{
		"POST " + api.PathChallenge:              s.postChallenge,
		"POST " + api.PathEnroll:                 s.postEnroll,
		"POST " + api.PathActivate:               s.postActivate,
		"POST " + api.PathVerify:                 s.postVerify,
		"GET " + api.PathKeys:                    s.getKeys,
		"GET " + api.PathManifests:               s.getManifests,
		"GET " + api.PathManifests + "/{sha256}": s.getManifest,
	} {
		s.mux.HandleFunc(pattern, s.limited(h))
	}
	s.mux.HandleFunc("GET "+api.PathHealth, func(w http.ResponseWriter, _ *http.Request) {
		writeJSON(w, map[string]string{"status": "ok"})
	})
	s.mux.Handle("GET "+api.PathMetrics, s.metrics.handler())
}

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// limited counts a request, takes it from its client's bucket, and turns the
// handler's error into a problem.
func (s *Server) limited(h func(http.ResponseWriter, *http.Request) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		s.metrics.requests.WithLabelValues(known(r.URL.Path)).Inc()
		if !s.limiter.allow(r, s.o.Clock()) {
			w.Header().Set("Retry-After", "1")
			s.writeProblem(w, r, http.StatusTooManyRequests, errTooManyRequests)
			return
		}
		if err := h(w, r); err != nil {
			s.writeProblem(w, r, httpStatus(err), err)
		}
	}
}

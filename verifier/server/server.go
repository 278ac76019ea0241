// Package server is the verifier as a service: the API of
// api/verifier/v1/verifier.proto over Connect, gRPC and gRPC-Web, and a few
// documents beside it (docs/verifier-api.md). In come untrusted requests, out
// go signed verdicts or errors; the decision is package appraise's.
package server

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/time/rate"

	"cocoon/api/verifier/v1/verifierv1connect"
	"cocoon/measurements/digest"
)

// Defaults of Options.
const (
	DefaultChallengeTTL    = 5 * time.Minute
	DefaultMaxUsed         = 1 << 21 // challenges remembered as used: 7,000 a second for their life
	DefaultPerSecond       = 5.0     // requests of one client
	DefaultBurst           = 40
	DefaultMaxClients      = 1 << 14
	DefaultArchiveMaxBytes = 8 << 30
	DefaultQueue           = 64                   // appraisals let in at most, for each that runs
	DefaultWait            = 5 * time.Second      // how long one waits at most
	DefaultDelay           = 4 * time.Millisecond // for how long one is expected to wait at most
	DefaultGivenBytes      = 32 << 20             // of verdicts that GetVerdict has, without a Journal
	DefaultReceive         = 10 * time.Second     // for a body to come, at most; a large one has longer
)

// Options of a Server.
type Options struct {
	Trust
	Build string // version of this software, in verdicts

	// Journal makes verdicts durable before they are handed out; nil: they are
	// kept in memory until they expire.
	Journal Journal
	// Challenges makes and takes nonces; nil: in this process's memory. Replicas
	// share one.
	Challenges   Challenges
	Verdicts     Verdicts         // of all replicas; nil: GetVerdict has this one's
	Limits       Limits           // of all replicas; nil: each holds callers to its own
	ChallengeTTL time.Duration    // 0: DefaultChallengeTTL
	PerSecond    float64          // requests of one client; 0: DefaultPerSecond
	Burst        int              // 0: DefaultBurst
	Concurrent   int              // appraisals at a time; 0: number of CPUs
	Queue        int              // appraisals that wait; 0: DefaultQueue for each of Concurrent
	Wait         time.Duration    // for one of Concurrent, at most; 0: DefaultWait
	Delay        time.Duration    // that is to be expected by who is let in; 0: DefaultDelay
	Receive      time.Duration    // for a body to come, at most, and a second for each 64 KiB; 0: DefaultReceive
	ArchiveDir   string           // "": nothing is kept
	ArchiveBytes int64            // 0: DefaultArchiveMaxBytes
	ArchiveAge   time.Duration    // after which evidence is removed; 0: never
	Own          OwnEvidence      // of the machine that this runs in; nil: it runs in none that has any
	Clock        func() time.Time // nil: time.Now
	// Age is for how long the process has run, by a clock that never goes back;
	// nil: the system's monotonic clock. Challenges live by it.
	Age func() time.Duration
	Log *slog.Logger // nil: nothing is logged
}

// Given is a verdict as it is handed out.
type Given struct {
	EvidenceSHA256 digest.SHA256
	PolicySHA256   digest.SHA256
	ManifestSHA256 digest.SHA256
	KeyID          digest.SHA256 // of the signer
	EARSHA256      digest.SHA256 // of EAR, as the journal has it
	EAR, Cell      string
	Checks         []byte    // of EAR: result.Signed
	Issued         time.Time // whole seconds, as in the EAR
	NotAfter       time.Time
	Logged         Logged // set by the journal
}

// Journal keeps every verdict. Append returns once the verdict is durable, and
// sets its Logged; one that it refuses is not handed out. Get returns one by
// its evidence. A journal that is a Log is served as one.
type Journal interface {
	Append(ctx context.Context, g *Given) error
	Get(ctx context.Context, evidence digest.SHA256) (Given, bool, error)
}

// Server is the service; it is an http.Handler.
type Server struct {
	o          Options
	log        *slog.Logger
	trust      atomic.Pointer[material]
	challenges Challenges
	limiter    *limiter
	limitsHeld atomic.Int64 // age to which Options.Limits are not asked
	admission  *admission
	receiving  *receiving
	metrics    *metrics
	archive    *archive
	journal    Journal
	draining   atomic.Bool
	mux        *http.ServeMux
	errors     *connect.ErrorWriter
	busy, slow *rejection          // errBusy and errTooManyRequests, written once
	turns      *rate.Limiter       // one each turnAwayEach
	wait       func(time.Duration) // time.Sleep
	paused     atomic.Int64
}

// New returns a Server.
func New(o Options) (*Server, error) {
	setDefaults(&o)
	s := &Server{o: o, log: o.Log, limiter: newLimiter(o.PerSecond, o.Burst, DefaultMaxClients), admission: newAdmission(o.Concurrent, o.Queue, o.Wait, o.Delay),
		receiving: newReceiving(o.Burst), challenges: o.Challenges, journal: o.Journal, mux: http.NewServeMux(), errors: connect.NewErrorWriter(), turns: rate.NewLimiter(rate.Every(turnAwayEach/time.Duration(runtime.NumCPU())), 1), wait: time.Sleep}
	m, err := newMaterial(o.Trust, o.Clock())
	if err != nil {
		return nil, fmt.Errorf("making verifier: %w", err)
	}
	s.trust.Store(m)
	if err := s.logManifests(context.Background(), m); err != nil {
		return nil, fmt.Errorf("making verifier: %w", err)
	}
	if s.challenges == nil {
		if s.challenges, err = newMemoryChallenges(o.Age, DefaultMaxUsed); err != nil {
			return nil, fmt.Errorf("making verifier: %w", err)
		}
	}
	if o.ArchiveDir != "" {
		if s.archive, err = openArchive(o.ArchiveDir, o.ArchiveBytes, o.ArchiveAge); err != nil {
			return nil, err
		}
	}
	if s.journal == nil {
		s.journal = newMemory(DefaultGivenBytes, o.Clock)
	}
	s.metrics = newMetrics(func() float64 {
		if e := s.trust.Load().Enroller; e != nil {
			return float64(e.Pending())
		}
		return 0
	}, s.admission.waiting)
	s.admission.waited = func() { s.metrics.turned.WithLabelValues(turnedWait).Inc() }
	s.busy, s.slow = newRejection(errBusy), newRejection(errTooManyRequests)
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
	if o.Queue <= 0 {
		o.Queue = DefaultQueue * o.Concurrent
	}
	if o.Wait <= 0 {
		o.Wait = DefaultWait
	}
	if o.Delay <= 0 {
		o.Delay = DefaultDelay
	}
	if o.Receive <= 0 {
		o.Receive = DefaultReceive
	}
	if o.ArchiveBytes <= 0 {
		o.ArchiveBytes = DefaultArchiveMaxBytes
	}
	if o.Age == nil {
		start := time.Now() // with a monotonic reading, which Since subtracts
		o.Age = func() time.Duration { return time.Since(start) }
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

// Drain makes the service answer that it is not ready, so that a balancer sends
// nothing more. Requests are served as before.
func (s *Server) Drain() { s.draining.Store(true) }

func (s *Server) routes() {
	path, h := verifierv1connect.NewVerifierServiceHandler(&service{s}, connect.WithReadMaxBytes(maxMessage), connect.WithCompressMinBytes(compressFrom), withGunzip())
	s.mux.Handle(path, s.rpc(s.unary(h)))
	s.web()
}

// compressFrom is the size of answers that are compressed where the caller can
// read it. A verdict is smaller: to compress it would take longer than all else.
const compressFrom = 256 << 10

// ServeHTTP serves one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

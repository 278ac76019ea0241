// Package api is the host daemon's interface: the service of
// api/hostd/v1/hostd.proto over Connect, gRPC and gRPC-Web, and metrics beside
// it. It is served on a UNIX socket, where the kernel says who calls, and where
// the configuration asks for it over TLS to clients with a certificate. Whom it
// lets in may do everything the daemon can.
package api

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"os"
	"time"

	"connectrpc.com/connect"
	"golang.org/x/sys/unix"

	"cocoon/api/hostd/v1/hostdv1connect"
	"cocoon/hostd/accel"
	"cocoon/hostd/daemon"
	"cocoon/hostd/fetch"
	"cocoon/hostd/idle"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/hostd/vouchers"
	"cocoon/hostd/wire"
	"cocoon/internal/fault"
)

// Limits on what callers may ask for.
const (
	// MaxMessage bounds a request in bytes: a spec is the largest part of one.
	MaxMessage = 256 << 10
	// MaxCalls and MaxStreams bound what is answered at a time.
	MaxCalls   = 64
	MaxStreams = 64
)

// Times of calls. What waits for a guest has the longest that a spec may give
// the guest.
const (
	shortCall = 30 * time.Second
	startCall = 3 * time.Minute
	stopCall  = spec.MaxDrain*time.Second + 15*time.Minute
)

// PathMetrics is where Prometheus asks.
const PathMetrics = "/metrics"

// Host is what the interface serves; package daemon has it.
type Host interface {
	Start(ctx context.Context, s *spec.Spec) (*machine.State, error)
	Stop(ctx context.Context, name string, powerOff bool) (*machine.State, error)
	Get(name string) (*machine.State, error)
	List() ([]*machine.State, error)
	Remove(name string) error
	Upgrade(ctx context.Context, to *spec.Spec, until string, within time.Duration) (*machine.State, error)
	Crashes(name string) ([]daemon.Crash, error)
	Paths(name string) (console, status string, err error)
	CA(name string) (*swtpm.CA, error)
	Accel(ctx context.Context, kernel string) (accel.Decision, error)
	Summary() (*daemon.Summary, error)
	Drain(ctx context.Context) ([]string, error)
	Resume() ([]string, error)
	GPUs() ([]daemon.GPU, error)
	PrepareGPUs(ctx context.Context, mode string, devices []string) error
	RestoreGPUs(ctx context.Context, devices []string) ([]string, error)
	Vouchers() (kept []vouchers.Kept, damaged []error, err error)
	Fetch(ctx context.Context, name string, o fetch.Options) (path string, err error)
}

// Options of a server.
type Options struct {
	Host      Host
	Ephemeral bool
	Idle      func() idle.Status // nil: there is no idle mode
	Peers     Peers              // who may call besides root and this user
	Version   string             // of this software
	Clock     func() time.Time
	Logger    *slog.Logger
}

// Handler returns the interface. A caller of whom neither the kernel (its
// server must use ConnContext) nor TLS says anything is refused.
func Handler(o Options) http.Handler {
	s := &server{o: o, metrics: newMetrics(o.Host), started: o.Clock().UTC(), calls: make(chan struct{}, MaxCalls), streams: make(chan struct{}, MaxStreams)}
	s.errors = connect.NewErrorWriter()
	mux := http.NewServeMux()
	mux.Handle(hostdv1connect.NewHostServiceHandler(s, connect.WithReadMaxBytes(MaxMessage), connect.WithInterceptors(s)))
	mux.Handle("GET "+PathMetrics, s.metrics.handler)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		problem(w, http.StatusNotFound, fault.New(fault.ExitInternal, "hostd.path", "docs/hostd.md has the interface", "calling the host daemon: there is nothing at %.200q", r.URL.Path))
	})
	return s.authorised(mux)
}

type server struct {
	o       Options
	metrics *metrics
	started time.Time
	errors  *connect.ErrorWriter
	calls   chan struct{} // one for each that runs
	streams chan struct{}
}

var _ hostdv1connect.HostServiceHandler = (*server)(nil)

// authorised lets nobody through whom peers does not allow.
func (s *server) authorised(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := s.o.Peers.allows(r)
		if err == nil {
			next.ServeHTTP(w, whole(w, r))
			return
		}
		cred, _ := r.Context().Value(peerKey{}).(unix.Ucred)
		s.o.Logger.Log(r.Context(), slog.LevelWarn, "refused", "path", r.URL.Path, "uid", cred.Uid, "pid", cred.Pid, "remote", r.RemoteAddr)
		if s.errors.IsSupported(r) {
			_ = s.errors.Write(w, r, wire.Error(err)) // the caller has gone; there is nobody to tell
			return
		}
		problem(w, http.StatusForbidden, err)
	})
}

// whole reads the request's body, which is small, within bodyTime. The server
// has no such time for all requests: it would end those that take longer.
func whole(w http.ResponseWriter, r *http.Request) *http.Request {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(time.Now().Add(bodyTime)) // a connection that has none is a test's
	b, err := io.ReadAll(http.MaxBytesReader(w, r.Body, MaxMessage+envelope))
	_ = rc.SetReadDeadline(time.Time{})
	body := io.Reader(bytes.NewReader(b))
	if err != nil {
		body = io.MultiReader(body, failing{err})
	}
	r.Body = io.NopCloser(body)
	return r
}

const (
	bodyTime = 30 * time.Second
	// envelope is what surrounds a message: base64 in JSON, or a prefix.
	envelope = MaxMessage/2 + 1<<10
)

// failing is a body that could not be read to its end.
type failing struct{ err error }

// Read implements io.Reader.
func (f failing) Read([]byte) (int, error) { return 0, f.err }

// problem answers what is no call of the service (RFC 9457).
func problem(w http.ResponseWriter, status int, f *fault.Fault) {
	w.Header().Set("Content-Type", "application/problem+json")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]any{"type": "urn:cocoon:problem:" + f.Code, "title": http.StatusText(status), "status": status, "detail": f.Msg, "code": f.Code, "remedy": f.Remedy})
}

// within is how long a call may take; 0: as long as it likes.
func within(procedure string) time.Duration {
	switch procedure {
	case hostdv1connect.HostServiceStartVMProcedure:
		return startCall
	case hostdv1connect.HostServiceStopVMProcedure, hostdv1connect.HostServiceDrainProcedure:
		return stopCall
	case hostdv1connect.HostServiceUpgradeVMProcedure:
		return 0 // it has bounds of its own
	}
	return shortCall
}

var errBusy = fault.New(fault.ExitNetwork, wire.CodeBusy, "try again in a moment", "calling the host daemon: it answers as many callers as it can already")

// take takes one of a bounded number of places.
func take(places chan struct{}) (func(), error) {
	select {
	case places <- struct{}{}:
		return func() { <-places }, nil
	default:
		return nil, errBusy
	}
}

// answered counts a call and makes an error into one of the service's.
func (s *server) answered(procedure string, began time.Time, err error) error {
	if err == nil {
		s.metrics.observe(procedure, began, "ok")
		return nil
	}
	if len(fault.All(err)) == 0 {
		s.o.Logger.Error("call failed", "procedure", procedure, "err", err)
	}
	ce := wire.Error(err)
	s.metrics.observe(procedure, began, ce.Code().String())
	return ce
}

// WrapUnary bounds and counts calls.
func (s *server) WrapUnary(next connect.UnaryFunc) connect.UnaryFunc {
	return func(ctx context.Context, in connect.AnyRequest) (connect.AnyResponse, error) {
		began, procedure := time.Now(), in.Spec().Procedure
		free, err := take(s.calls)
		if err != nil {
			return nil, s.answered(procedure, began, err)
		}
		defer free()
		if d := within(procedure); d > 0 {
			var cancel context.CancelFunc
			ctx, cancel = context.WithTimeout(ctx, d)
			defer cancel()
		}
		out, err := next(ctx, in)
		return out, s.answered(procedure, began, err)
	}
}

// WrapStreamingHandler bounds and counts streams.
func (s *server) WrapStreamingHandler(next connect.StreamingHandlerFunc) connect.StreamingHandlerFunc {
	return func(ctx context.Context, conn connect.StreamingHandlerConn) error {
		began, procedure := time.Now(), conn.Spec().Procedure
		free, err := take(s.streams)
		if err != nil {
			return s.answered(procedure, began, err)
		}
		defer free()
		return s.answered(procedure, began, next(ctx, conn))
	}
}

// WrapStreamingClient is for clients.
func (s *server) WrapStreamingClient(next connect.StreamingClientFunc) connect.StreamingClientFunc {
	return next
}

// hostMemory is what the kernel says that can still be had, in MiB.
func hostMemory() int64 {
	n, err := machine.MemoryAvailableMiB()
	if err != nil {
		return 0
	}
	return int64(n)
}

func pid() int32 { return int32(os.Getpid()) }

// sender sends each piece on at once.
type sender func(b []byte) error

// Write implements io.Writer.
func (f sender) Write(b []byte) (int, error) {
	if err := f(b); err != nil {
		return 0, err
	}
	return len(b), nil
}

var _ io.Writer = sender(nil)

// running returns a function that says whether the VM may still write,
// asking at most every quarter of a second.
func (s *server) running(name string) func() bool {
	var asked time.Time
	last := true
	return func() bool {
		if last && time.Since(asked) > 250*time.Millisecond {
			asked = time.Now()
			st, err := s.o.Host.Get(name)
			last = err == nil && !st.Over()
		}
		return last
	}
}

package api

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strconv"
	"time"

	"cocoon/hostd/accel"
	"cocoon/hostd/console"
	"cocoon/hostd/daemon"
	"cocoon/hostd/idle"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/swtpm"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

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
}

// Options of a server.
type Options struct {
	Host      Host
	Ephemeral bool
	Idle      func() idle.Status // nil: there is no idle mode
	Peers     Peers              // who may call besides root and this user
	Logger    *slog.Logger
}

// Handler returns the interface. Its server must use ConnContext: a caller of
// whom the kernel says nothing is refused.
func Handler(o Options) http.Handler {
	s := &server{o, newMetrics(o.Host)}
	mux := http.NewServeMux()
	handle := func(method, path string, f func(w http.ResponseWriter, r *http.Request) error) {
		mux.HandleFunc(method+" "+path, func(w http.ResponseWriter, r *http.Request) {
			began, status := time.Now(), &recorder{ResponseWriter: w, status: http.StatusOK}
			r.Body = http.MaxBytesReader(w, r.Body, MaxBody)
			if err := f(status, r); err != nil {
				s.problem(status, r, err)
			}
			s.metrics.observe(method+" "+path, began, status.status)
		})
	}
	handle("GET", PathHealth, func(w http.ResponseWriter, _ *http.Request) error {
		return writeOK(w, Health{Status: "ok", PID: os.Getpid(), Ephemeral: o.Ephemeral})
	})
	handle("GET", PathAccel, s.accel)
	handle("GET", PathCA, s.ca)
	handle("GET", PathVMs, s.list)
	handle("POST", PathVMs, s.start)
	handle("GET", PathVM, s.get)
	handle("DELETE", PathVM, s.remove)
	handle("POST", PathStop, s.stop)
	handle("POST", PathUpgrade, s.upgrade)
	handle("GET", PathCrashes, func(w http.ResponseWriter, r *http.Request) error {
		cs, err := o.Host.Crashes(r.PathValue("name"))
		if err != nil {
			return err
		}
		return writeOK(w, Crashes{Crashes: cs})
	})
	handle("GET", PathConsole, func(w http.ResponseWriter, r *http.Request) error {
		return s.follow(w, r, "text/plain; charset=utf-8", true)
	})
	handle("GET", PathStatus, func(w http.ResponseWriter, r *http.Request) error {
		return s.follow(w, r, "application/x-ndjson", false)
	})
	handle("GET", PathIdle, func(w http.ResponseWriter, _ *http.Request) error {
		if o.Idle == nil {
			return fault.New(fault.ExitNotReady, "idle.off", `name a policy with "idle" in hostd.json`, "asking for the idle mode: there is none")
		}
		return writeOK(w, o.Idle())
	})
	mux.Handle("GET "+PathMetrics, s.metrics.handler)
	return s.authorised(mux)
}

type server struct {
	o       Options
	metrics *metrics
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController flush.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

func (s *server) problem(w http.ResponseWriter, r *http.Request, err error) {
	p := NewProblem(err)
	if len(p.Faults) == 0 {
		s.o.Logger.Error("request failed", "method", r.Method, "path", r.URL.Path, "err", err)
	}
	if werr := writeJSON(w, p.Status, MediaProblem, p); werr != nil {
		s.o.Logger.Error("answering", "err", werr)
	}
}

func writeOK(w http.ResponseWriter, v any) error {
	return writeJSON(w, http.StatusOK, "application/json", v)
}

func (s *server) accel(w http.ResponseWriter, r *http.Request) error {
	d, err := s.o.Host.Accel(r.Context(), "")
	if err != nil {
		return err
	}
	return writeOK(w, Accel{Accel: d.Accel, Reason: d.Reason, At: d.At})
}

func (s *server) ca(w http.ResponseWriter, r *http.Request) error {
	ca, err := s.o.Host.CA(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeOK(w, CA{Name: ca.Name, RootPEM: string(ca.RootPEM())})
}

func (s *server) list(w http.ResponseWriter, _ *http.Request) error {
	vms, err := s.o.Host.List()
	if err != nil {
		return err
	}
	return writeOK(w, VMs{VMs: vms})
}

func (s *server) start(w http.ResponseWriter, r *http.Request) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading spec: %w", err)
	}
	sp, err := spec.Parse(b)
	if err != nil {
		return err
	}
	if err := sp.CheckAbsolute(); err != nil {
		return fault.New(fault.ExitParse, "vm.spec.relative", "send absolute paths: the daemon has no directory of yours", "parsing spec: %w", err)
	}
	st, err := s.o.Host.Start(r.Context(), sp)
	if err != nil {
		return err
	}
	return writeJSON(w, http.StatusCreated, "application/json", st)
}

func (s *server) get(w http.ResponseWriter, r *http.Request) error {
	st, err := s.o.Host.Get(r.PathValue("name"))
	if err != nil {
		return err
	}
	return writeOK(w, st)
}

func (s *server) remove(w http.ResponseWriter, r *http.Request) error {
	if err := s.o.Host.Remove(r.PathValue("name")); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *server) stop(w http.ResponseWriter, r *http.Request) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading request: %w", err)
	}
	var how Stop
	if len(b) > 0 {
		if err := jcs.Decode(b, MaxBody, &how); err != nil {
			return fault.New(fault.ExitParse, "hostd.request.malformed", `send {} or {"power_off":true}`, "reading request: %w", err)
		}
	}
	st, err := s.o.Host.Stop(r.Context(), r.PathValue("name"), how.PowerOff)
	if err != nil {
		return err
	}
	return writeOK(w, st)
}

func (s *server) upgrade(w http.ResponseWriter, r *http.Request) error {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return fmt.Errorf("reading request: %w", err)
	}
	var u Upgrade
	if err := jcs.Decode(b, MaxBody, &u); err != nil {
		return fault.New(fault.ExitParse, "hostd.request.malformed", "send a spec, and until and timeout_s if you like", "reading request: %w", err)
	}
	if u.Spec.Name != r.PathValue("name") {
		return fault.New(fault.ExitParse, "vm.upgrade.name", "give the spec the VM's name", "upgrading VM %.64q: the spec is of %.64q", r.PathValue("name"), u.Spec.Name)
	}
	if err := u.Spec.CheckAbsolute(); err != nil {
		return fault.New(fault.ExitParse, "vm.spec.relative", "send absolute paths: the daemon has no directory of yours", "parsing spec: %w", err)
	}
	// Its caller may go away; half an upgrade is worse than a whole one.
	st, err := s.o.Host.Upgrade(context.WithoutCancel(r.Context()), &u.Spec, u.Until, time.Duration(u.TimeoutS)*time.Second)
	if err != nil {
		return err
	}
	return writeOK(w, st)
}

func (s *server) follow(w http.ResponseWriter, r *http.Request, media string, isConsole bool) error {
	name := r.PathValue("name")
	con, status, err := s.o.Host.Paths(name)
	if err != nil {
		return err
	}
	path := status
	if isConsole {
		path = con
	}
	var more func() bool
	if v := r.URL.Query().Get("follow"); v != "" {
		on, err := strconv.ParseBool(v)
		if err != nil {
			return fault.New(fault.ExitParse, "hostd.request.malformed", "use follow=1 or follow=0", "reading request: follow=%.16q", v)
		}
		if on {
			more = s.running(name)
		}
	}
	w.Header().Set("Content-Type", media)
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(http.StatusOK)
	rc := http.NewResponseController(w)
	if err := console.Follow(r.Context(), path, flusher{w, rc}, more); err != nil {
		s.o.Logger.Debug("following ended", "vm", name, "err", err)
	}
	return nil
}

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

// flusher sends each piece on at once.
type flusher struct {
	w  io.Writer
	rc *http.ResponseController
}

func (f flusher) Write(b []byte) (int, error) {
	n, err := f.w.Write(b)
	if err == nil {
		err = f.rc.Flush()
	}
	return n, err
}

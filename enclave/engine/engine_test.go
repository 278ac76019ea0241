package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/google/go-cmp/cmp"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

func config(args ...string) *evidence.Config {
	return &evidence.Config{
		Model:  evidence.ConfigModel{Name: "m"},
		Engine: evidence.ConfigEngine{Kind: evidence.EngineLlamaServer, Args: args},
	}
}

func llama(t testing.TB) Adapter {
	t.Helper()
	a, err := AdapterFor(evidence.EngineLlamaServer)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func unixDial(path string) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) }
}

func TestArgv(t *testing.T) {
	fixed := []string{"/usr/bin/llama-server", "--model", "/models/m.gguf", "--alias", "m", "--host", "/run/engine/engine.sock",
		"--no-ui", "--no-slots", "--offline", "--log-disable", "--metrics"}
	for _, c := range []struct {
		name string
		args []string
		want []string
	}{
		{"no arguments get one thread", nil, []string{"--threads", "1"}},
		{"allowed arguments pass in order", []string{"--parallel", "2", "--ctx-size", "4096"}, []string{"--parallel", "2", "--ctx-size", "4096", "--threads", "1"}},
		{"threads may be set", []string{"--threads", "8"}, []string{"--threads", "8"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := llama(t).Argv(config(c.args...), "m.gguf")
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(append(slices.Clone(fixed), c.want...), got); diff != "" {
				t.Errorf("argv (-want +got):\n%s", diff)
			}
		})
	}
}

func TestArgvRefusesWhatIsNotInTheList(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
	}{
		{"unknown flag", []string{"--slots", "1"}},
		{"a flag that reads files", []string{"--lora", "/x"}},
		{"the model's path", []string{"--model", "/other"}},
		{"the socket", []string{"--host", "0.0.0.0"}},
		{"flag=value in one word", []string{"--threads=2", "x"}},
		{"a flag without its value", []string{"--threads"}},
		{"a flag twice", []string{"--threads", "1", "--threads", "2"}},
		{"a value out of range", []string{"--threads", "0"}},
		{"a value with a sign", []string{"--threads", "+1"}},
		{"a value with spaces", []string{"--threads", "1 "}},
		{"a value that is a flag", []string{"--threads", "--slots"}},
		{"an enumeration's stranger", []string{"--cache-type-k", "f64"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got, err := llama(t).Argv(config(c.args...), "m.gguf"); !fault.Has(err, CodeArgument) {
				t.Errorf("got %v, %v; want %s", got, err, CodeArgument)
			}
		})
	}
	t.Run("all refusals are listed", func(t *testing.T) {
		err := Check(config("--slots", "1", "--threads", "0"))
		if n := len(fault.All(err)); n != 2 {
			t.Errorf("%d faults, want 2: %v", n, err)
		}
	})
	t.Run("an unknown kind", func(t *testing.T) {
		c := config()
		c.Engine.Kind = "sh"
		if err := Check(c); !fault.Has(err, CodeArgument) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("a model file outside its directory", func(t *testing.T) {
		for _, f := range []string{"", "../x.gguf", "a/b"} {
			if _, err := llama(t).Argv(config(), f); !fault.Has(err, CodeArgument) {
				t.Errorf("%q: got %v", f, err)
			}
		}
	})
}

// TestTheContainerIsAllowedNothingMore checks the whole spec that runc gets.
func TestTheContainerIsAllowedNothingMore(t *testing.T) {
	ctx := namespaces.WithNamespace(context.Background(), namespace)
	s, err := oci.GenerateSpec(ctx, nil, &containers.Container{ID: "engine"}, specOpts(Container{
		Rootfs: "/rootfs", Argv: []string{"/bin/x"}, ModelDir: "/m", SocketDir: "/s", Memory: 1 << 30, CPUs: 1.9, PIDs: 512,
	})...)
	if err != nil {
		t.Fatal(err)
	}
	if s.Root.Path != "/rootfs" || !s.Root.Readonly {
		t.Errorf("root is %+v", s.Root)
	}
	p := s.Process
	if p.User.UID != ContainerUID || p.User.GID != ContainerUID || !p.NoNewPrivileges || p.Terminal {
		t.Errorf("process runs as %+v, no_new_privs %v", p.User, p.NoNewPrivileges)
	}
	for name, set := range map[string][]string{"bounding": p.Capabilities.Bounding, "effective": p.Capabilities.Effective,
		"permitted": p.Capabilities.Permitted, "inheritable": p.Capabilities.Inheritable, "ambient": p.Capabilities.Ambient} {
		if len(set) != 0 {
			t.Errorf("%s capabilities are %v", name, set)
		}
	}
	if s.Linux.Seccomp == nil || s.Linux.Seccomp.DefaultAction != specs.ActErrno {
		t.Error("no seccomp profile that refuses by default")
	}
	for _, call := range s.Linux.Seccomp.Syscalls {
		if call.Action == specs.ActAllow && slices.Contains(call.Names, "mount") {
			t.Error("mount(2) is allowed")
		}
	}
	net := slices.IndexFunc(s.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	if net < 0 || s.Linux.Namespaces[net].Path != "" {
		t.Error("the container shares a network")
	}
	r := s.Linux.Resources
	if *r.Memory.Limit != 1<<30 || *r.Memory.Swap != 1<<30 || *r.Pids.Limit != 512 || *r.CPU.Quota != 190000 {
		t.Errorf("limits are memory %d swap %d pids %d cpu %d", *r.Memory.Limit, *r.Memory.Swap, *r.Pids.Limit, *r.CPU.Quota)
	}
	writable := map[string]bool{"/proc": true, "/dev": true, "/dev/pts": true, "/dev/shm": true, "/run": true, "/tmp": true, socketDir: true}
	for _, m := range s.Mounts {
		if !writable[m.Destination] && !slices.Contains(m.Options, "ro") {
			t.Errorf("%s is writable", m.Destination)
		}
	}
	if diff := cmp.Diff([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8", "HOME=/tmp"}, p.Env); diff != "" {
		t.Errorf("environment (-want +got):\n%s", diff)
	}
}

// engineServer answers on a UNIX socket as an engine does; the flags make it
// fail.
type engineServer struct {
	health, models, chat func() (int, string)
}

func good() *engineServer {
	return &engineServer{
		health: func() (int, string) { return 200, `{"status":"ok"}` },
		models: func() (int, string) { return 200, `{"data":[{"id":"m"}]}` },
		chat:   func() (int, string) { return 200, `{"choices":[{}]}` },
	}
}

func (e *engineServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f := map[string]func() (int, string){"/health": e.health, "/v1/models": e.models, "/v1/chat/completions": e.chat}[r.URL.Path]
	code, body := f()
	w.WriteHeader(code)
	fmt.Fprint(w, body)
}

func (e *engineServer) listen(t *testing.T, path string) {
	t.Helper()
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: e}
	go srv.Serve(ln)
	t.Cleanup(func() { srv.Close() })
}

func TestReadyNeedsAllThreeProbes(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*engineServer)
		want   string // part of the error, empty for ready
	}{
		{"a good engine", func(*engineServer) {}, ""},
		{"still loading", func(e *engineServer) { e.health = func() (int, string) { return 503, "" } }, "503"},
		{"another model", func(e *engineServer) { e.models = func() (int, string) { return 200, `{"data":[{"id":"x"}]}` } }, "does not list"},
		{"models that are no JSON", func(e *engineServer) { e.models = func() (int, string) { return 200, `<html>` } }, "models"},
		{"no answer", func(e *engineServer) { e.chat = func() (int, string) { return 200, `{"choices":[]}` } }, "no choices"},
		{"a chat that fails", func(e *engineServer) { e.chat = func() (int, string) { return 500, "" } }, "500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := good()
			c.change(e)
			path := filepath.Join(t.TempDir(), "s")
			e.listen(t, path)
			err := llama(t).Ready(context.Background(), NewAPI(llama(t), unixDial(path)), "m")
			if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// fakeRuntime starts tasks that listen on the socket, or that exit at once.
type fakeRuntime struct {
	t      *testing.T
	serve  bool
	mu     sync.Mutex
	log    []string
	tasks  []*fakeTask
	startE error

	engines []*engineServer // that listen, one for each start; none: see serve
}

type fakeTask struct {
	done    chan struct{}
	once    sync.Once
	err     error
	removed chan struct{}
}

func (f *fakeTask) PID() int              { return os.Getpid() }
func (f *fakeTask) Done() <-chan struct{} { return f.done }
func (f *fakeTask) Err() error            { return f.err }
func (f *fakeTask) exit(err error)        { f.once.Do(func() { f.err = err; close(f.done) }) }
func (f *fakeTask) Remove(context.Context) error {
	f.exit(nil)
	close(f.removed)
	return nil
}

func (f *fakeRuntime) Clean(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "clean")
	return nil
}

func (f *fakeRuntime) Start(_ context.Context, c Container) (Task, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, "start")
	if f.startE != nil {
		return nil, f.startE
	}
	task := &fakeTask{done: make(chan struct{}), removed: make(chan struct{})}
	f.tasks = append(f.tasks, task)
	if n := len(f.tasks) - 1; n < len(f.engines) {
		f.engines[n].listen(f.t, filepath.Join(c.SocketDir, SocketName))
	} else if f.serve {
		good().listen(f.t, filepath.Join(c.SocketDir, SocketName))
	}
	return task, nil
}

func (f *fakeRuntime) task(i int) *fakeTask {
	f.mu.Lock()
	defer f.mu.Unlock()
	if i < len(f.tasks) {
		return f.tasks[i]
	}
	return nil
}

func manager(t *testing.T, r *fakeRuntime, changes chan bool) *Manager {
	t.Helper()
	return New(Options{
		Runtime: r, Adapter: llama(t), Container: Container{SocketDir: filepath.Join(t.TempDir(), "e")}, Model: "m", UID: os.Getuid(),
		Deadline: time.Minute, OnChange: func(up bool) { changes <- up }, Log: slog.New(slog.DiscardHandler),
	})
}

func TestAnEngineThatExitsIsStartedAgain(t *testing.T) {
	r := &fakeRuntime{t: t, serve: true}
	changes := make(chan bool, 8)
	m := manager(t, r, changes)
	if err := m.Start(context.Background()); err != nil {
		t.Fatal(err)
	}
	if !<-changes || !m.Up() {
		t.Fatal("the engine is not up after Start")
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan struct{})
	go func() { m.Supervise(ctx); close(ended) }()
	r.task(0).exit(errors.New("crash"))
	if up := <-changes; up {
		t.Error("serving goes on without an engine")
	}
	if up := <-changes; !up || !m.Up() {
		t.Error("the engine did not come up again")
	}
	<-r.task(0).removed
	if diff := cmp.Diff([]string{"clean", "start", "clean", "start"}, r.log); diff != "" {
		t.Errorf("runtime calls (-want +got):\n%s", diff)
	}
	cancel()
	<-ended
	if err := m.Stop(context.Background()); err != nil || m.Up() {
		t.Errorf("stopping: %v, up %v", err, m.Up())
	}
	<-r.task(1).removed
}

func TestStartFailures(t *testing.T) {
	t.Run("an engine that exits before it is ready", func(t *testing.T) {
		r := &fakeRuntime{t: t}
		m := manager(t, r, make(chan bool, 1))
		go func() {
			for r.task(0) == nil {
				time.Sleep(time.Millisecond)
			}
			r.task(0).exit(errors.New("bad model"))
		}()
		err := m.Start(context.Background())
		if !fault.Has(err, CodeExited) || m.Up() {
			t.Errorf("got %v, up %v", err, m.Up())
		}
		<-r.task(0).removed
	})
	t.Run("an engine that never gets ready", func(t *testing.T) {
		r := &fakeRuntime{t: t}
		m := manager(t, r, make(chan bool, 1))
		m.opt.Deadline = 10 * time.Millisecond
		if err := m.Start(context.Background()); !fault.Has(err, CodeNotReady) {
			t.Errorf("got %v, want %s", err, CodeNotReady)
		}
		<-r.task(0).removed
	})
	t.Run("a runtime that fails", func(t *testing.T) {
		r := &fakeRuntime{t: t, startE: errors.New("no runc")}
		if err := manager(t, r, make(chan bool, 1)).Start(context.Background()); !errors.Is(err, r.startE) {
			t.Errorf("got %v", err)
		}
	})
}

func TestMemoryLimit(t *testing.T) {
	const mib = 1 << 20
	for _, c := range []struct {
		name         string
		total, model uint64
		want         uint64 // 0 for a refusal
	}{
		{"a small machine keeps the least reserve", 1536 * mib, mib, 1280 * mib},
		{"a large one keeps an eighth", 64 << 10 * mib, mib, 56 << 10 * mib},
		{"a model that just fits", 1024 * mib, 640 * mib, 768 * mib},
		{"a model that does not", 1024 * mib, 641 * mib, 0},
		{"a machine below the reserve", 128 * mib, 0, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := MemoryLimit(c.total, c.model)
			if got != c.want || (c.want == 0) != fault.Has(err, CodeMemory) {
				t.Errorf("got %d, %v; want %d", got, err, c.want)
			}
		})
	}
}

// TestEnginesShareWhatOneWouldHave: each has room for its model, and together
// they have no more.
func TestEnginesShareWhatOneWouldHave(t *testing.T) {
	const mib = 1 << 20
	got, err := MemoryLimits(2048*mib, []uint64{100 * mib, 300 * mib})
	if err != nil || len(got) != 2 || got[0] != 796*mib || got[1] != 996*mib {
		t.Errorf("got %v, %v", got, err)
	}
	one, err := MemoryLimits(1536*mib, []uint64{mib})
	if want, _ := MemoryLimit(1536*mib, mib); err != nil || len(one) != 1 || one[0] != want {
		t.Errorf("one alone has %v, %v; want %d", one, err, want)
	}
	// Both fit alone, and not together; nor with too little beside them.
	for _, models := range [][]uint64{{640 * mib, 640 * mib}, {400 * mib, 200 * mib}} {
		if got, err := MemoryLimits(1024*mib, models); !fault.Has(err, CodeMemory) {
			t.Errorf("models of %v: %v, %v", models, got, err)
		}
	}
	if sum := (Metrics{1, 2, 3, 4, -1}).Plus(Metrics{1, 1, 1, 1, 0.5}); sum != (Metrics{2, 3, 4, 5, 0.5}) {
		t.Errorf("together their figures are %+v", sum)
	}
}

func TestDaemonConfigIsForOneContainerOnly(t *testing.T) {
	for _, off := range []string{"io.containerd.grpc.v1.cri", "io.containerd.nri.v1.nri", "io.containerd.tracing.processor.v1.otlp"} {
		if !strings.Contains(daemonToml, fmt.Sprintf("%q,", off)) {
			t.Errorf("%s is not switched off", off)
		}
	}
	if !filepath.IsAbs(DaemonSocket) {
		t.Error("the client needs an absolute path")
	}
}

func TestFreshDirRemovesAStaleSocket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "e")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, SocketName), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := freshDir(dir, os.Getuid()); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

// FuzzArgv: whatever a config says, an accepted command line holds only the
// fixed arguments and pairs of the list.
func FuzzArgv(f *testing.F) {
	f.Add("--threads", "1", "--ctx-size", "4096")
	f.Add("--model", "/etc/passwd", "--threads", "1")
	f.Fuzz(func(t *testing.T, a, b, c, d string) {
		argv, err := kinds[0].Argv(config(a, b, c, d), "m.gguf")
		if err != nil {
			return
		}
		list := kinds[0].flags
		for i := 12; i < len(argv); i += 2 {
			valid, ok := list[argv[i]]
			if !ok || valid(argv[i+1]) != nil {
				t.Fatalf("argument %q %q passed", argv[i], argv[i+1])
			}
		}
		if _, err := json.Marshal(argv); err != nil {
			t.Fatal(err)
		}
	})
}

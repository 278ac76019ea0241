// Package engine runs the inference engine: one container, in place from its
// verity pack, without a network, reached over a UNIX socket. It comes up
// only when it really answers, and is started again with back-off when it
// exits.
package engine

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"cocoon/internal/fault"
)

// Codes of faults.
const (
	CodeNotReady = "engine.not_ready"
	CodeExited   = "engine.exited"
	CodeSick     = "engine.sick"
	CodeDevices  = "engine.devices"
	CodeMemory   = "engine.memory"
)

// Container is what to run.
type Container struct {
	Rootfs    string   // the mounted engine pack
	Argv      []string // of the adapter
	ModelDir  string   // the mounted model pack, bound read-only
	SocketDir string   // bound writable; the engine makes its socket there
	Memory    uint64   // limit in bytes
	CPUs      float64  // limit in cores
	PIDs      int64

	// What an adapter's Shape adds.
	Env          []string // beside PATH and LANG; empty: a HOME in /tmp
	SharedMemory uint64   // of /dev/shm in bytes, 0 for the default
	Cache        uint64   // of a tmpfs for compiled code in bytes, 0 for none
	Devices      []string // CDI names, such as nvidia.com/gpu=all
}

// Task is a running container.
type Task interface {
	// PID is the engine's process in the supervisor's namespace.
	PID() int
	// Done is closed once the engine has exited.
	Done() <-chan struct{}
	// Err says how, after Done.
	Err() error
	// Remove kills what is left and deletes the container.
	Remove(ctx context.Context) error
}

// Runtime runs containers. Containerd is the one that ships.
type Runtime interface {
	// Clean kills and deletes every container, such as strays of an earlier
	// supervisor.
	Clean(ctx context.Context) error
	Start(ctx context.Context, c Container) (Task, error)
}

// Options of a Manager.
type Options struct {
	Runtime   Runtime
	Adapter   Adapter
	Container Container
	Model     string        // name that the engine must list
	Deadline  time.Duration // from start to readiness, 0 for the adapter's
	Watch     time.Duration // between looks at a ready engine, 0 for the adapter's
	UID       int           // owner of the socket directory; ContainerUID
	OnChange  func(up bool) // serving starts and stops with the engine
	Log       *slog.Logger
}

// Defaults and limits of a Manager.
const (
	DefaultDeadline = 2 * time.Minute
	minBackoff      = time.Second
	maxBackoff      = time.Minute
	stableAfter     = time.Minute // an engine up this long resets the back-off
	removeTimeout   = 30 * time.Second
)

// Manager keeps one engine running.
type Manager struct {
	opt        Options
	api        *API
	minBackoff time.Duration

	mu   sync.Mutex
	task Task // that is ready
	pid  int  // of the newest task, ready or not
	up   bool
}

// New returns a Manager that runs nothing yet.
func New(opt Options) *Manager {
	if opt.Deadline == 0 {
		opt.Deadline = opt.Adapter.Deadline()
	}
	if opt.Watch == 0 {
		opt.Watch = opt.Adapter.Watch()
	}
	if opt.OnChange == nil {
		opt.OnChange = func(bool) {}
	}
	m := &Manager{opt: opt, minBackoff: minBackoff}
	m.api = NewAPI(opt.Adapter, m.dial)
	return m
}

// dial connects to the engine that runs.
func (m *Manager) dial(ctx context.Context) (net.Conn, error) {
	port := m.opt.Adapter.Port()
	if port == 0 {
		return new(net.Dialer).DialContext(ctx, "unix", filepath.Join(m.opt.Container.SocketDir, SocketName))
	}
	m.mu.Lock()
	pid := m.pid
	m.mu.Unlock()
	return dialInside(ctx, pid, port)
}

// Metrics reads the engine's own figures.
func (m *Manager) Metrics(ctx context.Context) (Metrics, error) {
	if !m.Up() {
		return Metrics{}, errors.New("reading engine's metrics: it is down")
	}
	return m.opt.Adapter.Metrics(ctx, m.api)
}

// API returns the engine's HTTP interface.
func (m *Manager) API() *API { return m.api }

// Up reports whether the engine is ready.
func (m *Manager) Up() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.up
}

// Start removes strays, starts the engine and waits until it is ready.
func (m *Manager) Start(ctx context.Context) error {
	if err := m.opt.Runtime.Clean(ctx); err != nil {
		return fmt.Errorf("removing stray containers: %w", err)
	}
	return m.start(ctx)
}

func (m *Manager) start(ctx context.Context) error {
	if err := freshDir(m.opt.Container.SocketDir, m.opt.UID); err != nil {
		return err
	}
	task, err := m.opt.Runtime.Start(ctx, m.opt.Container)
	if err != nil {
		return fmt.Errorf("starting engine: %w", err)
	}
	m.mu.Lock()
	m.pid = task.PID()
	m.mu.Unlock()
	if err := m.await(ctx, task); err != nil {
		rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
		defer cancel()
		return errors.Join(err, task.Remove(rctx))
	}
	m.mu.Lock()
	m.task, m.up = task, true
	m.mu.Unlock()
	m.opt.OnChange(true)
	return nil
}

// await polls until the engine is ready, has exited, or the deadline is over.
func (m *Manager) await(ctx context.Context, task Task) error {
	ctx, cancel := context.WithTimeout(ctx, m.opt.Deadline)
	defer cancel()
	var last error
	for {
		if last = m.opt.Adapter.Ready(ctx, m.api, m.opt.Model); last == nil {
			return nil
		}
		select {
		case <-task.Done():
			return exited(task.Err())
		case <-ctx.Done():
			return fault.New(fault.ExitNotReady, CodeNotReady,
				"give the machine more memory or cores; a memory limit below the model's size makes it thrash",
				"waiting %s for the engine: %w", m.opt.Deadline, last)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func exited(err error) error {
	const remedy = "check the engine's arguments and the model pack"
	if err == nil {
		return fault.New(fault.ExitNotReady, CodeExited, remedy, "running engine: it ended without an error")
	}
	return fault.New(fault.ExitNotReady, CodeExited, remedy, "running engine: %w", err)
}

// Supervise watches a started engine until ctx ends and starts it again when
// it exits, each time after a longer pause.
func (m *Manager) Supervise(ctx context.Context) {
	backoff := m.minBackoff
	for {
		m.mu.Lock()
		task := m.task
		m.mu.Unlock()
		begin := time.Now()
		if task != nil {
			err := m.watch(ctx, task)
			if ctx.Err() != nil {
				return
			}
			m.down(ctx, task, err)
			if time.Since(begin) > stableAfter {
				backoff = m.minBackoff
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(backoff):
		}
		backoff = min(2*backoff, maxBackoff)
		// From the beginning: a daemon that was killed, too, knows of containers
		// that are gone.
		if err := m.Start(ctx); err != nil && ctx.Err() == nil {
			m.opt.Log.Error("engine did not come up", "err", err)
		}
	}
}

// maxSick is how many looks in a row may fail: one alone may be a busy machine.
const maxSick = 3

// watch returns why an engine that was ready serves no longer: it exited, or it
// runs and answers nobody, as one does whose GPU is lost.
func (m *Manager) watch(ctx context.Context, task Task) error {
	tick := time.NewTicker(m.opt.Watch)
	defer tick.Stop()
	sick := 0
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-task.Done():
			return exited(task.Err())
		case <-tick.C:
		}
		err := m.opt.Adapter.Alive(ctx, m.api)
		if sick++; err == nil {
			sick = 0
		}
		if sick == maxSick {
			return fault.New(fault.ExitNotReady, CodeSick, "if it happens again, look at the GPUs and at the engine's arguments",
				"watching engine: %d health checks in a row failed: %w", sick, err)
		}
	}
}

func (m *Manager) down(ctx context.Context, task Task, why error) {
	m.mu.Lock()
	m.task, m.up = nil, false
	m.mu.Unlock()
	m.opt.OnChange(false)
	m.opt.Log.Error("engine is down", "err", why)
	// The next engine must not be asked over the last one's connections.
	m.api.transport.CloseIdleConnections()
	rctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if err := task.Remove(rctx); err != nil {
		m.opt.Log.Error("engine not removed", "err", err)
	}
}

// Stop ends the engine.
func (m *Manager) Stop(ctx context.Context) error {
	m.mu.Lock()
	task := m.task
	m.task, m.up = nil, false
	m.mu.Unlock()
	if task == nil {
		return nil
	}
	return task.Remove(ctx)
}

// freshDir makes an empty directory: an engine that finds a stale socket
// would not listen.
func freshDir(dir string, uid int) error {
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("clearing socket directory: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("making socket directory: %w", err)
	}
	if err := os.Chown(dir, uid, uid); err != nil {
		return fmt.Errorf("making socket directory: %w", err)
	}
	return nil
}

// memory kept for the supervisor, containerd and the kernel.
const minReserve = 256 << 20

// MemoryLimits divides what one engine would have among those of several
// models: each has room for its model, and an equal part of the rest.
func MemoryLimits(total uint64, models []uint64) ([]uint64, error) {
	var sum uint64
	for _, n := range models {
		sum += n
	}
	// Each engine needs the slack that MemoryLimit wants for one.
	limit, err := MemoryLimit(total, sum+uint64(len(models)-1)*slack)
	if err != nil {
		return nil, err
	}
	out := make([]uint64, len(models))
	for i, n := range models {
		out[i] = n + (limit-sum)/uint64(len(models))
	}
	return out, nil
}

// slack is what an engine needs beside its model, at the least.
const slack = 128 << 20

// MemoryLimit returns the engine's limit for a machine with total bytes of
// memory and a model of the given size, or a fault where that cannot work: an
// engine whose limit is below its mapped model is not killed, it thrashes.
func MemoryLimit(total, model uint64) (uint64, error) {
	reserve := max(total/8, minReserve)
	if total <= reserve || total-reserve < model+slack {
		return 0, fault.Mismatch(fault.ExitNotReady, CodeMemory, "memory for the engine",
			fmt.Sprintf("at least %d MiB in the machine", (model+slack+minReserve)*8/7>>20+1), fmt.Sprintf("%d MiB", total>>20),
			"give the machine more memory")
	}
	return total - reserve, nil
}

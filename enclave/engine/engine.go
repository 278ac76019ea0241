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
	CodeMemory   = "engine.memory"
)

// Container is what to run.
type Container struct {
	Rootfs    string   // the mounted engine pack
	Argv      []string // from Argv
	ModelDir  string   // the mounted model pack, bound read-only
	SocketDir string   // bound writable; the engine makes its socket there
	Memory    uint64   // limit in bytes
	CPUs      float64  // limit in cores
	PIDs      int64
}

// Task is a running container.
type Task interface {
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
	Container Container
	Model     string        // name that the engine must list
	Deadline  time.Duration // from start to readiness, 0 for DefaultDeadline
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
	task Task
	up   bool
}

// New returns a Manager that runs nothing yet.
func New(opt Options) *Manager {
	if opt.Deadline == 0 {
		opt.Deadline = DefaultDeadline
	}
	if opt.OnChange == nil {
		opt.OnChange = func(bool) {}
	}
	return &Manager{opt: opt, minBackoff: minBackoff, api: NewAPI(filepath.Join(opt.Container.SocketDir, SocketName))}
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
		if last = m.api.Ready(ctx, m.opt.Model); last == nil {
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
			select {
			case <-ctx.Done():
				return
			case <-task.Done():
			}
			m.down(ctx, task)
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

func (m *Manager) down(ctx context.Context, task Task) {
	m.mu.Lock()
	m.task, m.up = nil, false
	m.mu.Unlock()
	m.opt.OnChange(false)
	m.opt.Log.Error("engine exited", "err", exited(task.Err()))
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

// MemoryLimit returns the engine's limit for a machine with total bytes of
// memory and a model of the given size, or a fault where that cannot work: an
// engine whose limit is below its mapped model is not killed, it thrashes.
func MemoryLimit(total, model uint64) (uint64, error) {
	reserve := max(total/8, minReserve)
	const slack = 128 << 20
	if total <= reserve || total-reserve < model+slack {
		return 0, fault.Mismatch(fault.ExitNotReady, CodeMemory, "memory for the engine",
			fmt.Sprintf("at least %d MiB in the machine", (model+slack+minReserve)*8/7>>20+1), fmt.Sprintf("%d MiB", total>>20),
			"give the machine more memory")
	}
	return total - reserve, nil
}

package engine

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/contrib/seccomp"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ContainerUID is the user and group that an engine runs as.
const ContainerUID = 65532

const (
	namespace   = "cocoon"
	containerID = "engine"
	runtimeName = "io.containerd.runc.v2"
)

// Containerd is a Runtime on a containerd daemon.
type Containerd struct {
	client *containerd.Client
}

// Connect connects to the daemon on its socket, an absolute path.
func Connect(ctx context.Context, socket string) (*Containerd, error) {
	c, err := containerd.New(socket, containerd.WithDefaultNamespace(namespace), containerd.WithTimeout(time.Second))
	if err != nil {
		return nil, fmt.Errorf("connecting to containerd: %w", err)
	}
	if _, err := c.Version(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to containerd: %w", err), c.Close())
	}
	return &Containerd{client: c}, nil
}

// Close ends the connection.
func (c *Containerd) Close() error { return c.client.Close() }

// Named is a Runtime of one container beside others on the same daemon: it
// touches no other.
func (c *Containerd) Named(id string) Runtime { return &named{c, id} }

type named struct {
	c  *Containerd
	id string
}

// Clean implements Runtime.
func (n *named) Clean(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	ctr, err := n.c.client.LoadContainer(ctx, n.id)
	if errdefs.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("finding container %s: %w", n.id, err)
	}
	return remove(ctx, ctr)
}

// Start implements Runtime.
func (n *named) Start(ctx context.Context, spec Container) (Task, error) {
	return n.c.run(ctx, n.id, spec)
}

// Clean implements Runtime.
func (c *Containerd) Clean(ctx context.Context) error {
	ctx = namespaces.WithNamespace(ctx, namespace)
	list, err := c.client.Containers(ctx)
	if err != nil {
		return fmt.Errorf("listing containers: %w", err)
	}
	var errs []error
	for _, ctr := range list {
		errs = append(errs, remove(ctx, ctr))
	}
	return errors.Join(errs...)
}

func remove(ctx context.Context, ctr containerd.Container) error {
	task, err := ctr.Task(ctx, nil)
	switch {
	case err == nil:
		if _, err := task.Delete(ctx, containerd.WithProcessKill); err != nil && !errdefs.IsNotFound(err) {
			return fmt.Errorf("killing container %s: %w", ctr.ID(), err)
		}
	case !errdefs.IsNotFound(err):
		return fmt.Errorf("finding container %s: %w", ctr.ID(), err)
	}
	if err := ctr.Delete(ctx); err != nil && !errdefs.IsNotFound(err) {
		return fmt.Errorf("deleting container %s: %w", ctr.ID(), err)
	}
	return nil
}

// specOpts is everything an engine's container is allowed.
func specOpts(c Container) []oci.SpecOpts {
	const period = 100000
	env := c.Env
	if len(env) == 0 {
		env = []string{"HOME=/tmp"}
	}
	opts := []oci.SpecOpts{
		oci.WithDefaultSpec(),
		oci.WithRootFSPath(c.Rootfs),
		oci.WithRootFSReadonly(),
		oci.WithProcessArgs(c.Argv...),
		oci.WithProcessCwd("/"),
		oci.WithHostname("engine"),
		withEnv(append([]string{"PATH=/usr/local/bin:/usr/bin:/bin", "LANG=C.UTF-8"}, env...)...),
		oci.WithUIDGID(ContainerUID, ContainerUID),
		oci.WithNoNewPrivileges,
		oci.WithCapabilities(nil),
		oci.WithAmbientCapabilities(nil),
		oci.WithMemoryLimit(c.Memory),
		oci.WithMemorySwap(int64(c.Memory)),
		oci.WithPidsLimit(c.PIDs),
		oci.WithCPUCFS(int64(c.CPUs*period), period),
		withOOMScore(500), // before anything of the supervisor's
		oci.WithoutMounts("/dev/mqueue"),
		oci.WithMounts([]specs.Mount{
			{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "nodev", "noexec", "mode=1777", "size=64m"}},
			{Destination: modelDir, Type: "bind", Source: c.ModelDir, Options: []string{"bind", "ro", "nosuid", "nodev", "noexec"}},
			{Destination: socketDir, Type: "bind", Source: c.SocketDir, Options: []string{"bind", "rw", "nosuid", "nodev", "noexec"}},
		}),
		withoutCore,
		// After the capabilities, on which the profile depends.
		seccomp.WithDefaultProfile(),
	}
	if c.SharedMemory > 0 {
		opts = append(opts, oci.WithDevShmSize(int64(c.SharedMemory>>10)))
	}
	if c.Cache > 0 {
		// Code that an engine compiles for its GPU is run from here, so it is not
		// noexec: the container has no right that such code could use.
		opts = append(opts, oci.WithMounts([]specs.Mount{{Destination: cacheDir, Type: "tmpfs", Source: "tmpfs",
			Options: []string{"nosuid", "nodev", "mode=0700", fmt.Sprintf("size=%dk", c.Cache>>10), fmt.Sprintf("uid=%d", ContainerUID), fmt.Sprintf("gid=%d", ContainerUID)}}}))
	}
	if len(c.Devices) > 0 {
		// Last: it adds devices, mounts and environment that the others would
		// take back.
		opts = append(opts, withDevices(c.Devices))
	}
	return opts
}

// withEnv sets the whole environment.
func withEnv(env ...string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containerdContainer, s *oci.Spec) error {
		s.Process.Env = env
		return nil
	}
}

func withOOMScore(n int) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, _ *containerdContainer, s *oci.Spec) error {
		s.Process.OOMScoreAdj = &n
		return nil
	}
}

func withoutCore(_ context.Context, _ oci.Client, _ *containerdContainer, s *oci.Spec) error {
	s.Process.Rlimits = append(s.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_CORE"})
	return nil
}

// Start implements Runtime.
func (c *Containerd) Start(ctx context.Context, spec Container) (Task, error) {
	return c.run(ctx, containerID, spec)
}

func (c *Containerd) run(ctx context.Context, id string, spec Container) (Task, error) {
	ctx = namespaces.WithNamespace(ctx, namespace)
	ctr, err := c.client.NewContainer(ctx, id,
		containerd.WithNewSpec(specOpts(spec)...), containerd.WithRuntime(runtimeName, nil))
	if err != nil {
		return nil, fmt.Errorf("creating container: %w", err)
	}
	// The engine's output is dropped: it may carry prompts.
	task, err := ctr.NewTask(ctx, cio.NullIO)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("creating task: %w", err), remove(ctx, ctr))
	}
	// The watch outlives the call that starts it.
	exit, err := task.Wait(context.WithoutCancel(ctx))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("watching task: %w", err), remove(ctx, ctr))
	}
	if err := task.Start(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("starting task: %w", err), remove(ctx, ctr))
	}
	t := &containerdTask{ctr: ctr, pid: int(task.Pid()), done: make(chan struct{})}
	go t.watch(exit)
	return t, nil
}

type containerdTask struct {
	ctr  containerd.Container
	pid  int
	done chan struct{}
	mu   sync.Mutex
	err  error
}

func (t *containerdTask) watch(exit <-chan containerd.ExitStatus) {
	st := <-exit
	code, _, err := st.Result()
	t.mu.Lock()
	switch {
	case err != nil:
		t.err = fmt.Errorf("watching engine: %w", err)
	case code == 128+uint32(unix.SIGKILL):
		t.err = errors.New("engine was killed (exit code 137), for its memory limit perhaps")
	case code != 0:
		t.err = fmt.Errorf("engine ended with exit code %d", code)
	}
	t.mu.Unlock()
	close(t.done)
}

// PID implements Task.
func (t *containerdTask) PID() int { return t.pid }

// Done implements Task.
func (t *containerdTask) Done() <-chan struct{} { return t.done }

// Err implements Task.
func (t *containerdTask) Err() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.err
}

// Remove implements Task.
func (t *containerdTask) Remove(ctx context.Context) error {
	return remove(namespaces.WithNamespace(ctx, namespace), t.ctr)
}

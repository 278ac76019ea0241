package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/enclave/pid1"
	"cocoon/image/info"
	"cocoon/internal/toolstree"
	"cocoon/measurements/verity"
)

// inside names the variable that tells this program to be process 1 of the
// namespaces that the test made, and where the image's root is.
const inside = "COCOON_ENGINE_CRASH_ROOT"

// TestWhateverIsKilledComesBackAlone runs the image's own containerd and runc
// and kills engine, shim and daemon, one after the other and together. The
// engine is up again each time, there is one of each, and no mount is left.
func TestWhateverIsKilledComesBackAlone(t *testing.T) {
	if root := os.Getenv(inside); root != "" {
		crash(t, root)
		return
	}
	if os.Getenv("COCOON_VM_TESTS") == "" {
		t.Skip("runs the image's containerd; set COCOON_VM_TESTS=1 to run it")
	}
	if os.Getuid() != 0 {
		t.Skip("making containers takes root")
	}
	root := unpackRoot(t)
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestWhateverIsKilledComesBackAlone$", "-test.v", "-test.timeout=5m")
	cmd.Env = append(os.Environ(), inside+"="+root)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Fatalf("%v\n%s", err, out)
	}
}

// unpackRoot unpacks the built image's root file system, and puts an engine's
// beside it.
func unpackRoot(t *testing.T) string {
	t.Helper()
	tree, err := toolstree.Find()
	if err != nil {
		t.Fatal(err)
	}
	built := filepath.Join(filepath.Dir(tree.Dir), "image")
	im, err := info.LoadImage(built)
	if err != nil {
		t.Fatalf("reading the built image (run make image): %v", err)
	}
	dir := t.TempDir()
	disk, err := os.ReadFile(filepath.Join(built, info.RootDisk))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "erofs"), disk[:im.Root.DataBlocks*verity.BlockSize], 0o644); err != nil {
		t.Fatal(err)
	}
	root := filepath.Join(dir, "root")
	if out, err := tree.Command(t.Context(), "fsck.erofs", "--extract="+root, filepath.Join(dir, "erofs")).CombinedOutput(); err != nil {
		t.Fatalf("unpacking the root file system: %v\n%s", err, out)
	}
	// What the container mounts on must be there: its root is read-only.
	for _, d := range []string{"proc", "dev", "sys", "tmp", "run/engine", "run/lock", "models"} {
		if err := os.MkdirAll(filepath.Join(dir, "engine", d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	build := exec.CommandContext(t.Context(), "go", "build", "-o", filepath.Join(dir, "engine", "engine"), "./testdata/engine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("building the engine: %v\n%s", err, out)
	}
	return root
}

// processes lists the processes of this namespace by a part of their command
// lines.
func processes(part string) []int {
	var pids []int
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	for _, d := range dirs {
		line, err := os.ReadFile(filepath.Join(d, "cmdline"))
		pid, _ := strconv.Atoi(filepath.Base(d))
		if err == nil && pid != 1 && strings.HasPrefix(string(line), part) {
			pids = append(pids, pid)
		}
	}
	return pids
}

const (
	engineProcess = "/engine"
	shimProcess   = "/usr/bin/containerd-shim-runc-v2"
	daemonProcess = "/usr/bin/containerd\x00"
)

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// crash is the test's inner half: process 1 of its own namespaces, as the
// supervisor is.
func crash(t *testing.T, root string) {
	if os.Getpid() != 1 {
		t.Fatal("not process 1")
	}
	for _, m := range []struct{ source, target, fs string }{
		{"proc", "/proc", "proc"},
		{root, root, ""}, {"proc", root + "/proc", "proc"}, {"/sys", root + "/sys", ""}, {"/dev", root + "/dev", ""},
		{"tmpfs", root + "/run", "tmpfs"}, {"tmpfs", root + "/tmp", "tmpfs"},
		{filepath.Join(filepath.Dir(root), "engine"), root + "/srv", ""},
	} {
		if err := os.MkdirAll(m.target, 0o755); err != nil {
			t.Fatal(err)
		}
		flags := uintptr(0)
		if m.fs == "" {
			flags = unix.MS_BIND | unix.MS_REC
		}
		if m.target == "/proc" {
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount(m.source, m.target, m.fs, flags, ""); err != nil {
			t.Fatalf("mounting %s: %v", m.target, err)
		}
	}
	// From here on paths are the image's, for this program too.
	if err := errors.Join(unix.Chroot(root), os.Chdir("/"), os.MkdirAll("/run/containerd", 0o711), os.MkdirAll("/run/models", 0o755)); err != nil {
		t.Fatal(err)
	}
	if err := WriteDaemonConfig(); err != nil {
		t.Fatal(err)
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	reaper := pid1.NewReaper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go reaper.Run(ctx)
	var runtime *Containerd
	daemon := &pid1.Kept{Name: "containerd", Log: log, Start: func(ctx context.Context) (*pid1.Child, error) {
		cmd := exec.Command("/usr/bin/containerd", "--config", DaemonConfig)
		cmd.Env = []string{"PATH=" + DaemonPath}
		cmd.Stdout, cmd.Stderr = io.Discard, io.Discard
		wait, err := reaper.Start(cmd)
		if err != nil {
			return nil, err
		}
		done := make(chan struct{})
		go func() { _ = wait(); close(done) }()
		c, err := AwaitDaemon(ctx, done)
		if err != nil {
			return nil, err
		}
		if runtime == nil {
			runtime = c
		} else if err := c.Close(); err != nil {
			return nil, err
		}
		return &pid1.Child{Name: "containerd", PID: cmd.Process.Pid, Done: done}, nil
	}, Clear: func() error {
		// A machine without cgroup v2 has no cgroup.kill: one by one.
		for _, pid := range append(processes(shimProcess), processes(engineProcess)...) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		return RemoveSockets()
	}}
	if err := daemon.Begin(ctx); err != nil {
		t.Fatal(err)
	}
	go daemon.Run(ctx)
	m := New(Options{
		Runtime: runtime, Adapter: llama(t), Model: "m", Deadline: time.Minute, UID: ContainerUID, Log: log, Container: Container{
			Rootfs: "/srv", Argv: []string{"/engine"}, ModelDir: "/run/models", SocketDir: "/run/engine-sock",
			Memory: 256 << 20, CPUs: 1, PIDs: 64,
		},
	})
	m.minBackoff = 100 * time.Millisecond
	if err := m.Start(ctx); err != nil {
		t.Fatal(err)
	}
	supervised := make(chan struct{})
	go func() { m.Supervise(ctx); close(supervised) }()
	before := mounts(t)
	for _, victims := range [][]string{{engineProcess}, {shimProcess}, {daemonProcess}, {engineProcess, shimProcess}, {daemonProcess, shimProcess}, {daemonProcess, shimProcess, engineProcess}} {
		old := processes(engineProcess)
		if len(old) != 1 {
			t.Fatalf("%d engines run: %v", len(old), old)
		}
		for _, v := range victims {
			for _, pid := range processes(v) {
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					t.Errorf("killing %q: %v", v, err)
				}
			}
		}
		what := fmt.Sprintf("after the death of %q", victims)
		await(t, what, func() bool {
			now := processes(engineProcess)
			return m.Up() && daemon.Child() != nil && len(now) == 1 && now[0] != old[0] && len(processes(shimProcess)) == 1 && len(processes(daemonProcess)) == 1
		})
		if err := llama(t).Ready(ctx, m.API(), "m"); err != nil {
			t.Errorf("%s: %v", what, err)
		}
		if after := mounts(t); after != before {
			t.Errorf("%s mounts are\n%s, were\n%s", what, after, before)
		}
	}
	cancel()
	<-supervised
	stop, cancelStop := context.WithTimeout(t.Context(), time.Minute)
	defer cancelStop()
	if err := m.Stop(stop); err != nil {
		t.Error(err)
	}
	await(t, "after the stop", func() bool { return len(processes(engineProcess)) == 0 && len(processes(shimProcess)) == 0 })
}

// await waits for what must come about; the test's own time limit ends it.
func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for end := time.Now().Add(2 * time.Minute); !done(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: engines %v, shims %v, daemons %v", what, processes(engineProcess), processes(shimProcess), processes(daemonProcess))
		}
	}
}

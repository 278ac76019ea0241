package engine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	containers "github.com/containerd/containerd/v2/core/containers"
)

type containerdContainer = containers.Container

// Paths of the containerd daemon.
const (
	daemonDir    = "/run/containerd" // a tmpfs
	daemonRoot   = daemonDir + "/root"
	daemonState  = daemonDir + "/state"
	DaemonSocket = daemonDir + "/containerd.sock"
	DaemonConfig = daemonDir + "/config.toml"
	DaemonPath   = "/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin"
)

// daemonToml is containerd's configuration: only what running one container
// from a mounted root file system needs. Version 2 is read by containerd 1.7
// and by 2.x.
const daemonToml = `version = 2
root = "` + daemonRoot + `"
state = "` + daemonState + `"
disabled_plugins = [
  "io.containerd.grpc.v1.cri",
  "io.containerd.internal.v1.opt",
  "io.containerd.internal.v1.restart",
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]

[debug]
  level = "warn"

[grpc]
  address = "` + DaemonSocket + `"

[ttrpc]
  address = "` + DaemonSocket + `.ttrpc"
`

// WriteDaemonConfig writes the daemon's configuration to DaemonConfig.
func WriteDaemonConfig() error {
	if err := os.MkdirAll(daemonDir, 0o700); err != nil {
		return fmt.Errorf("writing containerd config: %w", err)
	}
	if err := os.WriteFile(DaemonConfig, []byte(daemonToml), 0o600); err != nil {
		return fmt.Errorf("writing containerd config: %w", err)
	}
	return nil
}

// Cgroup is the control group in which containers run: the OCI default, the
// namespace.
const Cgroup = namespace

// RemoveSockets removes the sockets that a daemon which was killed has left:
// they would look like one that is there and does not answer.
func RemoveSockets() error {
	var errs []error
	for _, path := range []string{DaemonSocket, DaemonSocket + ".ttrpc"} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("removing a socket of containerd: %w", err))
		}
	}
	return errors.Join(errs...)
}

// FindProgram returns the path of a program in DaemonPath.
func FindProgram(name string) (string, error) {
	for _, dir := range filepath.SplitList(DaemonPath) {
		path := filepath.Join(dir, name)
		if info, err := os.Stat(path); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", fmt.Errorf("finding program %s: %w", name, fs.ErrNotExist)
}

// ErrDaemonExited is returned when the daemon ends before it answers.
var ErrDaemonExited = errors.New("containerd exited")

// AwaitDaemon connects once the daemon answers. exited is closed if it ends.
func AwaitDaemon(ctx context.Context, exited <-chan struct{}) (*Containerd, error) {
	for {
		if _, err := os.Stat(DaemonSocket); err == nil {
			c, err := Connect(ctx, DaemonSocket)
			if err == nil {
				return c, nil
			}
			if ctx.Err() != nil {
				return nil, err
			}
		}
		select {
		case <-exited:
			return nil, ErrDaemonExited
		case <-ctx.Done():
			return nil, fmt.Errorf("waiting for containerd: %w", ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

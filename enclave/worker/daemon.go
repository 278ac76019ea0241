package worker

import (
	"context"
	"errors"
	"fmt"
	"os"

	"cocoon/enclave/engine"
	"cocoon/enclave/pid1"
)

// startContainerd starts the container daemon and keeps it running. When it
// ends, however it does, its shims and the engine end with it: nobody would
// watch them. It is started again, and then the engine is.
func (w *Worker) startContainerd(ctx, background context.Context) error {
	path, err := engine.FindProgram("containerd")
	if err != nil {
		return err
	}
	if err := engine.WriteDaemonConfig(); err != nil {
		return err
	}
	w.daemon = &pid1.Kept{Name: "containerd", Log: w.log, Clear: clearDaemon, Start: func(ctx context.Context) (*pid1.Child, error) {
		child, err := pid1.StartService(ctx, w.reaper, executable(), pid1.Service{
			Name: "containerd", Path: path, Args: []string{"--config", engine.DaemonConfig},
			Env:    []string{"PATH=" + engine.DaemonPath, "HOME=/", "TMPDIR=/tmp"},
			Harden: pid1.Table()[pid1.RowContainerd],
		}, w.log)
		if err != nil {
			return nil, err
		}
		if err := w.connectDaemon(ctx, child); err != nil {
			child.Stop(0)
			return nil, err
		}
		return child, nil
	}}
	if err := w.daemon.Begin(ctx); err != nil {
		return err
	}
	w.goBackground(func() { w.daemon.Run(background) })
	return nil
}

// connectDaemon waits until the daemon answers and reads back that it is
// confined. The connection outlives the daemon and finds the next one.
func (w *Worker) connectDaemon(ctx context.Context, child *pid1.Child) error {
	ctx, cancel := context.WithTimeout(ctx, daemonDeadline)
	defer cancel()
	c, err := engine.AwaitDaemon(ctx, child.Done)
	if errors.Is(err, engine.ErrDaemonExited) {
		return fmt.Errorf("%w: %w", err, child.Err())
	}
	if err != nil {
		return err
	}
	if w.containerd == nil {
		w.containerd = c
	} else if err := c.Close(); err != nil {
		return fmt.Errorf("connecting to containerd: %w", err)
	}
	return pid1.ConfirmProcess(os.DirFS("/"), pid1.RowContainerd, child.PID, pid1.Table()[pid1.RowContainerd])
}

// clearDaemon ends what a daemon that ended has left: its shims, which are in
// its control group, and the engine's container.
func clearDaemon() error {
	return errors.Join(pid1.KillGroup(pid1.Linux{}, pid1.RowContainerd), pid1.KillGroup(pid1.Linux{}, engine.Cgroup), engine.RemoveSockets())
}

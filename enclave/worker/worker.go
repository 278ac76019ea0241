// Package worker is the supervisor's main part: it wires the boot's stages in
// their order, keeps what they started running, and ends the machine. Any
// stage that fails ends it too: nothing is served by half a worker.
package worker

import (
	"cmp"
	"context"
	"crypto/x509"
	"errors"
	"log/slog"
	"os"
	"runtime"
	"sync"
	"time"

	"cocoon/contracts/chain"
	contracts "cocoon/contracts/ledger"
	"cocoon/enclave/attest"
	"cocoon/enclave/boot"
	"cocoon/enclave/datadisk"
	"cocoon/enclave/drain"
	"cocoon/enclave/engine"
	"cocoon/enclave/keys"
	"cocoon/enclave/ledger"
	"cocoon/enclave/meter"
	"cocoon/enclave/pack"
	"cocoon/enclave/pid1"
	"cocoon/enclave/platform"
	"cocoon/enclave/serve"
	"cocoon/enclave/status"
	"cocoon/enclave/vsock"
	"cocoon/internal/toncell"
	"cocoon/verifier/client"
	"cocoon/verifier/evidence"
)

// Dir holds what the supervisor writes at run time; it is a tmpfs.
const Dir = "/run/cocoon"

const (
	stopGrace = 10 * time.Second
	// daemonDeadline is what containerd has to come up.
	daemonDeadline = 90 * time.Second
	drainGrace     = 5 * time.Second // of running requests when the machine is told to stop without an order to drain
	pollState      = time.Second
	pollMetrics    = 15 * time.Second
)

// Worker is one boot.
type Worker struct {
	rep    *status.Reporter
	log    *slog.Logger
	reaper *pid1.Reaper
	dog    *pid1.Watchdog // nil without a device

	config   *evidence.Config
	operator *evidence.Operator
	machine  platform.Platform
	vsock    *vsock.Host // nil without a vsock device
	ton      []byte      // network config of the ledger, nil without a registry
	keys     *keys.Keys
	gpus     gpus // nil without GPUs

	dataDir    string     // mounted data disk, empty without
	dataBlank  bool       // this boot made its file system
	lost       chan error // why the data disk is no longer this boot's
	engineDir  string
	models     []served  // in the config's order
	modelKeys  [][]byte  // of encrypted packs, nil for plain ones, until they are opened; nil without any
	loading    time.Time // since when the model is read
	containerd *engine.Containerd
	daemon     *pid1.Kept

	verifier         *client.Client
	collector        *attest.Collector
	keepers          *attest.Keepers   // one for each model
	evidence         [][]byte          // collected, not yet judged
	chain            *chain.Client     // nil without a registry
	contracts        *contracts.Ledger // on chain
	registry, payout toncell.Address
	ledger           *ledger.Ledger // nil without a registry
	meter            meter.Meter
	server           *serve.Server
	drainer          *drain.Drainer
	tunnels          tunnels

	background sync.WaitGroup
}

// served is one model: its pack and the engine that answers for it.
type served struct {
	config evidence.ConfigModel
	pack   pack.Mounted
	engine *engine.Manager // nil until it was started
}

// New returns a Worker that reports to rep and logs to log.
func New(rep *status.Reporter, log *slog.Logger) *Worker {
	return &Worker{rep: rep, log: log, reaper: pid1.NewReaper(), drainer: drain.New(func(d status.Drain) {
		rep.Report(status.Line{Type: status.TypeDrain, Drain: &d})
	})}
}

// Run boots, serves until ctx ends or the machine is told to stop, drains, and
// cleans up. It returns why the boot or the service failed.
func (w *Worker) Run(ctx context.Context) error {
	asked, ask := pid1.NotifyShutdown(ctx)
	defer ask()
	// What the stages leave running ends after the drain, not with the asking.
	background, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	// Collects orphans until the very end, also while stopping.
	reapCtx, stopReaping := context.WithCancel(context.WithoutCancel(ctx))
	defer stopReaping()
	go w.reaper.Run(reapCtx)

	w.rep.State(status.Booting, nil)
	err := boot.Run(asked, time.Now, w.rep, w.watched(w.stages(background, ask)))
	if err == nil {
		err = w.attend(asked)
	}
	if err == nil && w.server != nil {
		w.rep.State(status.Draining, nil)
		w.dog.Well(w.drainer.Left() + wellFor)
		w.drainer.Finish(drainGrace)
	}
	w.dog.Well(wellFor)
	end()
	w.stop()
	if errors.Is(err, context.Canceled) || errors.Is(err, boot.ErrDone) {
		err = nil // asked to stop in the middle of the boot, or done
	}
	return err
}

// wellFor is how long the supervisor may take from one look at everything to
// the next, or to stop, before the watchdog resets the machine.
const wellFor = 3 * time.Minute

// watched tells the watchdog how long each stage may take; the boot ends one
// that takes longer.
func (w *Worker) watched(stages []boot.Stage) []boot.Stage {
	for i, s := range stages {
		if s.Expand != nil {
			stages[i].Expand = func() []boot.Stage { return w.watched(s.Expand()) }
			continue
		}
		stages[i].Run = func(ctx context.Context) error {
			w.dog.Well(cmp.Or(s.Timeout, boot.DefaultTimeout) + wellFor)
			return s.Run(ctx)
		}
	}
	return stages
}

// attend reports changes of state until ctx ends, or until something that
// nothing can replace has ended.
func (w *Worker) attend(ctx context.Context) error {
	state := ""
	stateTick, metricsTick := time.NewTicker(pollState), time.NewTicker(pollMetrics)
	defer stateTick.Stop()
	defer metricsTick.Stop()
	for {
		w.dog.Well(wellFor)
		now, why := status.Serving, w.gate()
		if why == nil && w.tunnels.count() == 0 {
			why = errNoTunnel
		}
		if why != nil {
			now = status.Paused
		}
		if phase := w.drainer.Phase(); phase != status.Serving {
			now, why = phase, nil
		}
		if now != state {
			state = now
			w.rep.State(state, why)
		}
		select {
		case <-ctx.Done():
			return nil
		case err := <-w.lost:
			return err
		case <-stateTick.C:
		case <-metricsTick.C:
			w.rep.Report(status.Line{Type: status.TypeMetrics, Metrics: w.meter.Text() + w.engineMetrics(ctx)})
		}
	}
}

// engineMetrics are the engine's own figures; there are none while it is too
// busy to say, and nothing depends on them.
func (w *Worker) engineMetrics(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	var sum engine.Metrics
	for i, s := range w.models {
		m, err := s.engine.Metrics(ctx)
		if err != nil {
			return ""
		}
		if i == 0 {
			sum = m
		} else {
			sum = sum.Plus(m)
		}
	}
	return sum.Text()
}

// gate says whether the worker may serve: containerd runs, and for each model the
// engine answers and a verdict is in force.
func (w *Worker) gate() error {
	if w.daemon.Child() == nil {
		return errDaemon
	}
	for _, s := range w.models {
		if !s.engine.Up() {
			return errEngineDown
		}
	}
	return w.keepers.Err()
}

// stop ends everything in the reverse order of its start.
func (w *Worker) stop() {
	w.rep.State(status.Stopping, nil)
	w.background.Wait()
	ctx, cancel := context.WithTimeout(context.Background(), stopGrace)
	defer cancel()
	for _, s := range w.models {
		if s.engine == nil {
			continue
		}
		if err := s.engine.Stop(ctx); err != nil {
			w.log.Warn("engine not stopped", "model", s.config.Name, "err", err)
		}
	}
	if w.daemon != nil {
		if child := w.daemon.Child(); child != nil {
			child.Stop(stopGrace)
		}
	}
	if w.ledger != nil {
		if err := w.ledger.Close(); err != nil {
			w.log.Warn("ledger not closed", "err", err)
		}
	}
	if w.chain != nil {
		if err := w.chain.Close(); err != nil {
			w.log.Warn("chain not closed", "err", err)
		}
	}
	if w.dataDir != "" {
		// After everything that writes to it.
		if err := datadisk.Close(); err != nil {
			w.log.Warn("data disk not closed", "err", err)
		}
	}
	if w.machine != nil {
		// The machine ends: what its TPM still holds dies with it.
		_ = w.machine.Close()
	}
}

// goBackground runs f until ctx ends; stop waits for it.
func (w *Worker) goBackground(f func()) {
	w.background.Add(1)
	go func() {
		defer w.background.Done()
		f()
	}()
}

// cpus returns the engine's limit in cores: a little is kept for the
// supervisor, so that it answers while the engine computes.
func cpus() float64 { return 0.95 * float64(runtime.NumCPU()) }

// systemRoots keeps certificate verification of an https verifier from
// reading the disk at each call.
func systemRoots() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		return x509.NewCertPool()
	}
	return pool
}

// executable is this program, for children that harden themselves first.
func executable() string {
	if path, err := os.Executable(); err == nil {
		return path
	}
	return "/proc/self/exe"
}

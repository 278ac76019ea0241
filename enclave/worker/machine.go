package worker

import (
	"context"
	"net"
	"os"

	"cocoon/enclave/platform"
	"cocoon/enclave/vsock"
	"cocoon/verifier/evidence"
)

// openPlatform finds out what the machine is, refuses it if the config names
// another kind or the host launched it for another config, and measures what
// the config says (DESIGN section 4, runtime measurements).
func (w *Worker) openPlatform(ctx context.Context) error {
	kind, err := platform.Detect(platform.Linux{})
	if err != nil {
		return err
	}
	if err := platform.Wanted(w.config, kind); err != nil {
		return err
	}
	var host func(context.Context, uint32) (net.Conn, error)
	if w.vsock != nil {
		host = vsock.DialHost
	}
	if w.machine, err = platform.Open(kind, platform.Running(os.DirFS("/"), host)); err != nil {
		return err
	}
	return w.measure(ctx, w.machine)
}

// measure holds the machine against the config and measures it.
func (w *Worker) measure(ctx context.Context, m platform.Platform) error {
	hash, err := w.config.Hash()
	if err != nil {
		return err
	}
	if err := m.Launched(ctx, hash); err != nil {
		return err
	}
	events, err := evidence.ConfigEvents(w.config)
	if err != nil {
		return err
	}
	if err := m.Measure(events...); err != nil {
		return err
	}
	w.log.Info("config measured", "platform", string(m.Kind()), "config", hash.String())
	return nil
}

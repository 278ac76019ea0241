package demo

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"os"
	"time"

	hostclient "cocoon/hostd/client"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
)

// host is the demo's cocoon-hostd.
type host struct {
	client *hostclient.Client
}

func (r *run) startHost(ctx context.Context) error {
	r.begin("host", "start cocoon-hostd; find out whether KVM boots here")
	cfg, socket := r.temp("hostd.json"), r.temp("hostd.sock")
	if err := writeJSON(cfg, map[string]any{"state_dir": r.temp("hostd"), "socket": socket, "ephemeral": true}); err != nil {
		return err
	}
	s, err := r.service("hostd", "cocoon-hostd", "serve", "--config", cfg)
	if err != nil {
		return err
	}
	r.host = &host{client: hostclient.New(socket)}
	if err := s.waitFor(ctx, time.Minute, func() error { _, err := r.host.client.Status(ctx); return err }); err != nil {
		return err
	}
	a, err := r.host.client.Accel(ctx)
	if err != nil {
		return err
	}
	r.note("accelerator %s: %s", a.Accelerator, a.Reason)
	return nil
}

// ekRoot returns the DER root of a software-TPM CA of the host.
func (h *host) ekRoot(name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	ca, err := h.client.CA(ctx, name)
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode([]byte(ca.RootPEM))
	if block == nil {
		return nil, fmt.Errorf("reading the software-TPM CA %s: no PEM", name)
	}
	return block.Bytes, nil
}

func (h *host) start(ctx context.Context, s *spec.Spec) (*machine.State, error) {
	return h.client.Start(ctx, s)
}

// wait returns the machine's state also where the stage cannot be reached.
func (h *host) wait(ctx context.Context, name, stage string, limit time.Duration) (*machine.State, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	st, err := h.client.Wait(ctx, name, stage, nil)
	if err == nil {
		return st, nil
	}
	get, stop := context.WithTimeout(context.WithoutCancel(ctx), 30*time.Second)
	defer stop()
	st, gerr := h.client.Get(get, name)
	if gerr != nil {
		return nil, fmt.Errorf("%w (asking for its state: %w)", err, gerr)
	}
	return st, err
}

// stop ends a machine at once and forgets it.
func (h *host) stop(name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	// The daemon is ephemeral: what cannot be stopped here ends with it.
	_, _ = h.client.Stop(ctx, name, true)
	_ = h.client.Remove(ctx, name)
}

func (h *host) console(name string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	var b bytes.Buffer
	if err := h.client.Console(ctx, name, &b, false); err != nil {
		return nil, fmt.Errorf("reading the console of %s: %w", name, err)
	}
	return b.Bytes(), nil
}

// keepConsole keeps a machine's console among the logs.
func (r *run) keepConsole(name string) error {
	b, err := r.host.console(name)
	if err != nil {
		return err
	}
	return os.WriteFile(r.keep(dirLogs, name+".console.log"), b, 0o644)
}

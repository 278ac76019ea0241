package worker

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"cocoon/gateway/tunnel"
	"cocoon/ratls"
)

const (
	minRedial  = time.Second
	maxRedial  = time.Minute
	serveGrace = 5 * time.Second
)

// tunnels counts the open tunnels. The zero value is ready.
type tunnels struct {
	mu      sync.Mutex
	n       int
	changed chan struct{} // closed at each change, made on demand
}

func (t *tunnels) add(d int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n += d
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

func (t *tunnels) count() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.n
}

// await returns once a tunnel is open, or when ctx ends.
func (t *tunnels) await(ctx context.Context) error {
	for {
		t.mu.Lock()
		if t.n > 0 {
			t.mu.Unlock()
			return nil
		}
		if t.changed == nil {
			t.changed = make(chan struct{})
		}
		changed := t.changed
		t.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// dialer opens a tunnel to a gateway.
type dialer func(ctx context.Context, addr string) (net.Listener, error)

// keep dials a gateway again and again, each time after a longer pause, and
// hands every tunnel to use, which returns when the tunnel ends.
func (t *tunnels) keep(ctx context.Context, addr string, dial dialer, failed func(error), use func(net.Listener) error) {
	pause := minRedial
	for ctx.Err() == nil {
		ln, err := dial(ctx, addr)
		if err == nil {
			pause = minRedial
			t.add(1)
			err = use(ln)
			t.add(-1)
			ln.Close()
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			failed(err)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
		pause = min(2*pause, maxRedial)
	}
}

// tunnel serves the clients of one gateway until ctx ends. The worker dials
// out; TLS to the clients runs inside the tunnel and ends here.
func (w *Worker) tunnel(ctx context.Context, addr string) {
	w.tunnels.keep(ctx, addr,
		func(ctx context.Context, addr string) (net.Listener, error) {
			return tunnel.Dial(ctx, addr, w.keys.Receipt, w.config.Model.Name)
		},
		func(err error) { w.log.Warn("gateway lost", "gateway", addr, "err", err) },
		func(ln net.Listener) error {
			return w.server.Serve(ctx, tls.NewListener(ln, ratls.ServerConfig(w.keeper.Certificate)), serveGrace)
		})
}

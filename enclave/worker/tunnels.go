package worker

import (
	"context"
	"crypto/tls"
	"net"
	"sync"
	"time"

	"cocoon/enclave/drain"
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

// maxConns bounds the clients' connections of one gateway: each takes memory
// before anybody has proven anything, and the gateway is not trusted to bound
// them.
const maxConns = 256

// bounded closes connections beyond a limit as they come. They are not left
// waiting: a stream that is not accepted in time ends its whole tunnel.
type bounded struct {
	net.Listener
	slots chan struct{}
}

func bound(l net.Listener, limit int) *bounded {
	return &bounded{l, make(chan struct{}, limit)}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		c, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &slotConn{Conn: c, free: func() { <-b.slots }}, nil
		default:
			c.Close()
		}
	}
}

// slotConn gives its slot back when it is closed.
type slotConn struct {
	net.Conn
	once sync.Once
	free func()
}

// Close implements net.Conn.
func (c *slotConn) Close() error {
	defer c.once.Do(c.free)
	return c.Conn.Close()
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
	w.tunnels.keep(ctx, addr, w.dial,
		func(err error) { w.log.Warn("gateway lost", "gateway", addr, "err", err) },
		func(ln net.Listener) error {
			return w.server.Serve(ctx, tls.NewListener(bound(ln, maxConns), ratls.ServerConfig(w.keepers.Certificate)), serveGrace)
		})
}

// dial opens a tunnel over which the gateway also hears whether the worker
// drains.
func (w *Worker) dial(ctx context.Context, addr string) (net.Listener, error) {
	draining, _ := w.drainer.Watch()
	t, err := tunnel.Dial(ctx, addr, w.keys.Receipt, tunnel.State{Models: w.offers(), Draining: draining})
	if err != nil {
		return nil, err
	}
	a := &announced{Listener: t, ended: make(chan struct{})}
	go announce(w.drainer, t.Notify, a.ended)
	return a, nil
}

// announced is a tunnel whose gateway is told of drains until it is closed.
type announced struct {
	net.Listener
	once  sync.Once
	ended chan struct{}
}

// Close implements net.Listener.
func (a *announced) Close() error {
	a.once.Do(func() { close(a.ended) })
	return a.Listener.Close()
}

// announce tells a gateway whenever the worker begins or ceases to drain, until
// the tunnel has ended. What does not arrive is told by the next hello.
func announce(d *drain.Drainer, notify func(draining bool) error, ended <-chan struct{}) {
	for {
		draining, changed := d.Watch()
		if err := notify(draining); err != nil {
			return // the tunnel is gone
		}
		select {
		case <-changed:
		case <-ended:
			return
		}
	}
}

// offers is what gateways list. They know of no ledger: without one nobody pays.
func (w *Worker) offers() []tunnel.Offer {
	var out []tunnel.Offer
	for _, m := range w.config.ServedModels() {
		o := tunnel.Offer{Name: m.Name}
		if w.config.Registry != "" {
			o.Price = w.operator.PriceOf(m.Name)
		}
		out = append(out, o)
	}
	return out
}

// Package drain carries out the host's orders to stop taking requests and to
// take them again (package hostorder), and the drain that ends every boot.
// Nothing proves who gives an order: it is about availability, which is the
// host's in any case.
package drain

import (
	"context"
	"slices"
	"sync"
	"time"

	"cocoon/enclave/status"
	"cocoon/internal/hostorder"
)

// Server is what drains. *serve.Server is one.
type Server interface {
	// Drain takes no more requests; those that run go on.
	Drain()
	// Resume takes requests again.
	Resume()
	// CutOff ends those that run.
	CutOff()
	// Load returns how many run and wait.
	Load() (running, waiting int)
	// Idle returns once none runs.
	Idle(ctx context.Context) error
}

const (
	// maxSeen bounds the orders that are remembered.
	maxSeen = 64
	// every is how often the host hears of a drain that goes on.
	every = time.Second
	// settle is how long requests that were cut off have for their receipts.
	settle = 10 * time.Second
)

// Drainer drains one server. Use New.
type Drainer struct {
	report func(status.Drain)

	mu     sync.Mutex
	server Server // nil until it serves
	now    status.Drain
	until  time.Time
	seen   []string
	stop   context.CancelFunc // of the drain that is under way
	done   chan struct{}      // closed when it is drained

	changed chan struct{} // closed when the phase changes, made on demand
}

// New returns a Drainer that takes requests. Each answer to the host goes to
// report.
func New(report func(status.Drain)) *Drainer {
	return &Drainer{report: report, now: status.Drain{Phase: status.Serving}}
}

// Phase returns status.Serving, Draining or Drained.
func (d *Drainer) Phase() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.now.Phase
}

// Watch returns whether requests are refused now, and a channel that is closed
// at the next change of phase.
func (d *Drainer) Watch() (draining bool, changed <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.changed == nil {
		d.changed = make(chan struct{})
	}
	return d.now.Phase != status.Serving, d.changed
}

// turned tells those who watch that the phase has changed.
func (d *Drainer) turned() {
	if d.changed != nil {
		close(d.changed)
		d.changed = nil
	}
}

// Left returns the most that a drain still takes; 0 where none is under way.
func (d *Drainer) Left() time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.now.Phase != status.Draining {
		return 0
	}
	return max(0, time.Until(d.until)) + settle
}

// Attach hands the server over, which begins to serve now, unless the host has
// said otherwise meanwhile.
func (d *Drainer) Attach(s Server) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.server = s
	if d.now.Phase != status.Serving {
		s.Drain()
	}
}

// Order carries an order out and answers it. An order that was seen before is
// answered only: one that a slow channel brings late, or twice, is no news.
func (d *Drainer) Order(o *hostorder.Order) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !slices.Contains(d.seen, o.ID) {
		if len(d.seen) == maxSeen {
			d.seen = d.seen[1:]
		}
		d.seen = append(d.seen, o.ID)
		switch o.Type {
		case hostorder.Drain:
			d.drain(o.ID, o.Deadline())
		case hostorder.Resume:
			d.resume(o.ID)
		}
	}
	d.tell()
}

// drain begins a drain, or gives the one that is under way another deadline.
func (d *Drainer) drain(order string, deadline time.Duration) {
	d.now.Order = order
	if d.now.Phase == status.Drained {
		return
	}
	if d.now.Phase == status.Serving {
		d.done = make(chan struct{})
		d.now.Cut = 0
	}
	d.now.Phase, d.until = status.Draining, time.Now().Add(deadline)
	d.turned()
	if d.stop != nil {
		d.stop()
	}
	if d.server == nil {
		d.drained() // nothing runs yet
		return
	}
	d.server.Drain()
	ctx, stop := context.WithCancel(context.Background())
	d.stop = stop
	go d.run(ctx, d.until)
}

func (d *Drainer) resume(order string) {
	if d.stop != nil {
		d.stop()
		d.stop = nil
	}
	if d.now.Phase == status.Draining {
		close(d.done) // nobody is to wait for it
	}
	d.now = status.Drain{Order: order, Phase: status.Serving}
	d.turned()
	if d.server != nil {
		d.server.Resume()
	}
}

// drained ends the drain that is under way.
func (d *Drainer) drained() {
	d.now.Phase, d.stop = status.Drained, nil
	close(d.done)
}

// run waits until nothing runs, and cuts off what runs at the deadline. ctx
// ends when another order takes its place.
func (d *Drainer) run(ctx context.Context, until time.Time) {
	for {
		step, cancel := context.WithTimeout(ctx, min(every, time.Until(until)))
		err := d.server.Idle(step)
		cancel()
		if err == nil || !time.Now().Before(until) {
			break
		}
		if ctx.Err() != nil {
			return
		}
		d.mu.Lock()
		if ctx.Err() == nil {
			d.tell()
		}
		d.mu.Unlock()
	}
	d.mu.Lock()
	if ctx.Err() != nil {
		d.mu.Unlock()
		return
	}
	if running, _ := d.server.Load(); running > 0 {
		d.now.Cut = running
		d.server.CutOff()
	}
	d.mu.Unlock()
	settling, cancel := context.WithTimeout(ctx, settle)
	defer cancel()
	_ = d.server.Idle(settling) // what hangs is told by its count
	d.mu.Lock()
	defer d.mu.Unlock()
	if ctx.Err() == nil {
		d.drained()
		d.tell()
	}
}

// tell reports where the drain is.
func (d *Drainer) tell() {
	now := d.now
	if d.server != nil {
		now.Running, now.Waiting = d.server.Load()
	}
	if now.Phase == status.Draining {
		now.LeftMS = max(0, time.Until(d.until).Milliseconds())
	}
	d.report(now)
}

// Finish drains for the machine's end: as the host ordered, if it did, else
// within grace. It returns once it is drained.
func (d *Drainer) Finish(grace time.Duration) {
	d.mu.Lock()
	if d.now.Phase == status.Serving {
		d.drain("", grace)
		d.tell()
	}
	done := d.done
	d.mu.Unlock()
	<-done
}

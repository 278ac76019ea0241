package machine

import (
	"context"
	"crypto/rand"
	"errors"
	"net"
	"time"

	"cocoon/hostd/console"
	"cocoon/internal/fault"
	"cocoon/internal/hostorder"
)

// The states of a guest.
const (
	Serving       = "serving"
	paused        = "paused"
	Draining      = "draining" // takes no new work and finishes what it has
	drained       = "drained"
	guestStopping = "stopping"
)

// Times of a drain.
const (
	// DefaultDrain is what running requests have where a spec says nothing.
	DefaultDrain = 10 * time.Second
	// answerWithin is how long a guest has to answer an order; one that does
	// not is stopped without.
	answerWithin = 3 * time.Second
	// drainSettle is what a guest needs beyond the deadline, for the receipts of
	// what it cut off.
	drainSettle = 15 * time.Second
	// drainEvery is how often a guest that drains is looked at, and how often an
	// order that was not answered is repeated.
	drainEvery = 250 * time.Millisecond
)

// channel is where the guest reads orders: the other direction of the
// connection that brings its status lines.
func (m *Machine) openChannel(c net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.channel = c
}

func (m *Machine) closeChannel(c net.Conn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.channel == c {
		m.channel = nil
	}
}

// order sends an order to the guest; what the guest does is its own affair.
func (m *Machine) order(o *hostorder.Order) error {
	b, err := o.Marshal()
	if err != nil {
		return err
	}
	m.mu.Lock()
	c := m.channel
	m.mu.Unlock()
	if c == nil {
		return errors.New("sending an order: the guest has no status channel open")
	}
	if err := c.SetWriteDeadline(time.Now().Add(time.Second)); err != nil {
		return err
	}
	_, err = c.Write(b)
	return err
}

// drain orders the guest to take no new requests and waits until none runs, at
// most until the deadline and what cutting off the rest takes. A guest that does
// not serve has nothing to drain, and one that does not answer is not waited
// for: it can be stopped in any case. It returns early when the machine ends or
// the power is to be taken away.
func (m *Machine) drain(ctx context.Context, deadline time.Duration) error {
	switch m.State().Guest.State {
	case Serving, paused, Draining, drained:
	default:
		return nil
	}
	o := &hostorder.Order{Type: hostorder.Drain, ID: rand.Text(), DeadlineMS: deadline.Milliseconds()}
	began := m.o.Clock()
	var sent error
	for {
		d := m.State().Guest.Drain
		answered := d != nil && d.Order == o.ID
		waited := m.o.Clock().Sub(began)
		switch {
		case answered && d.Phase == drained:
			return nil
		case answered && waited > deadline+drainSettle:
			return fault.New(fault.ExitNotReady, "vm.drain.late", "nothing: the machine is stopped all the same", "draining VM %s: %d requests still run %s after the deadline", m.o.Spec.Name, d.Running, drainSettle)
		case !answered && waited > answerWithin:
			return fault.New(fault.ExitNotReady, "vm.drain.unanswered", "use an image whose guest takes orders; the power button drains it for five seconds", "draining VM %s: the guest does not answer: %w", m.o.Spec.Name, errors.Join(errSilent, sent))
		case !answered:
			sent = m.order(o) // one that the guest has seen changes nothing
		}
		if m.gone(ctx, m.look) || ctx.Err() != nil || m.forced() {
			return nil
		}
	}
}

var errSilent = errors.New("no status line about the order")

// forced says whether the power is being taken away.
func (m *Machine) forced() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.asked == powerTaken
}

// noteDrain keeps what the guest says about a drain.
func (m *Machine) noteDrain(l *console.Line) {
	if d := l.Drain; d != nil {
		m.note(func(s *State) { s.Guest.Drain = d })
	}
}

// drained waits on for a guest that drains by itself after the power button,
// as long as its spec allows.
func (m *Machine) drained(ctx context.Context, waited time.Duration) bool {
	end := time.Duration(m.o.Spec.Drain) * time.Second
	for waited < end {
		if s := m.State(); s.Guest.State != Draining && s.Guest.State != guestStopping {
			return false
		}
		step := min(end-waited, m.look)
		if m.gone(ctx, step) {
			return true
		}
		if ctx.Err() != nil || m.forced() {
			return false
		}
		waited += step
	}
	return false
}

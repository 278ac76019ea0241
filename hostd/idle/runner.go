package idle

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
)

// LookEvery is how often the machine is looked at. With it and stopWithin a VM without
// requests is gone within YieldWithin of the return of the owner.
const LookEvery = 2 * time.Second

// keepDecisions is how many decisions are remembered.
const keepDecisions = 64

// InFlight is the guest's metric of requests that it serves.
const InFlight = "cocoon_worker_requests_in_flight"

// Host starts and stops the VM.
type Host interface {
	Start(ctx context.Context, s *spec.Spec) (*machine.State, error)
	Stop(ctx context.Context, name string, powerOff bool) (*machine.State, error)
	Get(name string) (*machine.State, error)
}

// Status is what "cocoon idle status" shows.
type Status struct {
	Policy string       `json:"policy"` // in a line
	VM     string       `json:"vm"`
	Last   Decision     `json:"last"`
	Seen   *Observation `json:"seen"`
	Error  string       `json:"error,omitempty"` // of the last order
	// Changes are the decisions that changed something, the newest last.
	Changes []Decision `json:"changes"`
}

// Runner carries out what an engine decides.
type Runner struct {
	Policy  *Policy
	Spec    *spec.Spec
	Host    Host
	Look    func(ctx context.Context, p *Policy, ours int) *Observation
	Logger  *slog.Logger
	engine  Engine
	mu      sync.Mutex
	status  Status
	orders  sync.WaitGroup
	started context.CancelFunc // of a start that is under way
}

// Run looks and acts until ctx ends. The VM is left as it is then.
func (r *Runner) Run(ctx context.Context) {
	t := time.NewTicker(LookEvery)
	defer t.Stop()
	defer r.orders.Wait()
	for {
		r.step(ctx)
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// Status returns a copy.
func (r *Runner) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.status
	s.Policy, s.VM = r.Policy.Summary(), r.Spec.Name
	s.Changes = slices.Clone(s.Changes)
	if s.Changes == nil {
		s.Changes = []Decision{}
	}
	return s
}

// step looks once and gives at most one order.
func (r *Runner) step(ctx context.Context) {
	r.engine.Policy = r.Policy
	st, err := r.Host.Get(r.Spec.Name)
	running := err == nil && !st.Over()
	ours := 0
	if running {
		ours = r.Spec.CPUs
	}
	o := r.Look(ctx, r.Policy, ours)
	o.Running = running
	if running {
		o.Requests = int(st.Guest.Metrics[InFlight])
	}
	r.mu.Lock()
	starting := r.started != nil
	r.mu.Unlock()
	// A start that is under way runs: it must not be ordered again, and can be
	// taken back.
	o.Running = o.Running || starting
	d := r.engine.Step(o)
	r.mu.Lock()
	if d.Order != None || d.Mode != r.status.Last.Mode {
		r.status.Changes = append(r.status.Changes, d)
		if n := len(r.status.Changes) - keepDecisions; n > 0 {
			r.status.Changes = slices.Delete(r.status.Changes, 0, n)
		}
		r.Logger.Info("idle mode", "mode", d.Mode, "order", d.Order, "reasons", d.Reasons)
	}
	r.status.Last, r.status.Seen = d, o
	r.mu.Unlock()
	r.order(ctx, d)
}

// order carries an order out in the background: the next look must come in
// time whatever the VM does.
func (r *Runner) order(ctx context.Context, d Decision) {
	switch d.Order {
	case Start:
		c, cancel := context.WithCancel(ctx)
		r.mu.Lock()
		r.started = cancel
		r.mu.Unlock()
		r.orders.Go(func() {
			s := *r.Spec
			s.Drain = int(r.Policy.drain() / time.Second)
			if s.GPUs != nil {
				// The owner is to have them again when the VM has yielded.
				g := *s.GPUs
				g.GiveBack = true
				s.GPUs = &g
			}
			_, err := r.Host.Start(c, &s)
			r.mu.Lock()
			r.started = nil
			r.mu.Unlock()
			cancel()
			r.done(err)
		})
	case Drain, Stop, PowerOff:
		r.mu.Lock()
		if r.started != nil {
			r.started() // it is undone
		}
		r.mu.Unlock()
		// The power button asks the guest to drain and to end.
		r.orders.Go(func() {
			_, err := r.Host.Stop(ctx, r.Spec.Name, d.Order == PowerOff)
			r.done(err)
		})
	}
}

func (r *Runner) done(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.status.Error = ""
	if err != nil {
		r.status.Error = err.Error()
		r.Logger.Warn("idle mode", "err", err)
	}
}

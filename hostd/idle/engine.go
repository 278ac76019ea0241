package idle

import (
	"fmt"
	"time"
)

// Observation is what is seen of the machine at one moment. What cannot be
// seen is nil, and stands in the way if the policy asks for it.
type Observation struct {
	Time time.Time `json:"time"`
	// Load is that of one minute per processor, without the VM's.
	Load *float64 `json:"load,omitempty"`
	// GPU is the use of the busiest GPU that the owner's driver has, in per
	// cent; GPUPrograms are the owner's programs that have one open.
	GPU         *int  `json:"gpu_percent,omitempty"`
	GPUPrograms *int  `json:"gpu_programs,omitempty"`
	Touched     *int  `json:"touched_s,omitempty"` // seconds since somebody touched a terminal
	Mains       *bool `json:"mains,omitempty"`
	// Price is what is paid now, in nanoton per million tokens.
	Price *uint64 `json:"price,omitempty"`
	// Running says whether the VM runs, Requests how many it is serving.
	Running  bool `json:"running"`
	Requests int  `json:"requests,omitempty"`
}

// Modes.
const (
	Away     = "away"     // the machine is its owner's
	Serving  = "serving"  // the VM was started
	Draining = "draining" // the owner is back, requests run on
	Stopping = "stopping" // the VM is told to end
)

// Orders.
const (
	None     = ""
	Start    = "start"
	Drain    = "drain"     // take no new requests; ended by Stop or PowerOff
	Stop     = "stop"      // end now, in good order
	PowerOff = "power off" // the time is over
)

// Decision is the outcome of one look.
type Decision struct {
	Time    time.Time `json:"time"`
	Mode    string    `json:"mode"`  // from now on
	Order   string    `json:"order"` // empty: nothing to do
	Reasons []string  `json:"reasons"`
	// Until is when the next thing happens at the latest: joining, or the end
	// of draining or stopping.
	Until *time.Time `json:"until,omitempty"`
}

// Engine decides. The zero value with a policy is a machine at rest.
type Engine struct {
	Policy *Policy

	mode     string
	good     time.Time // since when all conditions hold; zero: they do not
	deadline time.Time // of draining or stopping
	ordered  bool      // PowerOff was said already
}

// away returns what speaks for the owner: why the machine may not serve.
func (p *Policy) away(o *Observation) []string {
	var why []string
	say := func(format string, args ...any) { why = append(why, fmt.Sprintf(format, args...)) }
	if !p.open(o.Time) {
		say("outside the schedule")
	}
	if p.MaxLoad > 0 {
		switch {
		case o.Load == nil:
			say("the load is not known")
		case *o.Load > p.MaxLoad:
			say("load %.2f, at most %.2f", *o.Load, p.MaxLoad)
		}
	}
	if p.MaxGPU > 0 {
		switch {
		case o.GPU == nil:
			say("the use of the GPU is not known")
		case *o.GPU > p.MaxGPU:
			say("GPU used to %d %%, at most %d %%", *o.GPU, p.MaxGPU)
		}
	}
	if p.OwnGPU {
		switch {
		case o.GPUPrograms == nil:
			say("whether the owner's programs have a GPU open is not known")
		case *o.GPUPrograms > 0:
			say("%d of the owner's programs have a GPU open", *o.GPUPrograms)
		}
	}
	if p.Presence {
		switch {
		case o.Touched == nil:
			say("whether somebody is there is not known")
		case *o.Touched < max(p.IdleFor, 60):
			say("somebody was there %d s ago", *o.Touched)
		}
	}
	if p.MainsOnly && (o.Mains == nil || !*o.Mains) {
		say("not on mains power")
	}
	if p.MinPrice > 0 {
		switch {
		case o.Price == nil:
			say("the price is not known")
		case *o.Price < p.MinPrice:
			say("price %d nanoton per million tokens, at least %d", *o.Price, p.MinPrice)
		}
	}
	return why
}

// Step takes one observation, later than those before.
func (e *Engine) Step(o *Observation) Decision {
	if e.mode == "" {
		e.mode = Away
		if o.Running { // found running, after a restart of the daemon
			e.mode = Serving
		}
	}
	why := e.Policy.away(o)
	d := Decision{Time: o.Time}
	switch e.mode {
	case Away:
		e.atRest(o, why, &d)
	case Serving:
		e.serving(o, why, &d)
	default:
		e.yielding(o, why, &d)
	}
	d.Mode = e.mode
	return d
}

func (e *Engine) atRest(o *Observation, why []string, d *Decision) {
	if why != nil {
		e.good = time.Time{}
		d.Reasons = why
		return
	}
	if e.good.IsZero() {
		e.good = o.Time
	}
	rest := time.Duration(e.Policy.IdleFor) * time.Second
	if at := e.good.Add(rest); o.Time.Before(at) {
		d.Until, d.Reasons = &at, []string{fmt.Sprintf("idle for %s of %s", o.Time.Sub(e.good).Round(time.Second), rest)}
		return
	}
	e.mode, d.Order = Serving, Start
	d.Reasons = []string{"nothing of the owner's needs the machine"}
}

func (e *Engine) serving(o *Observation, why []string, d *Decision) {
	if why == nil {
		d.Reasons = []string{"nothing of the owner's needs the machine"}
		if !o.Running {
			// It did not start, or ended: begin anew, with a rest before.
			e.mode, e.good = Away, o.Time
			d.Reasons = []string{"the VM does not run"}
		}
		return
	}
	d.Reasons = why
	switch {
	case !o.Running:
		e.mode, e.good = Away, time.Time{}
	case o.Requests == 0:
		e.stop(o, d)
	default:
		at := o.Time.Add(e.Policy.drain())
		e.mode, e.deadline, e.ordered, d.Order = Draining, at, false, Drain
		d.Until = &at
		d.Reasons = append(d.Reasons, fmt.Sprintf("%d requests may end until then", o.Requests))
	}
}

func (e *Engine) stop(o *Observation, d *Decision) {
	at := o.Time.Add(stopWithin)
	e.mode, e.deadline, e.ordered, d.Order = Stopping, at, false, Stop
	d.Until = &at
}

// yielding goes on until the VM is gone, also if the owner leaves meanwhile: a
// guest that was told to end does end.
func (e *Engine) yielding(o *Observation, why []string, d *Decision) {
	at := e.deadline
	d.Until, d.Reasons = &at, why
	switch {
	case !o.Running:
		e.mode, e.good = Away, time.Time{}
		d.Until, d.Reasons = nil, append(d.Reasons, "the VM is gone")
	case !o.Time.Before(e.deadline):
		if !e.ordered {
			e.mode, e.ordered, d.Order = Stopping, true, PowerOff
		}
		d.Reasons = append(d.Reasons, "its time is over")
	case e.mode == Draining && o.Requests == 0:
		e.stop(o, d)
		d.Reasons = append(d.Reasons, "no request runs any more")
	case d.Reasons == nil:
		d.Reasons = []string{"the owner left again; the VM ends first"}
	}
}

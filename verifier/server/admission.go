package server

import (
	"context"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/wire"
)

// admission bounds the appraisals under way and those that wait. Who finds the
// queue full is turned away at once, before his evidence is read: under
// overload memory and the waiting of those who were let in stay bounded.
type admission struct {
	places chan struct{} // waiting or running
	slots  chan struct{} // running
	wait   time.Duration // for a slot, at most
	waited func()        // counts those that waited in vain; nil: nobody does
}

func newAdmission(concurrent, queue int, wait time.Duration) *admission {
	return &admission{places: make(chan struct{}, concurrent+queue), slots: make(chan struct{}, concurrent), wait: wait}
}

// enter takes a place, if there is one; leave gives it back.
func (a *admission) enter() bool {
	select {
	case a.places <- struct{}{}:
		return true
	default:
		return false
	}
}

func (a *admission) leave() { <-a.places }

func (a *admission) waiting() float64 { return float64(len(a.places)) }

var errBusy = fault.New(fault.ExitNetwork, wire.CodeBusy, "try again in a second", "too many appraisals are under way")

// run waits for a slot and returns the function that frees it.
func (a *admission) run(ctx context.Context) (done func(), err error) {
	free := func() { <-a.slots }
	select {
	case a.slots <- struct{}{}:
		return free, nil
	default:
	}
	t := time.NewTimer(a.wait)
	defer t.Stop()
	select {
	case a.slots <- struct{}{}:
		return free, nil
	case <-t.C:
		if a.waited != nil {
			a.waited()
		}
		return nil, errBusy
	case <-ctx.Done():
		return nil, fault.New(fault.ExitNetwork, wire.CodeBusy, "try again", "waiting to appraise evidence: %w", ctx.Err())
	}
}

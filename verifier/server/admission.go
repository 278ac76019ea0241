package server

import (
	"context"
	"sync/atomic"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/wire"
)

// admission bounds the appraisals under way and those that wait. Who would wait
// for long, or finds every place taken, is turned away before his
// evidence is read: under overload memory and the waiting of those who were let
// in stay bounded.
//
// How long one would wait follows from how many are before him and for how long
// a slot was held lately, so that the queue is short in time whatever evidence
// there is and however much of the machine others take: a queue that is bounded
// by number alone makes everyone wait for all of it, and decides no more.
type admission struct {
	places chan struct{} // let in, until the answer is ready
	slots  chan struct{} // running
	wait   time.Duration // for a slot, at most
	delay  time.Duration // that is expected, at most
	waited func()        // counts those that waited in vain; nil: nobody does

	held atomic.Int64 // a slot, lately: nanoseconds
}

// leastQueue wait for each slot, however long it takes: appraisals that are slow
// by nature are not turned away for that.
const leastQueue = 8

// heldWeight is the weight of the latest holding of a slot among those before.
const heldWeight = 16

func newAdmission(concurrent, queue int, wait, delay time.Duration) *admission {
	return &admission{places: make(chan struct{}, concurrent+queue), slots: make(chan struct{}, concurrent), wait: wait, delay: delay}
}

// enter takes a place, if there is one and a slot can be had soon; leave gives
// it back.
func (a *admission) enter() bool {
	slots := int64(cap(a.slots))
	// Who was let in counts from then on: hundreds can be between here and a slot.
	if ahead := int64(len(a.places)) - slots; ahead >= leastQueue*slots && (ahead+1)*a.held.Load()/slots > int64(a.delay) {
		return false
	}
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
	select {
	case a.slots <- struct{}{}:
		return a.holding(), nil
	default:
	}
	t := time.NewTimer(a.wait)
	defer t.Stop()
	select {
	case a.slots <- struct{}{}:
		return a.holding(), nil
	case <-t.C:
		if a.waited != nil {
			a.waited()
		}
		return nil, errBusy
	case <-ctx.Done():
		return nil, fault.New(fault.ExitNetwork, wire.CodeBusy, "try again", "waiting to appraise evidence: %w", ctx.Err())
	}
}

func (a *admission) holding() (done func()) {
	start := time.Now()
	return func() {
		took := int64(time.Since(start))
		// Two that end at once may each leave out the other: it is an estimate.
		if old := a.held.Load(); old == 0 {
			a.held.Store(took)
		} else {
			a.held.Store(old + (took-old)/heldWeight)
		}
		<-a.slots
	}
}

package daemon

import (
	"context"
	"errors"
	"time"

	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
)

// Restarting: the first comes after a second, each further one after twice the
// time; a VM that ran for a while begins anew.
const (
	superviseEvery = 500 * time.Millisecond
	firstBackoff   = time.Second
	lastBackoff    = 5 * time.Minute
	settled        = 10 * time.Minute
)

// backoff is the time before restart n, counted from 0.
func backoff(n int) time.Duration {
	if n > 20 {
		return lastBackoff
	}
	return min(firstBackoff<<n, lastBackoff)
}

// Supervise completes or undoes what an earlier daemon left half done, and
// then restarts what should run and does not, until ctx ends. A VM that should
// run when the host goes down is started when the daemon is there again. While
// the host is drained nothing is started.
func (d *Daemon) Supervise(ctx context.Context) {
	t := time.NewTicker(superviseEvery)
	defer t.Stop()
	recovered, drained := false, false
	modes := make(chan struct{})
	go func() {
		defer close(modes)
		// It may have to wait for NVIDIA's tool; VMs without its devices do not.
		if err := d.o.GPUs.Recover(ctx); err != nil && ctx.Err() == nil {
			d.o.Logger.Error("completing a change of a GPU's mode", "err", err)
		}
	}()
	defer func() { <-modes }()
	for {
		switch drain, err := d.store.Drain(); {
		case err != nil:
			d.o.Logger.Error("reading whether the host is drained", "err", err)
		case drain == nil:
			drained = false
			if !recovered {
				recovered = true
				d.recoverUpgrades(ctx)
			}
			d.sweep(ctx)
		case !drained:
			// Begun by this daemon, or by one before it that did not come to its
			// end.
			drained = true
			if err := d.endAll(ctx); err != nil && ctx.Err() == nil {
				d.o.Logger.Error("draining the host", "err", err)
				drained = false
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
	}
}

// sweep looks at every VM once.
func (d *Daemon) sweep(ctx context.Context) {
	rs, err := d.store.List()
	if err != nil {
		d.o.Logger.Error("reading what should run", "err", err)
		return
	}
	for _, r := range rs {
		if r.GPUsUsed && ctx.Err() == nil {
			if done, err := d.claim(r.Spec.Name); err == nil {
				d.release(ctx, r.Spec.Name)
				done()
			}
		}
		if ctx.Err() != nil || r.Want != store.WantRunning || r.Upgrade != nil {
			continue
		}
		if err := d.tend(ctx, r.Spec.Name); err != nil && !fault.Has(err, "vm.busy") {
			d.o.Logger.Warn("restarting", "vm", r.Spec.Name, "err", err)
		}
	}
}

// tend restarts one VM if it has ended and its policy says so.
func (d *Daemon) tend(ctx context.Context, name string) error {
	done, err := d.claim(name)
	if err != nil {
		return err
	}
	defer done()
	// Again, now that nobody else changes it.
	r, err := d.store.Get(name)
	if err != nil || r.Want != store.WantRunning || r.Upgrade != nil {
		return err
	}
	if drain, err := d.store.Drain(); err != nil || drain != nil {
		return err // begun since the sweep
	}
	st := d.state(r)
	now := d.o.Clock().UTC()
	if !st.Over() {
		if r.Restarts > 0 && st.Phase == machine.Running && now.Sub(st.Started) > settled {
			r.Restarts, r.Next, r.LastError = 0, nil, ""
			return d.put(r)
		}
		return nil
	}
	if err := d.keepCrash(name); err != nil {
		d.o.Logger.Warn("keeping a crash report", "vm", name, "err", err)
	}
	if r.Revive && (r.Next == nil || !now.Before(*r.Next)) {
		d.o.Logger.Info("starting vm after a drain", "vm", name)
		return d.again(ctx, r, func(r *store.Record) { r.Restarts, r.Next, r.LastError, r.Revive = 0, nil, "", false })
	}
	if !r.Revive && r.Spec.Restart != spec.RestartAlways && (r.Spec.Restart != spec.RestartOnFailure || st.Phase != machine.Failed) {
		r.Want = store.WantStopped
		return d.put(r)
	}
	if r.Next == nil {
		at := now.Add(backoff(r.Restarts))
		r.Next = &at
		return d.put(r)
	}
	if now.Before(*r.Next) {
		return nil
	}
	d.o.Logger.Info("restarting vm", "vm", name, "restart", r.Restarts+1, "ended", st.Reason)
	return d.again(ctx, r, func(r *store.Record) { r.Restarts, r.Next, r.LastError = r.Restarts+1, nil, "" })
}

// again starts a VM that should run; a start that fails is tried again later.
func (d *Daemon) again(ctx context.Context, r store.Record, change func(*store.Record)) error {
	_, err := d.start(ctx, &r.Spec, change)
	if err == nil || ctx.Err() != nil || fault.Has(err, codeStopped) {
		return err
	}
	again, gerr := d.store.Get(r.Spec.Name)
	if gerr != nil {
		return errors.Join(err, gerr)
	}
	at := d.o.Clock().UTC().Add(backoff(again.Restarts + 1))
	again.Restarts, again.Next, again.LastError = again.Restarts+1, &at, err.Error()
	return errors.Join(err, d.put(again))
}

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
// run when the host goes down is started when the daemon is there again.
func (d *Daemon) Supervise(ctx context.Context) {
	d.recoverUpgrades(ctx)
	t := time.NewTicker(superviseEvery)
	defer t.Stop()
	for {
		d.sweep(ctx)
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
	st := d.state(r)
	now := d.o.Clock().UTC()
	if !st.Over() {
		if r.Restarts > 0 && st.Phase == machine.Running && now.Sub(st.Started) > settled {
			r.Restarts, r.Next, r.LastError = 0, nil, ""
			return d.store.Put(r)
		}
		return nil
	}
	if err := d.keepCrash(name); err != nil {
		d.o.Logger.Warn("keeping a crash report", "vm", name, "err", err)
	}
	if r.Spec.Restart != spec.RestartAlways && (r.Spec.Restart != spec.RestartOnFailure || st.Phase != machine.Failed) {
		r.Want = store.WantStopped
		return d.store.Put(r)
	}
	if r.Next == nil {
		at := now.Add(backoff(r.Restarts))
		r.Next = &at
		return d.store.Put(r)
	}
	if now.Before(*r.Next) {
		return nil
	}
	d.o.Logger.Info("restarting vm", "vm", name, "restart", r.Restarts+1, "ended", st.Reason)
	_, err = d.start(ctx, &r.Spec, func(r *store.Record) { r.Restarts, r.Next, r.LastError = r.Restarts+1, nil, "" })
	if err == nil || ctx.Err() != nil {
		return err
	}
	again, gerr := d.store.Get(name)
	if gerr != nil {
		return errors.Join(err, gerr)
	}
	at := d.o.Clock().UTC().Add(backoff(again.Restarts + 1))
	again.Restarts, again.Next, again.LastError = again.Restarts+1, &at, err.Error()
	return errors.Join(err, d.store.Put(again))
}

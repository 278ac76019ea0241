package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
)

// Steps of an upgrade, as the journal has them.
const (
	StepHandOver = "hand over"
	StepDrain    = "drain"
	StepStart    = "start"
	StepVerify   = "verify"
	StepRollBack = "roll back"
)

// DefaultUntil is what a new version has to reach.
const DefaultUntil = "serving"

// Bounds of the time that a new version has to attest.
const (
	DefaultVerify = 10 * time.Minute
	MaxVerify     = 2 * time.Hour
)

// verifyEvery is how often a new version is looked at.
const verifyEvery = 100 * time.Millisecond

// Upgrade replaces a VM by another version of itself: where both specs say so,
// the old one hands its data disk's key to a machine of the new image; then it
// is drained and ends, the new one starts on the same TPM and data disk, and has to reach
// a stage or guest state in time. "serving" is reached only after a verifier's
// verdict on the new version. If it does not come to it the old one is started
// again. Each step is in the journal before it is done, so that a daemon that
// died in the middle finds out what to take back.
func (d *Daemon) Upgrade(ctx context.Context, to *spec.Spec, until string, within time.Duration) (*machine.State, error) {
	if err := to.Validate(); err != nil {
		return nil, fault.New(fault.ExitParse, "vm.spec.invalid", "docs/hostd.md lists every field of a VM spec", "upgrading VM: %w", err)
	}
	if until == "" {
		until = DefaultUntil
	}
	if within == 0 {
		within = DefaultVerify
	}
	if within < 0 || within > MaxVerify {
		return nil, fault.New(fault.ExitParse, "vm.upgrade.timeout", "give at most "+MaxVerify.String(), "upgrading VM %s: a time of %s", to.Name, within)
	}
	done, err := d.claim(to.Name)
	if err != nil {
		return nil, err
	}
	defer done()
	if err := d.open("upgrading", to.Name); err != nil {
		return nil, err
	}
	r, err := d.store.Get(to.Name)
	if errors.Is(err, store.ErrNotFound) {
		return nil, notFound(to.Name)
	}
	if err != nil {
		return nil, err
	}
	if r.Upgrade != nil {
		return nil, unfinished("upgrading", to.Name)
	}
	// What can be seen beforehand costs no running VM.
	if err := to.CheckFiles(); err != nil {
		return nil, err
	}
	h, err := d.planHandover(&r.Spec, to, !d.state(r).Over(), until)
	if err != nil {
		return nil, err
	}
	r.Upgrade = &store.Upgrade{From: r.Spec, To: *to, Step: StepDrain, Until: until, Began: d.o.Clock().UTC(), Ran: r.Want == store.WantRunning}
	ticket := ""
	if h != nil {
		d.o.Logger.Info("handing a data disk over", "vm", to.Name)
		if ticket, err = d.handOver(ctx, &r, h); err != nil {
			return nil, d.rollBack(ctx, r, err)
		}
	}
	if err := d.step(&r, StepDrain); err != nil {
		return nil, d.rollBack(ctx, r, err)
	}
	d.o.Logger.Info("upgrading vm", "vm", to.Name, "until", until)
	if _, err := d.end(ctx, to.Name, false); err != nil {
		return nil, d.rollBack(ctx, r, err)
	}
	if err := d.step(&r, StepStart); err != nil {
		return nil, d.rollBack(ctx, r, err)
	}
	if _, err := d.start(ctx, withTicket(to, ticket), nil); err != nil {
		return nil, d.rollBack(ctx, r, err)
	}
	if err := d.step(&r, StepVerify); err != nil {
		return nil, d.rollBack(ctx, r, err)
	}
	st, err := d.await(ctx, to.Name, until, within)
	if err != nil {
		return nil, d.rollBack(ctx, r, sealedAway(r, err))
	}
	// It serves, so the disk has its key and nobody needs the ticket.
	if err := d.clearHandover(context.WithoutCancel(ctx), r.Upgrade); err != nil {
		return nil, err // the next daemon completes it
	}
	return st, d.settle(to.Name, *to)
}

// step writes the next step into the journal.
func (d *Daemon) step(r *store.Record, step string) error {
	now, err := d.store.Get(r.Spec.Name)
	if err != nil {
		return err
	}
	now.Upgrade = r.Upgrade
	now.Upgrade.Step = step
	return d.put(now)
}

// unfinished refuses what would forget an upgrade whose journal is all that knows
// the version before and what else is to be taken back.
func unfinished(doing, name string) error {
	return fault.New(fault.ExitNotReady, "vm.upgrade.pending", "restart hostd, which ends it", "%s VM %s: an upgrade of it has not ended", doing, name)
}

// settle ends an upgrade: this version stays.
func (d *Daemon) settle(name string, s spec.Spec) error {
	r, err := d.store.Get(name)
	if err != nil {
		return err
	}
	r.Spec, r.Upgrade, r.Restarts, r.Next, r.LastError = s, nil, 0, nil, ""
	return d.put(r)
}

// rollBack ends the new version and starts the old one.
func (d *Daemon) rollBack(ctx context.Context, r store.Record, cause error) error {
	name, from := r.Upgrade.From.Name, r.Upgrade.From
	d.o.Logger.Warn("rolling vm back", "vm", name, "step", r.Upgrade.Step, "err", cause)
	// The caller's end does not end this.
	ctx = context.WithoutCancel(ctx)
	why := "the new version did not come up"
	if r.Upgrade.Step == StepHandOver {
		why = "the data disk's key was not handed over"
	}
	undone := fault.New(fault.ExitNotReady, "vm.upgrade.rolled_back", "correct what follows, then upgrade again; the old version is back", "upgrading VM %s: %s", name, why)
	if err := d.clearHandover(ctx, r.Upgrade); err != nil {
		return errors.Join(cause, err) // the journal stays: the next daemon tries again
	}
	if st, err := d.Get(name); err == nil && !st.Over() && (r.Upgrade.Step == StepDrain || r.Upgrade.Step == StepHandOver) {
		// The old version has not ended yet, and need not.
		return errors.Join(undone, cause, d.settle(name, from))
	}
	if err := d.step(&r, StepRollBack); err != nil {
		return errors.Join(cause, err)
	}
	_, err := d.end(ctx, name, true)
	if err == nil && r.Upgrade.Ran {
		_, err = d.start(ctx, &from, nil)
	}
	if err != nil {
		// The journal stays: the next daemon tries again.
		return errors.Join(fault.New(fault.ExitNotReady, "vm.upgrade.failed", "see why the old version does not start: cocoon vm show "+name, "upgrading VM %s: neither version runs", name), cause, err)
	}
	if err := d.settle(name, from); err != nil {
		return errors.Join(cause, err)
	}
	return errors.Join(undone, cause)
}

// await waits until a VM has reached a stage or a state, or cannot any more.
func (d *Daemon) await(ctx context.Context, name, until string, within time.Duration) (*machine.State, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	t := time.NewTicker(verifyEvery)
	defer t.Stop()
	for {
		st, err := d.Get(name)
		if err != nil {
			return nil, err
		}
		if ok, err := st.Reached(until); ok || err != nil {
			return st, err
		}
		select {
		case <-ctx.Done():
			return nil, fault.New(fault.ExitNotReady, "vm.wait.timeout", "read the console: cocoon vm logs "+name, "waiting for stage %s of VM %s: %w", until, name, ctx.Err())
		case <-t.C:
		}
	}
}

// recoverUpgrades completes or undoes the upgrades that an earlier daemon did
// not end: the new version stays if it runs and has reached what it had to.
func (d *Daemon) recoverUpgrades(ctx context.Context) {
	rs, err := d.store.List()
	if err != nil {
		d.o.Logger.Error("reading the journal", "err", err)
		return
	}
	for _, r := range rs {
		if r.Upgrade == nil {
			continue
		}
		if err := d.recoverUpgrade(ctx, r); err != nil {
			d.o.Logger.Error("ending an upgrade that was interrupted", "vm", r.Spec.Name, "err", err)
		}
	}
}

var errInterrupted = errors.New("the daemon ended in the middle of it")

func (d *Daemon) recoverUpgrade(ctx context.Context, r store.Record) error {
	name := r.Spec.Name
	done, err := d.claim(name)
	if err != nil {
		return err
	}
	defer done()
	if r.Upgrade.Step == StepVerify {
		st, err := d.Get(name)
		if err != nil {
			return err
		}
		if ok, _ := st.Reached(r.Upgrade.Until); ok && !st.Over() {
			d.o.Logger.Info("the upgrade had come up", "vm", name)
			if err := d.clearHandover(context.WithoutCancel(ctx), r.Upgrade); err != nil {
				return err
			}
			return d.settle(name, r.Upgrade.To)
		}
	}
	if err := d.rollBack(ctx, r, errInterrupted); !fault.Has(err, "vm.upgrade.rolled_back") {
		return fmt.Errorf("rolling back: %w", err)
	}
	return nil
}

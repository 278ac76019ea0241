package daemon

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
)

// rebuild makes a new store from what the keepers were asked to run: VMs that
// run are found again, and none is started that its owner may have stopped.
func (d *Daemon) rebuild(damage error) (*store.Store, error) {
	aside, err := store.SetAside(d.o.Dir, d.o.Clock())
	if err != nil {
		return nil, errors.Join(damage, err)
	}
	d.o.Logger.Error("the store is damaged: made a new one from the VMs' directories", "err", damage, "kept", aside)
	st, err := store.Open(d.o.Dir)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(filepath.Join(d.o.Dir, vmsDir))
	if err != nil {
		return nil, errors.Join(err, st.Close())
	}
	for _, e := range entries {
		r, err := keeper.ReadRequest(d.dir(e.Name()))
		if err != nil || r.Spec.Name != e.Name() {
			d.o.Logger.Warn("left out of the new store", "vm", e.Name(), "err", err)
			continue
		}
		rec := store.Record{Spec: r.Spec, Created: d.o.Clock().UTC(), Want: store.WantStopped}
		if s, err := machine.ReadState(d.dir(e.Name())); err == nil && !s.Over() && s.Keeper.Alive() {
			rec.Created, rec.Want = s.Started, store.WantRunning
		}
		if err := st.Put(rec); err != nil {
			return nil, errors.Join(err, st.Close())
		}
	}
	return st, nil
}

// state reads a VM's state, with what the store knows of it.
func (d *Daemon) state(r store.Record) *machine.State {
	s := d.read(r)
	s.Restarts, s.NextStart, s.StartError = r.Restarts, r.Next, r.LastError
	if r.Upgrade != nil {
		s.Upgrade = r.Upgrade.Step
	}
	return s
}

// read reads a VM's state and mends it where its keeper has died.
func (d *Daemon) read(r store.Record) *machine.State {
	name := r.Spec.Name
	d.mu.Lock()
	defer d.mu.Unlock()
	s, err := machine.ReadState(d.dir(name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return d.unwritten(r)
	case err != nil:
		return d.damaged(r, err)
	case s.Over() || s.Keeper.Alive():
		return s
	}
	return d.mend(s)
}

// unwritten is the state of a VM whose keeper has not written one yet, or
// never came to it.
func (d *Daemon) unwritten(r store.Record) *machine.State {
	s := &machine.State{Name: r.Spec.Name, Phase: machine.Failed, TEE: r.Spec.TEE, Started: r.Created, Guest: machine.Guest{Stages: []machine.Stage{}}}
	id, alive := keeper.Holder(d.dir(r.Spec.Name))
	if alive {
		s.Keeper = id
	}
	if alive || d.busy[s.Name] != nil {
		s.Phase = machine.Starting
	}
	return s
}

// damaged sets a state aside that cannot be read. A keeper that lives knows its
// VM and writes it anew; behind one that does not nothing runs, for QEMU and
// the software TPM die with it. The other VMs are none the worse.
func (d *Daemon) damaged(r store.Record, damage error) *machine.State {
	dir := d.dir(r.Spec.Name)
	path := filepath.Join(dir, machine.StateFile)
	aside := path + ".damaged"
	err := os.Rename(path, aside)
	s := d.unwritten(r)
	s.Faults = machine.ProblemsOf(fault.New(fault.ExitInternal, "vm.state.damaged", "see the disk's health; the damaged file is kept beside the new one as state.json.damaged",
		"reading the state of VM %s: it is damaged and was set aside: %w", s.Name, damage))
	d.o.Logger.Error("the state of a vm is damaged", "vm", s.Name, "err", damage, "kept", aside, "keeper", s.Keeper.PID, "rename", err)
	if s.Keeper.PID > 0 {
		if err := s.Keeper.Signal(keeper.SignalWrite); err != nil {
			d.o.Logger.Error("asking for the state again", "vm", s.Name, "err", err)
		}
		return s
	}
	now := d.o.Clock().UTC()
	s.Phase, s.Ended, s.Reason = machine.Failed, &now, "its state was damaged and its keeper is gone"
	d.write(dir, s)
	return s
}

// write keeps what the daemon found out about a VM; where the disk is full it
// is found out again the next time.
func (d *Daemon) write(dir string, s *machine.State) {
	if err := machine.WriteState(dir, s); err != nil {
		d.o.Logger.Error("writing the state of a vm", "vm", s.Name, "err", err)
	}
}

// mend ends what a dead keeper left and records its end.
func (d *Daemon) mend(s *machine.State) *machine.State {
	dir := d.dir(s.Name)
	// It may have ended in good order since the state was read.
	if again, err := machine.ReadState(dir); err == nil && again.Over() {
		return again
	}
	if err := errors.Join(s.QEMU.Signal(unix.SIGKILL), s.SWTPM.Signal(unix.SIGKILL)); err != nil {
		d.o.Logger.Error("ending what a dead keeper left", "vm", s.Name, "err", err)
	}
	now := d.o.Clock().UTC()
	s.Phase, s.Ended, s.Reason = machine.Failed, &now, "its keeper died"
	s.Faults = machine.ProblemsOf(fault.New(fault.ExitInternal, "vm.keeper.died", "see whether the host ran out of memory or disk space, or was restarted, then start it again",
		"running VM %s: its keeper process %d is gone", s.Name, s.Keeper.PID))
	d.o.Logger.Warn("cleaned up behind a dead keeper", "vm", s.Name, "keeper", s.Keeper.PID)
	d.write(dir, s)
	return s
}

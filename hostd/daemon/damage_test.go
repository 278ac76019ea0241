package daemon

import (
	"encoding/json"
	"os"
	"os/signal"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/store"
)

// put remembers a VM and makes its directory with these files.
func put(t *testing.T, d *Daemon, name string, files map[string]string) {
	t.Helper()
	s := image(t)
	s.Name = name
	if err := d.store.Put(store.Record{Spec: *s, Created: now()}); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(d.dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	for f, text := range files {
		if err := os.WriteFile(filepath.Join(d.dir(name), f), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func self(t *testing.T) (proc.ID, string) {
	t.Helper()
	id, err := proc.Self()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	return id, string(b)
}

// One damaged state costs nobody else theirs: its keeper is asked to write it
// again, or, where there is none any more, its end is recorded.
func TestADamagedStateIsSetAside(t *testing.T) {
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, keeper.SignalWrite)
	defer signal.Stop(hup)
	d, err := Open(options(t, t.TempDir()))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	id, lock := self(t)
	for _, damage := range []string{"", "{", `{"name":"a","phase":"running"`, "\x00\x00\x00", `{"name":"a","unknown":1}`} {
		put(t, d, "alive", map[string]string{machine.StateFile: damage, keeper.LockFile: lock})
		put(t, d, "dead", map[string]string{machine.StateFile: damage, keeper.LockFile: `{"pid":1,"start":1}`})
		put(t, d, "other", map[string]string{machine.StateFile: `{"name":"other","phase":"stopped","accelerator":"","accelerator_reason":"","tee":"vtpm","keeper":{"pid":0,"start":0},"qemu":{"pid":0,"start":0},"swtpm":{"pid":0,"start":0},"started":"2026-11-22T12:00:00Z","guest":{"stages":[]}}`})
		vms, err := d.List()
		if err != nil || len(vms) != 3 {
			t.Fatalf("%q: List() = %v, %v", damage, vms, err)
		}
		alive, dead, other := vms[0], vms[1], vms[2]
		if alive.Over() || alive.Keeper != id || len(alive.Faults) != 1 || alive.Faults[0].Code != "vm.state.damaged" {
			t.Errorf("%q: with a live keeper %+v", damage, alive)
		}
		<-hup
		if dead.Phase != machine.Failed || len(dead.Faults) != 1 || dead.Faults[0].Code != "vm.state.damaged" {
			t.Errorf("%q: with a dead keeper %+v", damage, dead)
		}
		if other.Phase != machine.Stopped || len(other.Faults) != 0 {
			t.Errorf("%q: another VM %+v", damage, other)
		}
		if b, err := os.ReadFile(filepath.Join(d.dir("dead"), machine.StateFile+".damaged")); err != nil || string(b) != damage {
			t.Errorf("%q: kept %q, %v", damage, b, err)
		}
		// Until the keeper has written, it still counts as running.
		if st, err := d.Get("alive"); err != nil || st.Over() {
			t.Errorf("%q: again %+v, %v", damage, st, err)
		}
		if st, err := d.Get("dead"); err != nil || st.Phase != machine.Failed || st.Ended == nil {
			t.Errorf("%q: again %+v, %v", damage, st, err)
		}
	}
}

// A full disk keeps nobody from seeing what became of a VM.
func TestAFullDiskHidesNoState(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root, to mount a small disk")
	}
	dir := t.TempDir()
	d, err := Open(options(t, dir))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	put(t, d, "a", nil)
	if err := unix.Mount("none", d.dir("a"), "tmpfs", 0, "size=64k,mode=700"); err != nil {
		t.Skipf("mounting a small disk: %v", err)
	}
	defer func() {
		if err := unix.Unmount(d.dir("a"), 0); err != nil {
			t.Error(err)
		}
	}()
	gone := proc.ID{PID: os.Getpid(), Start: 1} // this pid, another process
	if err := machine.WriteState(d.dir("a"), &machine.State{Name: "a", Phase: machine.Running, Keeper: gone, Started: now(), Guest: machine.Guest{Stages: []machine.Stage{}}}); err != nil {
		t.Fatal(err)
	}
	fill := filepath.Join(d.dir("a"), machine.ConsoleFile)
	if err := os.WriteFile(fill, make([]byte, 1<<20), 0o600); err == nil {
		t.Fatal("the disk is not full")
	}
	for range 2 {
		vms, err := d.List()
		if err != nil || len(vms) != 1 || vms[0].Phase != machine.Failed || vms[0].Faults[0].Code != "vm.keeper.died" {
			t.Fatalf("List() on a full disk = %+v, %v", vms, err)
		}
	}
	// The state that was there was not cut short by the attempt.
	if s, err := machine.ReadState(d.dir("a")); err != nil || s.Phase != machine.Running {
		t.Errorf("the state on the full disk: %+v, %v", s, err)
	}
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	if _, err := d.List(); err != nil {
		t.Fatal(err)
	}
	if s, err := machine.ReadState(d.dir("a")); err != nil || s.Phase != machine.Failed {
		t.Errorf("with room again: %+v, %v", s, err)
	}
}

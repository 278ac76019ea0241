package e2e

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"cocoon/hostd/client"
	"cocoon/hostd/machine"
	"cocoon/internal/imagetest"
)

// awaitVM waits until a VM is as it should be.
func awaitVM(t *testing.T, c *client.Client, name string, good func(*machine.State) bool) *machine.State {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		st, err := c.Get(t.Context(), name)
		if err != nil {
			t.Fatal(err)
		}
		if good(st) {
			return st
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s stays as %+v", name, st)
		}
	}
}

// Real machines of a real daemon that is killed: what runs is adopted, also
// where its state file was damaged meanwhile, and what died is said to have.
// Nobody waits for a boot.
func TestMachinesOfAKilledDaemonAreAdopted(t *testing.T) {
	b := imagetest.Find(t)
	program, state := hostd(t), t.TempDir()
	first, c := daemon(t, program, state, b)
	states := map[string]*machine.State{}
	for _, name := range []string{"whole", "damaged", "qemu", "keeper"} {
		s := worker(t, b)
		s.Name, s.MemoryMiB, s.CPUs = name, 256, 1
		st, err := c.Start(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		killAll(t, st)
		states[name] = st
	}
	if err := first.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := first.Wait(); err == nil {
		t.Error("a killed daemon ended well")
	}
	if err := os.WriteFile(filepath.Join(state, "vms", "damaged", machine.StateFile), []byte(`{"name":"dam`), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := states["qemu"].QEMU.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := states["keeper"].Keeper.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	gone(t, states["qemu"])
	gone(t, states["keeper"])

	_, c = daemon(t, program, state, b)
	for _, name := range []string{"whole", "damaged"} {
		st := awaitVM(t, c, name, func(s *machine.State) bool { return s.Phase == machine.Running })
		if st.QEMU != states[name].QEMU || !st.QEMU.Alive() || st.EKSHA256 != states[name].EKSHA256 {
			t.Errorf("%s is %+v, was %+v", name, st, states[name])
		}
	}
	for name, code := range map[string]string{"qemu": "vm.qemu.died", "keeper": "vm.keeper.died"} {
		st := awaitVM(t, c, name, func(s *machine.State) bool { return s.Phase == machine.Failed })
		if len(st.Faults) != 1 || st.Faults[0].Code != code {
			t.Errorf("%s has failed with %+v", name, st.Faults)
		}
	}
	for name := range states {
		if _, err := c.Stop(t.Context(), name, true); err != nil {
			t.Error(err)
		}
		gone(t, states[name])
		if err := c.Remove(t.Context(), name); err != nil {
			t.Error(err)
		}
	}
}

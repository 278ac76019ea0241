package daemon

import (
	"context"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
)

func TestADrainedHostStartsNothingUntilItIsResumed(t *testing.T) {
	dir := t.TempDir()
	d, c := host(t, dir)
	for name, restart := range map[string]string{"a": spec.RestartNo, "b": spec.RestartAlways, "c": spec.RestartAlways, "d": spec.RestartNo} {
		s := behave(t, "serve", restart)
		s.Name = name
		start(t, d, s)
	}
	if _, err := d.Stop(t.Context(), "d", true); err != nil {
		t.Fatal(err)
	}
	names, err := d.Drain(t.Context())
	if diff := cmp.Diff([]string{"a", "b", "c"}, names); err != nil || diff != "" {
		t.Fatalf("Drain() (-want +got), %v:\n%s", err, diff)
	}
	check := func(d *Daemon, want map[string]string) {
		t.Helper()
		got := map[string]string{}
		vms, err := d.List()
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range vms {
			got[s.Name] = s.Phase
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Fatalf("VMs (-want +got):\n%s", diff)
		}
	}
	stopped := map[string]string{"a": machine.Stopped, "b": machine.Stopped, "c": machine.Stopped, "d": machine.Stopped}
	check(d, stopped)
	c.pass(time.Hour)
	d.sweep(t.Context())
	check(d, stopped)
	s := behave(t, "serve", spec.RestartNo)
	if _, err := d.Start(t.Context(), s); !fault.Has(err, "host.drained") {
		t.Errorf("Start() = %v, want host.drained", err)
	}
	if _, err := d.Upgrade(t.Context(), s, "", 0); !fault.Has(err, "host.drained") {
		t.Errorf("Upgrade() = %v, want host.drained", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}

	// It holds for the next daemon, too; what its owner stops meanwhile stays so.
	d, c = host(t, dir)
	defer d.Close()
	if sum, err := d.Summary(); err != nil || sum.Drained == nil || len(sum.VMs) != 4 || sum.MemoryMiB != 0 || sum.DiskFree == 0 {
		t.Errorf("Summary() = %+v, %v", sum, err)
	}
	if _, err := d.Stop(t.Context(), "c", false); err != nil {
		t.Fatal(err)
	}
	names, err = d.Resume()
	if diff := cmp.Diff([]string{"a", "b"}, names); err != nil || diff != "" {
		t.Fatalf("Resume() (-want +got), %v:\n%s", err, diff)
	}
	d.sweep(t.Context())
	check(d, map[string]string{"a": machine.Running, "b": machine.Running, "c": machine.Stopped, "d": machine.Stopped})
	if names, err := d.Resume(); err != nil || len(names) != 0 {
		t.Errorf("Resume() again = %v, %v", names, err)
	}
	// Afterwards the policy holds again.
	kill(t, d, "a")
	d.sweep(t.Context())
	c.pass(time.Hour)
	d.sweep(t.Context())
	check(d, map[string]string{"a": machine.Failed, "b": machine.Running, "c": machine.Stopped, "d": machine.Stopped})
}

// A daemon that was killed in the middle of a drain goes on with it.
func TestADrainIsCompletedByTheNextDaemon(t *testing.T) {
	dir := t.TempDir()
	d, _ := host(t, dir)
	start(t, d, behave(t, "serve", spec.RestartAlways))
	if err := d.store.PutDrain(store.Drain{Since: now(), VMs: []string{"a"}}); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, _ = host(t, dir)
	defer d.Close()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); d.Supervise(ctx) }()
	defer func() { cancel(); <-done }()
	for deadline := time.Now().Add(time.Minute); get(t, d, "a").Phase != machine.Stopped; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the VM of a drained host runs on")
		}
	}
}

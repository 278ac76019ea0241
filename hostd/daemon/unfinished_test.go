package daemon

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
)

// TestAnUpgradeThatHasNotEndedIsNotForgotten: the journal is all that knows the
// version before, and what else is to be taken back.
func TestAnUpgradeThatHasNotEndedIsNotForgotten(t *testing.T) {
	d, _ := host(t, t.TempDir())
	defer d.Close()
	old, next := behave(t, "serve", ""), behave(t, "hang", "")
	start(t, d, old)
	// Neither version comes up: the old one's kernel is gone when it is to be
	// started again.
	kernel := filepath.Join(old.Image, spec.KernelFile)
	keep, err := os.ReadFile(kernel)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(kernel); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Upgrade(t.Context(), next, "serving", 300*time.Millisecond); !fault.Has(err, "vm.upgrade.failed") {
		t.Fatalf("an upgrade that cannot be rolled back: %v", err)
	}
	write(t, kernel, string(keep))
	if _, err := d.Upgrade(t.Context(), behave(t, "hang", ""), "serving", 300*time.Millisecond); !fault.Has(err, "vm.upgrade.pending") {
		t.Errorf("another upgrade over it: %v, want vm.upgrade.pending", err)
	}
	r, err := d.store.Get(old.Name)
	if err != nil || r.Upgrade == nil || r.Upgrade.From.Image != old.Image {
		t.Errorf("the journal no longer knows the old version: %+v, %v", r.Upgrade, err)
	}
	d.recoverUpgrades(t.Context())
	if r, err = d.store.Get(old.Name); err != nil || r.Upgrade != nil || r.Spec.Image != old.Image {
		t.Errorf("afterwards: %+v, %v", r, err)
	}
	kill(t, d, old.Name)
}

// TestAHandOverTakesNoNameThatIsAnothersBack: what is taken back is what this
// upgrade has made, not a VM that its owner has given the name meanwhile.
func TestAHandOverTakesNoNameThatIsAnothersBack(t *testing.T) {
	d, _ := host(t, t.TempDir())
	defer d.Close()
	d.o.Carry = carryLines(func() {})
	port := freePort(t)
	old, next := version(t, 1, "serve", port), version(t, 2, "open", port)
	start(t, d, old)
	h, err := d.planHandover(old, next, true, DefaultUntil)
	if err != nil {
		t.Fatal(err)
	}
	theirs := behave(t, "serve", "")
	theirs.Name = old.Name + takerSuffix
	start(t, d, theirs)
	r, err := d.store.Get(old.Name)
	if err != nil {
		t.Fatal(err)
	}
	r.Upgrade = &store.Upgrade{From: *old, To: *next, Step: StepDrain, Until: DefaultUntil, Ran: true}
	_, err = d.handOver(t.Context(), &r, h)
	if err == nil {
		t.Fatal("two VMs have one name")
	}
	if err := d.rollBack(t.Context(), r, err); !fault.Has(err, "vm.upgrade.rolled_back") || !fault.Has(err, CodeHandover) {
		t.Errorf("the upgrade: %v", err)
	}
	if st, err := d.Get(theirs.Name); err != nil || st.Over() {
		t.Errorf("the owner's own VM: %+v, %v", st, err)
	}
	kill(t, d, theirs.Name)
	kill(t, d, old.Name)
}

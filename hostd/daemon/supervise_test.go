package daemon

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/contracts/receipt"
	"cocoon/hostd/console"
	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/proc"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/hostd/vouchers"
	"cocoon/internal/fault"
)

// fakeKeeper stands for a keeper with a VM: a process of its own that writes
// what a keeper writes and ends as one does. The image's command line says how
// it behaves: "serve", "hang" before it serves, "open" a data disk that takes
// a ticket and serve, be "silent" before it runs, or "refuse" to start.
func fakeKeeper(dir string) int {
	r, err := keeper.ReadRequest(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, keeper.SignalStop, keeper.SignalPowerOff)
	how, err := r.Spec.Cmdline()
	if err != nil || how == "refuse" {
		fmt.Fprintln(os.Stderr, "refused", err)
		return 1
	}
	self, err := proc.Self()
	if err != nil {
		return 1
	}
	s := &machine.State{Name: r.Spec.Name, Phase: machine.Running, TEE: r.Spec.TEE, Keeper: self, Started: time.Now(), Guest: machine.Guest{Stages: []machine.Stage{}}}
	if how == "serve" || how == "open" && hasTicket(r) {
		s.Guest.State = "serving"
	} else if how == "open" {
		s.Guest.Stages = []machine.Stage{{Name: "data", Status: "failed", Faults: []console.GuestFault{{Code: "seal.key_not_released", Message: "m"}}}}
	}
	if op := guestOrders(r); op != nil && op.Takeover {
		return fakeTaker(dir, s, how, r, sig)
	} else if op != nil {
		go fakeGiver(r)
	}
	if how == "silent" {
		<-sig
		return 0
	}
	if err := machine.WriteState(dir, s); err != nil {
		return 1
	}
	<-sig
	ended := time.Now()
	s.Phase, s.Reason, s.Ended = machine.Stopped, "stopped", &ended
	if err := machine.WriteState(dir, s); err != nil {
		return 1
	}
	return 0
}

// clock is a time that tests set.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.t
}

func (c *clock) pass(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.t = c.t.Add(d)
}

// host is a daemon whose keepers are fake, and its clock.
func host(t *testing.T, dir string) (*Daemon, *clock) {
	t.Helper()
	o := options(t, dir)
	t.Setenv("DAEMON_TEST_KEEPER", "fake")
	c := &clock{t: now()}
	o.Clock = c.now
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	return d, c
}

// endKeepers kills what a daemon started and left running, as their files name
// it: the daemon is closed by then.
func endKeepers(t *testing.T, dir string) {
	t.Helper()
	vms, err := filepath.Glob(filepath.Join(dir, vmsDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, vm := range vms {
		st, err := machine.ReadState(vm)
		if err != nil || st.Over() {
			continue // there is none, or it is damaged, which is the test's doing
		}
		if err := st.Keeper.Signal(syscall.SIGKILL); err != nil || !st.Keeper.WaitGone(time.Minute) {
			t.Errorf("the keeper of %s lives on: %v", vm, err)
		}
	}
}

// behave returns a spec whose VM behaves so.
func behave(t *testing.T, how, restart string) *spec.Spec {
	t.Helper()
	s := image(t)
	s.Restart = restart
	if err := os.WriteFile(filepath.Join(s.Image, spec.CmdlineFile), []byte(how), 0o600); err != nil {
		t.Fatal(err)
	}
	return s
}

func start(t *testing.T, d *Daemon, s *spec.Spec) *machine.State {
	t.Helper()
	st, err := d.Start(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { endKeepers(t, d.o.Dir) })
	return st
}

// Vouchers are money: they outlive the VM and its removal, and the next VM of
// the name goes on with them.
func TestVouchersOutliveTheirVM(t *testing.T) {
	dir := t.TempDir()
	d, _ := host(t, dir)
	defer d.Close()
	s := behave(t, "serve", "")
	for seq := range uint64(2) {
		start(t, d, s)
		r, err := keeper.ReadRequest(d.dir(s.Name))
		if err != nil {
			t.Fatal(err)
		}
		v, err := receipt.Voucher{GlobalID: -3, Seq: seq + 1, Amount: 1, ReceiptCount: 1}.Sign(ed25519.NewKeyFromSeed(make([]byte, 32)))
		if err != nil {
			t.Fatal(err)
		}
		if kept, err := (vouchers.Book{Dir: r.Vouchers}).Keep(v); !kept || err != nil {
			t.Fatalf("Keep() = %v, %v", kept, err)
		}
		if _, err := d.Stop(t.Context(), s.Name, true); err != nil {
			t.Fatal(err)
		}
		if err := d.Remove(s.Name); err != nil {
			t.Fatal(err)
		}
		kept, damaged, err := (vouchers.Book{Dir: filepath.Join(dir, "vouchers")}).Read()
		if err != nil || len(damaged) != 0 || len(kept) != 1 || kept[0].Voucher.Voucher.Seq != seq+1 {
			t.Errorf("after VM %d: %v, %v, %v", seq, kept, damaged, err)
		}
	}
}

// kill ends a VM's keeper as the kernel does when memory runs out.
func kill(t *testing.T, d *Daemon, name string) {
	t.Helper()
	st, err := d.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := st.Keeper.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); st.Keeper.Alive(); {
		if time.Now().After(deadline) {
			t.Fatal("the keeper does not die")
		}
	}
}

func get(t *testing.T, d *Daemon, name string) *machine.State {
	t.Helper()
	st, err := d.Get(name)
	if err != nil {
		t.Fatal(err)
	}
	return st
}

func TestAVMThatFailsIsRestartedAfterGrowingPauses(t *testing.T) {
	d, c := host(t, t.TempDir())
	defer d.Close()
	start(t, d, behave(t, "serve", spec.RestartOnFailure))
	for i, pause := range []time.Duration{time.Second, 2 * time.Second, 4 * time.Second} {
		kill(t, d, "a")
		d.sweep(t.Context())
		st := get(t, d, "a")
		if st.Phase != machine.Failed || st.NextStart == nil || !st.NextStart.Equal(c.now().Add(pause)) {
			t.Fatalf("after failure %d: %+v, want it to start in %s", i, st, pause)
		}
		c.pass(pause - time.Millisecond)
		d.sweep(t.Context())
		if st := get(t, d, "a"); !st.Over() {
			t.Fatalf("after failure %d it started early", i)
		}
		c.pass(time.Millisecond)
		d.sweep(t.Context())
		if st := get(t, d, "a"); st.Phase != machine.Running || st.Restarts != i+1 || st.NextStart != nil {
			t.Fatalf("after failure %d: %+v, want it running", i, st)
		}
	}
	cs, err := d.Crashes("a")
	if err != nil || len(cs) == 0 || cs[0].Reason != "its keeper died" || len(cs[0].Faults) != 1 || cs[0].Faults[0].Code != "vm.keeper.died" {
		t.Errorf("crash reports %+v, %v", cs, err)
	}
	// What the owner stops stays stopped.
	if _, err := d.Stop(t.Context(), "a", false); err != nil {
		t.Fatal(err)
	}
	c.pass(time.Hour)
	d.sweep(t.Context())
	if st := get(t, d, "a"); st.Phase != machine.Stopped {
		t.Errorf("a stopped VM is %s", st.Phase)
	}
}

func TestARestartThatFailsIsTriedAgainAndSaysWhy(t *testing.T) {
	d, c := host(t, t.TempDir())
	defer d.Close()
	s := behave(t, "serve", spec.RestartAlways)
	start(t, d, s)
	if err := os.Remove(filepath.Join(s.Image, spec.KernelFile)); err != nil {
		t.Fatal(err)
	}
	kill(t, d, "a")
	d.sweep(t.Context())
	c.pass(time.Second)
	d.sweep(t.Context())
	st := get(t, d, "a")
	if st.Restarts != 1 || !strings.Contains(st.StartError, "vm.file.missing") || st.NextStart == nil || !st.NextStart.Equal(c.now().Add(2*time.Second)) {
		t.Fatalf("after a failed restart: %+v", st)
	}
	if err := os.WriteFile(filepath.Join(s.Image, spec.KernelFile), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c.pass(2 * time.Second)
	d.sweep(t.Context())
	if st := get(t, d, "a"); st.Phase != machine.Running || st.StartError != "" {
		t.Errorf("with the file back: %+v", st)
	}
}

func TestOnlyThePolicyRestarts(t *testing.T) {
	for _, tc := range []struct {
		restart string
		fails   bool
		again   bool
	}{{"", true, false}, {spec.RestartNo, true, false}, {spec.RestartOnFailure, false, false}, {spec.RestartOnFailure, true, true}, {spec.RestartAlways, false, true}} {
		t.Run(fmt.Sprintf("restart %q, fails %v", tc.restart, tc.fails), func(t *testing.T) {
			d, c := host(t, t.TempDir())
			defer d.Close()
			st := start(t, d, behave(t, "serve", tc.restart))
			if tc.fails {
				kill(t, d, "a")
			} else { // the guest powers off on its own
				if _, err := d.end(t.Context(), "a", false); err != nil {
					t.Fatal(err)
				}
			}
			d.sweep(t.Context())
			c.pass(time.Minute)
			d.sweep(t.Context())
			if got := get(t, d, "a"); got.Over() == tc.again || (tc.again && got.Keeper == st.Keeper) {
				t.Errorf("state %+v, want restarted: %v", got, tc.again)
			}
		})
	}
}

// A reboot leaves states of processes that are gone; the next daemon starts
// what should run, and nothing else.
func TestWhatShouldRunIsStartedAfterAReboot(t *testing.T) {
	dir := t.TempDir()
	d, _ := host(t, dir)
	start(t, d, behave(t, "serve", spec.RestartOnFailure))
	kill(t, d, "a")
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	d, c := host(t, dir)
	defer d.Close()
	d.sweep(t.Context())
	c.pass(time.Second)
	d.sweep(t.Context())
	if st := get(t, d, "a"); st.Phase != machine.Running {
		t.Errorf("after the reboot: %+v", st)
	}
	kill(t, d, "a")
}

func TestAnUpgradeStaysIfItServesAndIsTakenBackIfNot(t *testing.T) {
	d, _ := host(t, t.TempDir())
	defer d.Close()
	old := behave(t, "serve", "")
	start(t, d, old)
	running := func() (string, *machine.State) {
		r, err := d.store.Get("a")
		if err != nil || r.Upgrade != nil {
			t.Fatalf("record %+v, %v", r, err)
		}
		return r.Spec.Image, get(t, d, "a")
	}
	for how, code := range map[string]string{"hang": "vm.wait.timeout", "refuse": "vm.keeper.start"} {
		_, err := d.Upgrade(t.Context(), behave(t, how, ""), "", 300*time.Millisecond)
		if !fault.Has(err, "vm.upgrade.rolled_back") || !fault.Has(err, code) {
			t.Errorf("a version that does %s: %v", how, err)
		}
		if img, st := running(); img != old.Image || st.Phase != machine.Running || st.Guest.State != "serving" {
			t.Errorf("after a version that does %s: %s %+v", how, img, st)
		}
	}
	good := behave(t, "serve", "")
	if st, err := d.Upgrade(t.Context(), good, "", 10*time.Second); err != nil || st.Guest.State != "serving" {
		t.Fatalf("a good version: %+v, %v", st, err)
	}
	if img, st := running(); img != good.Image || st.Phase != machine.Running {
		t.Errorf("after the upgrade: %s %+v", img, st)
	}
	// What can be seen beforehand costs nothing.
	before := get(t, d, "a").Keeper
	bad := behave(t, "serve", "")
	bad.Config = "/nonexistent/config"
	if _, err := d.Upgrade(t.Context(), bad, "", time.Second); !fault.Has(err, "vm.file.missing") || get(t, d, "a").Keeper != before {
		t.Errorf("a version without its files: %v", err)
	}
	unknown := behave(t, "serve", "")
	unknown.Name = "b"
	if _, err := d.Upgrade(t.Context(), unknown, "", time.Second); !fault.Has(err, "vm.unknown") {
		t.Errorf("an unknown VM: %v", err)
	}
	kill(t, d, "a")
}

// A daemon that is killed in the middle of an upgrade leaves the journal, at
// whatever step: the next one ends it.
func TestAnInterruptedUpgradeIsEndedByTheNextDaemon(t *testing.T) {
	for _, tc := range []struct {
		name, step, runs string // what runs when the daemon dies
		want             string
	}{
		{"while the old version drains", StepDrain, "old", "old"},
		{"after the old version ended", StepStart, "none", "old"},
		{"while the new version starts", StepStart, "hang", "old"},
		{"while the new version attests", StepVerify, "hang", "old"},
		{"just before the new version is taken", StepVerify, "new", "new"},
		{"after the new version died", StepVerify, "none", "old"},
		{"while rolling back", StepRollBack, "none", "old"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			dir := t.TempDir()
			d, _ := host(t, dir)
			versions := map[string]*spec.Spec{"old": behave(t, "serve", ""), "new": behave(t, "serve", ""), "hang": behave(t, "hang", "")}
			to := versions["new"]
			first := versions["old"]
			if tc.runs == "hang" {
				to = versions["hang"]
			}
			if tc.runs == "new" || tc.runs == "hang" {
				first = to
			}
			start(t, d, first)
			if tc.runs == "none" {
				kill(t, d, "a")
			}
			r, err := d.store.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			r.Upgrade = &store.Upgrade{From: *versions["old"], To: *to, Step: tc.step, Until: DefaultUntil, Began: now(), Ran: true}
			if err := d.store.Put(r); err != nil {
				t.Fatal(err)
			}
			if _, err := d.Start(t.Context(), to); !fault.Has(err, "vm.upgrade.pending") && !fault.Has(err, "vm.running") {
				t.Errorf("Start() in the middle = %v", err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			d, _ = host(t, dir)
			defer d.Close()
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // Supervise ends what is left over and then itself
			d.Supervise(ctx)
			r, err = d.store.Get("a")
			if err != nil || r.Upgrade != nil {
				t.Fatalf("record %+v, %v", r, err)
			}
			if st := get(t, d, "a"); r.Spec.Image != versions[tc.want].Image || st.Phase != machine.Running || st.Guest.State != "serving" {
				t.Errorf("runs %s, %+v; want the %s version", r.Spec.Image, st, tc.want)
			}
			kill(t, d, "a")
		})
	}
}

func TestADamagedStoreIsMadeAnewFromWhatRuns(t *testing.T) {
	dir := t.TempDir()
	d, _ := host(t, dir)
	before := start(t, d, behave(t, "serve", spec.RestartAlways))
	other := behave(t, "serve", spec.RestartAlways)
	other.Name = "b"
	start(t, d, other)
	if _, err := d.Stop(t.Context(), "b", false); err != nil {
		t.Fatal(err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, store.File), []byte(strings.Repeat("damaged ", 4096)), 0o600); err != nil {
		t.Fatal(err)
	}
	d, c := host(t, dir)
	defer d.Close()
	if st := get(t, d, "a"); st.Phase != machine.Running || st.Keeper != before.Keeper {
		t.Errorf("the VM that runs: %+v", st)
	}
	d.sweep(t.Context())
	c.pass(time.Hour)
	d.sweep(t.Context())
	if st := get(t, d, "b"); st.Phase != machine.Stopped {
		t.Errorf("the VM that was stopped is %s", st.Phase)
	}
	if kept, err := filepath.Glob(filepath.Join(dir, store.File+".damaged-*")); err != nil || len(kept) != 1 {
		t.Errorf("kept %v, %v", kept, err)
	}
	kill(t, d, "a")
}

func TestCrashReportsAreFew(t *testing.T) {
	d, _ := host(t, t.TempDir())
	defer d.Close()
	start(t, d, behave(t, "serve", ""))
	kill(t, d, "a")
	get(t, d, "a")
	for i := range maxCrashes + 3 {
		s, err := machine.ReadState(d.dir("a"))
		if err != nil {
			t.Fatal(err)
		}
		at := now().Add(time.Duration(i) * time.Second)
		s.Ended = &at
		if err := machine.WriteState(d.dir("a"), s); err != nil {
			t.Fatal(err)
		}
		if err := d.keepCrash("a"); err != nil {
			t.Fatal(err)
		}
	}
	cs, err := d.Crashes("a")
	if err != nil || len(cs) != maxCrashes || !cs[0].Ended.After(cs[1].Ended) {
		t.Errorf("%d reports, %v", len(cs), err)
	}
}

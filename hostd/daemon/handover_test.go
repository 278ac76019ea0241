package daemon

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"cocoon/hostd/console"
	"cocoon/hostd/keeper"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/store"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/manifest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/tpmtest"
)

// ticket is what the machine that takes gives the host.
const ticket = "a ticket"

func hasTicket(r *keeper.Request) bool {
	b, err := os.ReadFile(r.Spec.FwCfg[ticketName])
	return err == nil && string(b) == ticket
}

// guestOrders returns a fake guest's operator.json, nil where it has none.
func guestOrders(r *keeper.Request) *evidence.Operator {
	b, err := os.ReadFile(r.Spec.Operator)
	if err != nil {
		return nil
	}
	op, err := evidence.ParseOperator(b)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return nil
	}
	return op
}

// greet connects to where the guest's forward leads.
func greet(r *keeper.Request, role string) (net.Conn, error) {
	op := guestOrders(r)
	for _, f := range r.Spec.Forwards {
		if f.Guest == op.Handover {
			c, err := net.Dial("tcp", f.Target)
			if err == nil {
				_, err = fmt.Fprintln(c, role)
			}
			return c, err
		}
	}
	return nil, errors.New("no forward")
}

// fakeGiver looks for the host as a guest that has the disk does, only sooner.
func fakeGiver(r *keeper.Request) {
	for {
		if c, err := greet(r, "giver"); err == nil {
			_, _ = bufio.NewReader(c).ReadString('\n')
			c.Close()
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// fakeTaker is a guest that was started to take a key over. In an image that
// does "hang" it never asks, in one that does "refuse-key" it refuses.
func fakeTaker(dir string, s *machine.State, how string, r *keeper.Request, sig <-chan os.Signal) int {
	s.Guest.State = "booting"
	stage := machine.Stage{Name: stageTaken, Status: "running"}
	end := func(phase string) int {
		ended := time.Now()
		s.Guest.Stages, s.Phase, s.Reason, s.Ended = []machine.Stage{stage}, phase, "powered off", &ended
		if err := machine.WriteState(dir, s); err != nil {
			return 1
		}
		return 0
	}
	s.Guest.Stages = []machine.Stage{stage}
	if err := machine.WriteState(dir, s); err != nil {
		return 1
	}
	switch {
	case r.Spec.DataDisk != nil:
		return 1
	case how == "refuse-key":
		stage.Status, stage.Faults = "failed", []console.GuestFault{{Code: "handover.version", Message: "m"}}
		return end(machine.Failed)
	case how == "hang":
		<-sig
		return end(machine.Stopped)
	}
	c, err := greet(r, "taker")
	if err != nil {
		return 1
	}
	defer c.Close()
	if _, err := bufio.NewReader(c).ReadString('\n'); err != nil {
		return 1
	}
	stage.Status = "ok"
	return end(machine.Stopped)
}

// carryLines stands for the guests' protocol, which is tested where it is
// (enclave/handover): both say who they are, and the one that takes is told
// when it is over. midway is called once both are there.
func carryLines(midway func()) Carry {
	return func(ctx context.Context, l net.Listener, m Material, met func(string)) ([]byte, error) {
		defer context.AfterFunc(ctx, func() { l.Close() })()
		have := map[string]net.Conn{}
		defer func() {
			for _, c := range have {
				c.Close()
			}
		}()
		for len(have) < 2 {
			c, err := l.Accept()
			if err != nil {
				return nil, err
			}
			role, err := bufio.NewReader(c).ReadString('\n')
			if err != nil {
				c.Close()
				continue
			}
			met(strings.TrimSpace(role))
			have[strings.TrimSpace(role)] = c
		}
		midway()
		own, err := manifest.Read(m.Own, nil)
		if err != nil {
			return nil, err
		}
		peer, err := manifest.Read(m.Peer, nil)
		if err != nil {
			return nil, err
		}
		if own.Manifest.Image.Version >= peer.Manifest.Image.Version || len(m.OwnCollateral) > 0 || string(m.PeerCollateral) != "{}" {
			return nil, errors.New("another material")
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		_, err = fmt.Fprintln(have["taker"], "taken")
		return []byte(ticket), err
	}
}

var envelopes sync.Map // by version

// envelope returns the manifest of a version of an image.
func envelope(t *testing.T, n uint64) string {
	t.Helper()
	if env, ok := envelopes.Load(n); ok {
		return env.(string)
	}
	v, err := manifest.Read(tpmtest.NewWorld(t).Envelope(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	v.Manifest.Image.Version = n
	env, err := manifest.Sign(v.Manifest, ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)))
	if err != nil {
		t.Fatal(err)
	}
	envelopes.Store(n, string(env))
	return string(env)
}

// version returns a spec of one version of an image with a data disk that can be
// handed over at the port.
func version(t *testing.T, n uint64, how, port string) *spec.Spec {
	t.Helper()
	s := behave(t, how, "")
	s.TEE, s.DataDisk = spec.TEESNP, &spec.DataDisk{Path: "/nonexistent/data.img", SizeMiB: 32}
	s.Config, s.Operator = filepath.Join(s.Image, "config.json"), filepath.Join(s.Image, "operator.json")
	s.Handover = &spec.Handover{Manifest: filepath.Join(s.Image, "manifest.json")}
	s.Forwards = []spec.Forward{{Guest: "10.0.2.104:4434", Target: port}}
	op, err := jcs.Marshal(evidence.Operator{Version: 1, Payout: "EQpayout", Verifier: "http://10.0.2.100:80", Gateways: []string{}, Handover: "10.0.2.104:4434"})
	if err != nil {
		t.Fatal(err)
	}
	if n > 1 {
		s.Handover.Collateral = filepath.Join(s.Image, "collateral.json")
		write(t, s.Handover.Collateral, "{}")
	}
	write(t, s.Handover.Manifest, envelope(t, n))
	write(t, s.Operator, string(op))
	write(t, s.Config, "{}")
	return s
}

func write(t *testing.T, path, doc string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(doc), 0o600); err != nil {
		t.Fatal(err)
	}
}

// freePort returns an address of this host that nobody listens at.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// nothingLeft checks that a hand-over has left nothing on the host.
func nothingLeft(t *testing.T, d *Daemon) {
	t.Helper()
	if _, err := d.Get("a" + takerSuffix); !fault.Has(err, "vm.unknown") {
		t.Errorf("the machine that takes: %v", err)
	}
	if _, err := os.Stat(d.dir("a" + takerSuffix)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
	for _, f := range []string{ticketName, takeoverName} {
		if _, err := os.Stat(filepath.Join(d.dir("a"), f)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", f, err)
		}
	}
	r, err := d.store.Get("a")
	if err != nil || r.Upgrade != nil || r.Spec.FwCfg[ticketName] != "" {
		t.Errorf("record %+v, %v", r, err)
	}
}

// TestAnUpgradeHandsTheDataDiskOver: the old version serves until the ticket is
// there, and the new one opens the disk with it, once.
func TestAnUpgradeHandsTheDataDiskOver(t *testing.T) {
	d, _ := host(t, t.TempDir())
	defer d.Close()
	port := freePort(t)
	start(t, d, version(t, 1, "serve", port))
	before := get(t, d, "a").Keeper
	served := false
	d.o.Carry = carryLines(func() {
		st := get(t, d, "a")
		served = st.Keeper == before && st.Guest.State == "serving" && st.Upgrade == StepHandOver
	})
	next := version(t, 2, "open", port)
	st, err := d.Upgrade(t.Context(), next, "", 30*time.Second)
	if err != nil || st.Guest.State != "serving" {
		t.Fatalf("the upgrade: %+v, %v", st, err)
	}
	if !served {
		t.Error("the old version did not serve while its key was handed over")
	}
	nothingLeft(t, d)
	if r, err := d.store.Get("a"); err != nil || r.Spec.Image != next.Image || r.Spec.Operator != next.Operator {
		t.Errorf("record %+v, %v", r, err)
	}
	kill(t, d, "a")
}

// TestAHandOverThatFailsCostsNothing but the upgrade.
func TestAHandOverThatFailsCostsNothing(t *testing.T) {
	for name, c := range map[string]struct {
		how    string // the new version does
		midway func(d *Daemon, cancel context.CancelFunc)
		codes  []string
		same   bool // the old version was not even stopped
	}{
		"the new image refuses the key":             {"refuse-key", nil, []string{"vm.guest.failed", "handover.version"}, true},
		"the caller goes away":                      {"open", func(_ *Daemon, cancel context.CancelFunc) { cancel() }, nil, true},
		"the old version ends in the middle":        {"open", func(d *Daemon, _ context.CancelFunc) { killNow(d, "a") }, []string{CodeHandover}, false},
		"the machine that takes ends without it":    {"open", func(d *Daemon, _ context.CancelFunc) { killNow(d, "a"+takerSuffix) }, []string{"vm.ended"}, true},
		"the new version does not serve with it":    {"hang-later", nil, []string{"vm.wait.timeout"}, false},
		"the image of the new version is a bad one": {"refuse", nil, []string{"vm.keeper.start"}, true},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := host(t, t.TempDir())
			defer d.Close()
			port := freePort(t)
			old := version(t, 1, "serve", port)
			start(t, d, old)
			before := get(t, d, "a").Keeper
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			d.o.Carry = carryLines(func() {
				if c.midway == nil {
					return
				}
				c.midway(d, cancel)
				// What happens is seen by the daemon, which ends this.
				<-ctx.Done()
			})
			if c.midway != nil {
				carry := d.o.Carry
				d.o.Carry = func(inner context.Context, l net.Listener, m Material, met func(string)) ([]byte, error) {
					defer context.AfterFunc(inner, cancel)()
					return carry(inner, l, m, met)
				}
			}
			_, err := d.Upgrade(ctx, version(t, 2, c.how, port), "", 300*time.Millisecond)
			if !fault.Has(err, "vm.upgrade.rolled_back") {
				t.Errorf("the upgrade: %v", err)
			}
			for _, code := range c.codes {
				if !fault.Has(err, code) {
					t.Errorf("the upgrade, without %s: %v", code, err)
				}
			}
			nothingLeft(t, d)
			st := get(t, d, "a")
			r, err := d.store.Get("a")
			if err != nil || r.Spec.Image != old.Image || st.Phase != machine.Running || st.Guest.State != "serving" || (st.Keeper == before) != c.same {
				t.Errorf("afterwards %+v, %+v, %v; the same machine: %v", r, st, err, st.Keeper == before)
			}
			kill(t, d, "a")
		})
	}
}

// killNow takes a keeper away.
func killNow(d *Daemon, name string) {
	if st, err := d.Get(name); err == nil {
		_ = st.Keeper.Signal(syscall.SIGKILL)
	}
}

// TestAHandOverThatCannotBeIsRefusedBeforehand, with every reason.
func TestAHandOverThatCannotBeIsRefusedBeforehand(t *testing.T) {
	for name, c := range map[string]struct {
		change func(t *testing.T, from, to *spec.Spec)
		want   string // part of the reason; empty: none, and nothing to hand over
	}{
		"nothing":                         {func(_ *testing.T, _, to *spec.Spec) { to.Handover = nil }, ""},
		"another disk":                    {func(_ *testing.T, _, to *spec.Spec) { to.DataDisk.Path = "/nonexistent/other" }, ""},
		"no disk":                         {func(_ *testing.T, _, to *spec.Spec) { to.DataDisk = nil }, ""},
		"a ticket that is there":          {func(_ *testing.T, _, to *spec.Spec) { to.FwCfg = map[string]string{ticketName: to.Config} }, ""},
		"the same image":                  {func(_ *testing.T, from, to *spec.Spec) { to.Handover.Manifest = from.Handover.Manifest }, ""},
		"an old version without manifest": {func(_ *testing.T, from, _ *spec.Spec) { from.Handover = nil }, "the running version's spec has no handover"},
		"an earlier version":              {func(_ *testing.T, from, to *spec.Spec) { from.Handover, to.Handover = to.Handover, from.Handover }, "the new image"},
		"no manifest": {func(t *testing.T, _, to *spec.Spec) {
			write(t, to.Handover.Manifest, "{}")
		}, "reading"},
		"another config": {func(t *testing.T, _, to *spec.Spec) { write(t, to.Config, `{"a":1}`) }, "the new version's config"},
		"another payout": {func(t *testing.T, _, to *spec.Spec) {
			write(t, to.Operator, `{"version":1,"payout":"EQother","verifier":"http://10.0.2.100:80","gateways":[],"handover":"10.0.2.104:4434","limits":{"max_requests":0}}`)
		}, "payout"},
		"a guest that looks for nobody": {func(t *testing.T, from, _ *spec.Spec) {
			write(t, from.Operator, `{"version":1,"payout":"EQpayout","verifier":"http://10.0.2.100:80","gateways":[],"limits":{"max_requests":0}}`)
		}, "the running version's operator.json has no handover"},
		"an operator.json that takes over": {func(t *testing.T, _, to *spec.Spec) {
			write(t, to.Operator, `{"version":1,"payout":"EQpayout","verifier":"http://10.0.2.100:80","gateways":[],"handover":"10.0.2.104:4434","takeover":true,"limits":{"max_requests":0}}`)
		}, "has takeover"},
		"a broken operator.json": {func(t *testing.T, _, to *spec.Spec) { write(t, to.Operator, "{") }, "operator.json"},
		"no forward":             {func(_ *testing.T, _, to *spec.Spec) { to.Forwards = nil }, "no forward of 10.0.2.104:4434"},
		"a forward to a socket":  {func(_ *testing.T, from, _ *spec.Spec) { from.Forwards[0].Target = "unix:/run/x.sock" }, "is not to host:port"},
		"two ports":              {func(_ *testing.T, _, to *spec.Spec) { to.Forwards[0].Target = "127.0.0.1:1" }, "forwarded to"},
		"a GPU of both": {func(_ *testing.T, from, to *spec.Spec) {
			from.GPUs, to.GPUs = &spec.GPUs{Devices: []string{"0000:01:00.0"}}, &spec.GPUs{Devices: []string{"0000:01:00.0", "0000:02:00.0"}}
		}, "GPUs in common"},
		"a long name":                 {func(_ *testing.T, from, to *spec.Spec) { from.Name = strings.Repeat("a", 40); to.Name = from.Name }, "at most 40 characters"},
		"collateral that is a folder": {func(_ *testing.T, _, to *spec.Spec) { to.Handover.Collateral = to.Image }, "not a regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			d, _ := host(t, t.TempDir())
			defer d.Close()
			d.o.Carry = carryLines(func() {})
			from, to := version(t, 1, "serve", "127.0.0.1:4434"), version(t, 2, "serve", "127.0.0.1:4434")
			if h, err := d.planHandover(from, to, true, DefaultUntil); err != nil || h == nil || h.listen != "127.0.0.1:4434" || h.taker.DataDisk != nil || !strings.Contains(string(h.operator), `"takeover":true`) {
				t.Fatalf("unchanged: %+v, %v", h, err)
			}
			c.change(t, from, to)
			h, err := d.planHandover(from, to, true, DefaultUntil)
			if h != nil || c.want == "" && err != nil || c.want != "" && (!fault.Has(err, CodeHandover) || !strings.Contains(err.Error(), c.want)) {
				t.Errorf("got %+v, %v; want %q", h, err, c.want)
			}
		})
	}
	d, _ := host(t, t.TempDir())
	defer d.Close()
	if err := d.store.Put(store.Record{Spec: spec.Spec{Name: "a" + takerSuffix}}); err != nil {
		t.Fatal(err)
	}
	from, to := version(t, 1, "serve", "127.0.0.1:4434"), version(t, 2, "serve", "127.0.0.1:4434")
	if _, err := d.planHandover(from, to, false, "platform"); len(fault.All(err)) != 4 {
		t.Errorf("a daemon that carries nothing, a VM of that name, an old version that does not run, and a stage: %v", err)
	}
}

// TestAnInterruptedHandOverIsTakenBackByTheNextDaemon.
func TestAnInterruptedHandOverIsTakenBackByTheNextDaemon(t *testing.T) {
	for step, want := range map[string]uint64{StepHandOver: 1, StepDrain: 1, StepVerify: 2} {
		t.Run(step, func(t *testing.T) {
			dir := t.TempDir()
			d, _ := host(t, dir)
			port := freePort(t)
			versions := map[uint64]*spec.Spec{1: version(t, 1, "serve", port), 2: version(t, 2, "serve", port)}
			start(t, d, versions[want])
			before := get(t, d, "a").Keeper
			taker := *version(t, 2, "hang", port)
			taker.Name, taker.DataDisk, taker.Handover = "a"+takerSuffix, nil, nil
			write(t, taker.Operator, `{"version":1,"payout":"EQpayout","verifier":"http://10.0.2.100:80","gateways":[],"handover":"10.0.2.104:4434","takeover":true,"limits":{"max_requests":0}}`)
			start(t, d, &taker)
			write(t, filepath.Join(d.dir("a"), ticketName), ticket)
			write(t, filepath.Join(d.dir("a"), takeoverName), "{}")
			r, err := d.store.Get("a")
			if err != nil {
				t.Fatal(err)
			}
			r.Upgrade = &store.Upgrade{From: *versions[1], To: *versions[2], Step: step, Until: DefaultUntil, Began: now(), Ran: true, Taker: taker.Name}
			if err := d.store.Put(r); err != nil {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}
			d, _ = host(t, dir)
			defer d.Close()
			ctx, cancel := context.WithCancel(t.Context())
			cancel() // Supervise ends what is left over and then itself
			d.Supervise(ctx)
			nothingLeft(t, d)
			if st := get(t, d, "a"); st.Keeper != before || st.Phase != machine.Running {
				t.Errorf("afterwards %+v", st)
			}
			if r, err := d.store.Get("a"); err != nil || r.Spec.Image != versions[want].Image {
				t.Errorf("record %+v, %v", r, err)
			}
			kill(t, d, "a")
		})
	}
}

// TestADiskWhoseKeyStayedBehindSaysSo: without a hand-over the new image does
// not get the key, and the reason is said beside the guest's.
func TestADiskWhoseKeyStayedBehindSaysSo(t *testing.T) {
	d, _ := host(t, t.TempDir())
	defer d.Close()
	port := freePort(t)
	old, next := version(t, 1, "serve", port), version(t, 2, "open", port)
	old.Handover, next.Handover = nil, nil
	start(t, d, old)
	if _, err := d.Upgrade(t.Context(), next, "", 10*time.Second); !fault.Has(err, "vm.upgrade.rolled_back") || !fault.Has(err, "seal.key_not_released") || !fault.Has(err, CodeHandover) {
		t.Errorf("the upgrade: %v", err)
	}
	nothingLeft(t, d)
	kill(t, d, "a")
}

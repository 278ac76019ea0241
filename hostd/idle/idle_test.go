package idle

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
)

func ptr[T any](v T) *T { return &v }

// at is a Tuesday.
func at(clock string) time.Time {
	t, err := time.Parse("2006-01-02 15:04:05", "2026-11-24 "+clock)
	if err != nil {
		panic(err)
	}
	return t
}

func TestPoliciesThatMakeNoSenseAreRefused(t *testing.T) {
	if _, err := Parse([]byte(`{"version":1,"spec":"vm.json","timezone":""}`)); err != nil {
		t.Fatal(err)
	}
	for name, doc := range map[string]string{
		"an unknown field":       `{"version":1,"spec":"s","timezone":"","x":1}`,
		"another version":        `{"version":2,"spec":"s","timezone":""}`,
		"no VM":                  `{"version":1,"spec":"","timezone":""}`,
		"an unknown timezone":    `{"version":1,"spec":"s","timezone":"Mars/Olympus"}`,
		"a time that is none":    `{"version":1,"spec":"s","timezone":"","schedule":[{"from":"25:00","to":"01:00"}]}`,
		"a window without time":  `{"version":1,"spec":"s","timezone":"","schedule":[{"from":"01:00","to":"01:00"}]}`,
		"a day that is none":     `{"version":1,"spec":"s","timezone":"","schedule":[{"days":["day"],"from":"00:00","to":"24:00"}]}`,
		"a load below zero":      `{"version":1,"spec":"s","timezone":"","max_load":-1}`,
		"a rest of weeks":        `{"version":1,"spec":"s","timezone":"","idle_for_s":1000000}`,
		"a floor without prices": `{"version":1,"spec":"s","timezone":"","min_price":1}`,
		"a key twice":            `{"version":1,"version":1,"spec":"s","timezone":""}`,
	} {
		if _, err := Parse([]byte(doc)); !fault.Has(err, "idle.policy.malformed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheScheduleKnowsNightsAndTimezones(t *testing.T) {
	p := &Policy{Timezone: "Europe/Berlin", Schedule: []Window{{Days: []string{"mon"}, From: "22:00", To: "06:00"}, {Days: []string{"wed"}, From: "00:00", To: "24:00"}}}
	for when, want := range map[string]bool{
		"2026-11-23T20:59:00Z": false, // Monday 21:59 in Berlin
		"2026-11-23T21:00:00Z": true,
		"2026-11-24T04:59:00Z": true, // Tuesday, the night of Monday
		"2026-11-24T05:00:00Z": false,
		"2026-11-24T21:30:00Z": false, // Tuesday has no night
		"2026-11-24T23:00:00Z": true,  // Wednesday 00:00 in Berlin
		"2026-11-25T22:59:00Z": true,
		"2026-11-25T23:00:00Z": false,
	} {
		now, err := time.Parse(time.RFC3339, when)
		if err != nil {
			t.Fatal(err)
		}
		if got := p.open(now); got != want {
			t.Errorf("open(%s) = %v", when, got)
		}
	}
}

func TestEachConditionSpeaksForTheOwner(t *testing.T) {
	p := &Policy{MaxLoad: 0.5, MaxGPU: 10, OwnGPU: true, Presence: true, IdleFor: 300, MainsOnly: true, MinPrice: 100, Schedule: []Window{{From: "08:00", To: "20:00"}}}
	good := func() *Observation {
		return &Observation{Time: at("12:00:00"), Load: ptr(0.1), GPU: ptr(0), GPUPrograms: ptr(0), Touched: ptr(900), Mains: ptr(true), Price: ptr(uint64(100))}
	}
	if why := p.away(good()); why != nil {
		t.Fatalf("nothing speaks for the owner, but %v", why)
	}
	for want, change := range map[string]func(*Observation){
		"schedule":           func(o *Observation) { o.Time = at("21:00:00") },
		"load 0.60":          func(o *Observation) { o.Load = ptr(0.6) },
		"load is not known":  func(o *Observation) { o.Load = nil },
		"GPU used to 50":     func(o *Observation) { o.GPU = ptr(50) },
		"programs have":      func(o *Observation) { o.GPUPrograms = ptr(1) },
		"GPU is not known":   func(o *Observation) { o.GPU = nil },
		"open is not known":  func(o *Observation) { o.GPUPrograms = nil },
		"there 10 s ago":     func(o *Observation) { o.Touched = ptr(10) },
		"there is not known": func(o *Observation) { o.Touched = nil },
		"mains":              func(o *Observation) { o.Mains = ptr(false) },
		"price 99":           func(o *Observation) { o.Price = ptr(uint64(99)) },
		"price is not known": func(o *Observation) { o.Price = nil },
	} {
		o := good()
		change(o)
		if why := p.away(o); len(why) != 1 || !strings.Contains(why[0], want) {
			t.Errorf("%s: %v", want, why)
		}
	}
}

// What follows what: each line is a moment, what is seen, and the order and
// mode that it must give.
func TestJoiningAndYielding(t *testing.T) {
	type moment struct {
		clock   string
		load    float64
		running bool
		reqs    int
		order   string
		mode    string
	}
	for name, story := range map[string][]moment{
		"it joins after the rest, and a busy moment begins the rest anew": {
			{"10:00:00", 0, false, 0, None, Away}, {"10:04:59", 0, false, 0, None, Away}, {"10:04:59", 1, false, 0, None, Away},
			{"10:05:10", 0, false, 0, None, Away}, {"10:10:09", 0, false, 0, None, Away}, {"10:10:10", 0, false, 0, Start, Serving}},
		"without requests it is gone within ten seconds": {
			{"10:00:00", 0, false, 0, None, Away}, {"10:05:00", 0, false, 0, Start, Serving}, {"10:06:00", 1, true, 0, Stop, Stopping},
			{"10:06:05", 1, true, 0, None, Stopping}, {"10:06:06", 1, true, 0, PowerOff, Stopping}, {"10:06:08", 1, true, 0, None, Stopping}, {"10:06:10", 1, false, 0, None, Away}},
		"with requests it drains, and stops when they have ended": {
			{"10:00:00", 0, false, 0, None, Away}, {"10:05:00", 0, false, 0, Start, Serving}, {"10:06:00", 1, true, 3, Drain, Draining},
			{"10:06:30", 1, true, 1, None, Draining}, {"10:06:40", 1, true, 0, Stop, Stopping}, {"10:06:42", 1, false, 0, None, Away}},
		"requests that do not end are cut at the deadline": {
			{"10:00:00", 0, false, 0, None, Away}, {"10:05:00", 0, false, 0, Start, Serving}, {"10:06:00", 1, true, 3, Drain, Draining},
			{"10:07:59", 1, true, 3, None, Draining}, {"10:08:00", 1, true, 3, PowerOff, Stopping}, {"10:08:02", 1, false, 0, None, Away}},
		"each cut has an order of its own": {
			{"10:00:00", 0, true, 3, None, Serving}, {"10:06:00", 1, true, 3, Drain, Draining}, {"10:08:00", 1, true, 3, PowerOff, Stopping}, {"10:08:02", 1, false, 0, None, Away},
			{"10:10:00", 0, false, 0, None, Away}, {"10:15:00", 0, false, 0, Start, Serving}, {"10:16:00", 1, true, 3, Drain, Draining}, {"10:18:00", 1, true, 3, PowerOff, Stopping}},
		"an owner who leaves again does not stop the draining": {
			{"10:00:00", 0, false, 0, None, Away}, {"10:05:00", 0, false, 0, Start, Serving}, {"10:06:00", 1, true, 3, Drain, Draining},
			{"10:06:30", 0, true, 3, None, Draining}, {"10:07:00", 0, false, 0, None, Away}, {"10:07:01", 0, false, 0, None, Away}, {"10:12:01", 0, false, 0, Start, Serving}},
		"a VM that dies is not started at once": {
			{"10:00:00", 0, false, 0, None, Away}, {"10:05:00", 0, false, 0, Start, Serving}, {"10:06:00", 0, true, 0, None, Serving},
			{"10:07:00", 0, false, 0, None, Away}, {"10:07:02", 0, false, 0, None, Away}, {"10:12:00", 0, false, 0, Start, Serving}},
		"a VM that runs when the daemon comes is taken over": {
			{"10:00:00", 0, true, 1, None, Serving}, {"10:00:02", 1, true, 0, Stop, Stopping}},
	} {
		t.Run(name, func(t *testing.T) {
			e := &Engine{Policy: &Policy{MaxLoad: 0.5, IdleFor: 300}}
			for i, m := range story {
				d := e.Step(&Observation{Time: at(m.clock), Load: &m.load, Running: m.running, Requests: m.reqs})
				if d.Order != m.order || d.Mode != m.mode || len(d.Reasons) == 0 {
					t.Fatalf("moment %d, %s: %+v, want %q, %s", i, m.clock, d, m.order, m.mode)
				}
			}
		})
	}
}

func TestTracesThatMakeNoSenseAreRefused(t *testing.T) {
	p := &Policy{}
	for name, text := range map[string]string{
		"an unknown field": `{"time":"2026-11-24T10:00:00Z","running":false,"x":1}`,
		"no time":          `{"running":false}`,
		"time backwards":   "{\"time\":\"2026-11-24T10:00:00Z\",\"running\":false}\n{\"time\":\"2026-11-24T09:00:00Z\",\"running\":false}",
		"a long line":      strings.Repeat("x", MaxTraceLine+1),
	} {
		if _, err := Simulate(p, strings.NewReader(text), func(Decision) {}); !fault.Has(err, "idle.trace.malformed") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzTrace(f *testing.F) {
	f.Add([]byte(`{"time":"2026-11-24T10:00:00Z","running":false}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		sum, err := Simulate(&Policy{MaxLoad: 0.5}, bytes.NewReader(b), func(Decision) {})
		if err == nil && (sum.Served < 0 || sum.LongestYield < 0) {
			t.Errorf("%+v", sum)
		}
	})
}

// sensors look at a machine that is described by files.
func sensors(files fstest.MapFS, out map[string]string) *Sensors {
	return &Sensors{FS: files, CPUs: 4, Clock: func() time.Time { return at("12:00:00") },
		Run: func(_ context.Context, name string, args ...string) ([]byte, error) {
			s, ok := out[name+" "+args[0]]
			if !ok {
				return nil, fs.ErrNotExist
			}
			return []byte(s), nil
		}}
}

func TestSensorsReadWhatIsThere(t *testing.T) {
	p := &Policy{PriceFile: "/run/price", MaxGPU: 10, Presence: true}
	files := fstest.MapFS{
		"proc/loadavg":                     {Data: []byte("3.00 2.00 1.00 1/200 4242\n")},
		"sys/class/power_supply/BAT0/type": {Data: []byte("Battery\n")},
		"sys/class/power_supply/AC/type":   {Data: []byte("Mains\n")},
		"sys/class/power_supply/AC/online": {Data: []byte("0\n")},
		"dev/pts/0":                        {ModTime: at("11:59:30")},
		"dev/tty1":                         {ModTime: at("11:00:00")},
		"run/price":                        {Data: []byte("60000000\n"), ModTime: at("11:30:00")},

		"sys/bus/pci/drivers/nvidia/0000:3b:00.0": {},
	}
	got := sensors(files, map[string]string{"nvidia-smi --query-gpu=utilization.gpu": "7\n42\n", "nvidia-smi --query": smi("100 C python", "200 G eldenring.exe")}).Look(t.Context(), p, 1)
	want := &Observation{Time: at("12:00:00"), Load: ptr(0.5), GPU: ptr(42), GPUPrograms: ptr(2), Touched: ptr(30), Mains: ptr(false), Price: ptr(uint64(60000000))}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("Look (-want +got):\n%s", diff)
	}
	// An old price is none; a machine without battery is on mains.
	files["run/price"].ModTime = at("10:30:00")
	delete(files, "sys/class/power_supply/BAT0/type")
	files["proc/loadavg"].Data = []byte("nonsense")
	delete(files, "sys/bus/pci/drivers/nvidia/0000:3b:00.0") // a VM has it
	got = sensors(files, nil).Look(t.Context(), p, 0)
	if got.Price != nil || got.Mains == nil || !*got.Mains || got.Load != nil || *got.GPU != 0 {
		t.Errorf("Look() = %+v", got)
	}
}

// A GPU that the owner's driver has and does not tell of is not an idle one.
func TestAGPUOfWhichNothingIsTold(t *testing.T) {
	const use, programs = "nvidia-smi --query-gpu=utilization.gpu", "nvidia-smi --query"
	files := fstest.MapFS{"sys/bus/pci/drivers/nvidia/0000:3b:00.0": {}, "sys/bus/pci/drivers/nvidia/new_id": {}}
	p := &Policy{MaxGPU: 10, OwnGPU: true}
	for name, c := range map[string]struct {
		out   map[string]string
		known [2]bool
	}{
		"its tool fails or hangs":   {nil, [2]bool{}},
		"one answer is missing":     {map[string]string{use: "0\n"}, [2]bool{true, false}},
		"one of two is not told of": {map[string]string{use: "0\n[N/A]\n", programs: smi()}, [2]bool{false, true}},
		"no GPU in the answer":      {map[string]string{use: "", programs: smi()}, [2]bool{false, true}},
		"both are told of":          {map[string]string{use: "0\n3\n", programs: smi()}, [2]bool{true, true}},
	} {
		o := sensors(files, c.out).Look(t.Context(), p, 0)
		if got := [2]bool{o.GPU != nil, o.GPUPrograms != nil}; got != c.known || (p.away(o) == nil) != (c.known == [2]bool{true, true}) {
			t.Errorf("%s: use %v, programs %v, %v", name, o.GPU, o.GPUPrograms, p.away(o))
		}
	}
}

func TestSensorsOfThisMachine(t *testing.T) {
	s := &Sensors{FS: os.DirFS("/"), Clock: time.Now}
	o := s.Look(t.Context(), &Policy{MaxGPU: 1, Presence: true}, 0)
	if o.Load == nil || o.Mains == nil || o.Touched == nil || o.GPU == nil {
		t.Errorf("Look() = %+v", o)
	}
}

func TestPresenceBeyondTerminals(t *testing.T) {
	const sessions = "loginctl list-sessions"
	show := func(blocks ...string) map[string]string {
		return map[string]string{sessions: "2 1000 owner seat0 -\nc1 120 gdm seat0 -\n", "loginctl show-session": strings.Join(blocks, "\n")}
	}
	const desktop = "Type=wayland\nClass=user\nState=active\n"
	idle := fmt.Sprintf("IdleHint=yes\nIdleSinceHint=%d\nLockedHint=no\n", at("11:50:00").UnixMicro())
	const never = 365 * 24 * 3600
	for _, tc := range []struct {
		name string
		out  map[string]string
		want int
	}{
		{"no logind", nil, never},
		{"no session", map[string]string{sessions: ""}, never},
		{"a desktop in use", show(desktop + "IdleHint=no\nIdleSinceHint=0\nLockedHint=no\n"), 0},
		{"a desktop that is idle", show(desktop + idle), 600},
		{"a desktop that is locked and says nothing of idleness", show(desktop + "IdleHint=no\nIdleSinceHint=0\nLockedHint=yes\n"), never},
		{"the login screen", show("Type=x11\nClass=greeter\nState=active\nIdleHint=no\n"), never},
		{"a session that ends", show("Type=x11\nClass=user\nState=closing\nIdleHint=no\n"), never},
		{"one at a terminal, which shows by it", show("Type=tty\nClass=user\nState=active\nIdleHint=no\n"), never},
		{"two, of which one is in use", show(desktop+idle, desktop+"IdleHint=no\n"), 0},
		{"nonsense", show("=\n\n\nIdleHint", desktop+"IdleHint=yes\nIdleSinceHint=x\n"), never},
	} {
		t.Run(tc.name, func(t *testing.T) {
			got := sensors(fstest.MapFS{}, tc.out).Look(t.Context(), &Policy{Presence: true}, 0).Touched
			if got == nil || *got != tc.want {
				t.Errorf("touched %v s ago, want %d", got, tc.want)
			}
		})
	}
}

func TestKeysShowByTheirInterrupts(t *testing.T) {
	files := fstest.MapFS{}
	s := sensors(files, nil)
	now := at("12:00:00")
	s.Clock = func() time.Time { return now }
	look := func(keyboard, disk int) int {
		files["proc/interrupts"] = &fstest.MapFile{Data: fmt.Appendf(nil, "            CPU0       CPU1\n   1:   %d          9  IR-IO-APIC    1-edge      i8042\n 120:  %d   3   IR-PCI-MSI  nvme0q0\n NMI:  1  2  Non-maskable interrupts\n", keyboard, disk)}
		return *s.Look(t.Context(), &Policy{Presence: true}, 0).Touched
	}
	const long = 3600
	if got := look(7, 1); got < long {
		t.Errorf("at the first look somebody was there %d s ago", got)
	}
	now = now.Add(10 * time.Second)
	if got := look(7, 100); got < long {
		t.Errorf("a disk counts as somebody, %d s ago", got)
	}
	if got := look(9, 100); got != 0 {
		t.Errorf("after a key somebody was there %d s ago", got)
	}
	now = now.Add(30 * time.Second)
	if got := look(9, 200); got != 30 {
		t.Errorf("30 s after a key somebody was there %d s ago", got)
	}
}

// vmHost is a host whose VM does as it is told.
type vmHost struct {
	mu     sync.Mutex
	state  *machine.State
	orders []string
	drain  int
	fail   error
}

func (h *vmHost) Start(_ context.Context, s *spec.Spec) (*machine.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.orders, h.drain = append(h.orders, "start"), s.Drain
	if h.fail != nil {
		return nil, h.fail
	}
	h.state = &machine.State{Phase: machine.Running, Guest: machine.Guest{Metrics: map[string]float64{InFlight: 2}}}
	return h.state, nil
}

func (h *vmHost) Stop(_ context.Context, _ string, powerOff bool) (*machine.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.orders = append(h.orders, map[bool]string{false: "stop", true: "power off"}[powerOff])
	h.state = &machine.State{Phase: machine.Stopped}
	return h.state, nil
}

func (h *vmHost) Get(string) (*machine.State, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state == nil {
		return nil, errors.New("no such VM")
	}
	return h.state, nil
}

func TestTheRunnerCarriesOutWhatIsDecided(t *testing.T) {
	load, now := 0.0, at("10:00:00")
	h := &vmHost{}
	r := &Runner{Policy: &Policy{MaxLoad: 0.5, Drain: 77}, Spec: &spec.Spec{Name: "a", CPUs: 2}, Host: h, Logger: slog.New(slog.DiscardHandler),
		Look: func(_ context.Context, _ *Policy, ours int) *Observation {
			now = now.Add(LookEvery)
			if h.state != nil && h.state.Phase == machine.Running && ours != 2 {
				t.Errorf("the VM's processors are %d", ours)
			}
			return &Observation{Time: now, Load: &load}
		}}
	step := func() {
		r.step(t.Context())
		r.orders.Wait()
	}
	step() // nothing is against it
	step()
	load = 1
	step() // two requests run: drain
	step()
	if diff := cmp.Diff([]string{"start", "stop"}, h.orders); diff != "" || h.drain != 77 {
		t.Errorf("orders, drain %d (-want +got):\n%s", h.drain, diff)
	}
	st := r.Status()
	if st.Last.Mode != Away || st.VM != "a" || len(st.Changes) != 3 || st.Changes[1].Order != Drain || st.Error != "" {
		t.Errorf("status %+v", st)
	}
	// A start that fails is in the status, and is not tried at once.
	load, h.fail, h.state = 0, errors.New("no room"), nil
	step()
	step()
	if st := r.Status(); st.Error != "no room" || st.Last.Mode != Away {
		t.Errorf("after a start that failed: %+v", st)
	}
}

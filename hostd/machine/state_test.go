package machine

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/console"
	"cocoon/hostd/qemu"
	"cocoon/hostd/spec"
	"cocoon/internal/fault"
)

func TestReached(t *testing.T) {
	refused := []console.GuestFault{{Code: "evidence.refused", Message: "m", Expected: "a", Actual: "b"}}
	for _, tc := range []struct {
		name  string
		state State
		stage string
		ok    bool
		codes []string
	}{
		{"a stage that passed", State{Guest: Guest{Stages: []Stage{{Name: "packs", Status: "ok"}}}}, "packs", true, nil},
		{"a guest state", State{Guest: Guest{State: "serving"}}, "serving", true, nil},
		{"a stage that runs", State{Guest: Guest{Stages: []Stage{{Name: "packs", Status: "running"}}}}, "packs", false, nil},
		{"a later stage", State{Guest: Guest{Stages: []Stage{{Name: "packs", Status: "ok"}}}}, "keys", false, nil},
		{"a stage that failed, with the guest's own faults", State{Guest: Guest{Stages: []Stage{{Name: "packs", Status: "failed", Faults: refused}}}}, "keys", false, []string{"vm.guest.failed", "evidence.refused"}},
		{"a guest that halted", State{Guest: Guest{State: "halted", Faults: refused}}, "keys", false, []string{"vm.guest.failed", "evidence.refused"}},
		{"a kernel that panicked", State{Guest: Guest{Panic: "Kernel panic - not syncing: dm-verity device corrupted"}}, "keys", false, []string{"vm.guest.panic"}},
		{"a machine that ended", State{Phase: Stopped, Reason: "the guest powered off"}, "keys", false, []string{"vm.ended"}},
		{"a machine that failed, with its faults", State{Phase: Failed, Faults: []Problem{{Code: "vm.qemu.died", Exit: 1}}}, "keys", false, []string{"vm.ended", "vm.qemu.died"}},
		{"a stage that passed before the machine ended", State{Phase: Stopped, Guest: Guest{Stages: []Stage{{Name: "packs", Status: "ok"}}}}, "packs", true, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			ok, err := tc.state.Reached(tc.stage)
			var codes []string
			for _, f := range fault.All(err) {
				codes = append(codes, f.Code)
			}
			if ok != tc.ok || !cmp.Equal(codes, tc.codes) {
				t.Errorf("Reached() = %v, %v, want %v, %v", ok, codes, tc.ok, tc.codes)
			}
		})
	}
}

func TestStateSurvivesItsFile(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)
	want := &State{Name: "a", Phase: Failed, Started: now, Ended: &now, Guest: Guest{Stages: []Stage{{Name: "x", Status: "ok"}}},
		Faults: ProblemsOf(errors.Join(fault.New(fault.ExitNotReady, "a.b", "do", "x"), fault.Mismatch(fault.ExitRefused, "c.d", "y", "1", "2", "")))}
	if err := WriteState(dir, want); err != nil {
		t.Fatal(err)
	}
	got, err := ReadState(dir)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("state (-want +got):\n%s", diff)
	}
	if fs := fault.All(got.Err()); len(fs) != 2 || fs[1].Expected != "1" || fs[1].Exit != fault.ExitRefused {
		t.Errorf("Err() = %v", got.Err())
	}
	if err := os.WriteFile(filepath.Join(dir, StateFile), []byte(`{"name":"a","surprise":1}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ReadState(dir); err == nil {
		t.Error("a state with an unknown key was read")
	}
}

func TestScanFindsAPanicSplitOverReadsAndForgetsLongLines(t *testing.T) {
	m := &Machine{o: Options{Dir: t.TempDir(), Logger: slog.New(slog.DiscardHandler)}}
	var rest []byte
	for _, part := range []string{strings.Repeat("x", 100<<10), "\nboot\n[    8.4] Kernel pan", "ic - not syncing: dm-verity device corrupted\x1b[0m", "\r\nlater\nKernel panic - not syncing: second\n"} {
		rest = m.scan(rest, []byte(part))
		if len(rest) > 8<<10 {
			t.Errorf("%d bytes are kept of an unfinished line", len(rest))
		}
	}
	if got := m.State().Guest.Panic; !strings.HasPrefix(got, "Kernel panic - not syncing: dm-verity device corrupted") {
		t.Errorf("panic %q", got)
	}
}

func TestStagesAreKeptOnceEachAndBounded(t *testing.T) {
	var s State
	for i := range 2 * maxStages {
		s.addStage(&console.Line{Stage: strings.Repeat("a", i%(maxStages+10)+1), Status: "running"}, time.Time{})
	}
	s.addStage(&console.Line{Stage: "a", Status: "ok", MS: 5}, time.Time{})
	if len(s.Guest.Stages) != maxStages || s.Guest.Stages[0].Status != "ok" {
		t.Errorf("%d stages, first %+v", len(s.Guest.Stages), s.Guest.Stages[0])
	}
}

func TestMemAvailable(t *testing.T) {
	path := filepath.Join(t.TempDir(), "meminfo")
	for in, want := range map[string]int{"MemTotal: 9 kB\nMemAvailable:   2097152 kB\n": 2048, "MemTotal: 9 kB\n": -1, "MemAvailable: x kB\n": -1} {
		if err := os.WriteFile(path, []byte(in), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := memAvailableMiB(path)
		if (want < 0) != (err != nil) || want >= 0 && got != want {
			t.Errorf("memAvailableMiB(%q) = %d, %v", in, got, err)
		}
	}
	if err := checkMemory(1 << 40); !fault.Has(err, "vm.memory.insufficient") {
		t.Errorf("checkMemory of a petabyte = %v", err)
	}
}

// No test machine has a TEE that a guest could be started with: the refusal
// has the doctor's codes.
func TestAGuestWithATEEIsRefusedWhereTheHostHasNone(t *testing.T) {
	for _, tee := range []string{"tdx", "snp"} {
		if err := teeOfThisHost(t.Context(), tee); !fault.Has(err, "vm.tee.unavailable") || len(fault.All(err)) < 2 {
			t.Errorf("teeOfThisHost(%s) = %v", tee, err)
		}
	}
}

func TestPlacementFollowsTheNodes(t *testing.T) {
	s := &spec.Spec{CPUs: 4, NUMA: []spec.Node{{CPUs: 1}, {CPUs: 2, HostCPUs: "4-5,9"}, {CPUs: 1, HostCPUs: "7"}}}
	got, err := placement(s)
	want := map[int][]int{1: {4, 5, 9}, 2: {4, 5, 9}, 3: {7}}
	if diff := cmp.Diff(want, got); err != nil || diff != "" {
		t.Errorf("placement (-want +got), %v:\n%s", err, diff)
	}
}

func TestAnIDBlockThatDoesNotVerifyIsRefusedBeforeTheLaunch(t *testing.T) {
	dir := t.TempDir()
	for name, size := range map[string]int{"block": 96, "auth": 4096} {
		if err := os.WriteFile(filepath.Join(dir, name), make([]byte, size), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	s := &spec.Spec{TEE: spec.TEESNP, SNP: &spec.SNP{IDBlock: filepath.Join(dir, "block"), IDAuth: filepath.Join(dir, "auth")}}
	if err := hardware(s, &qemu.Options{}); !fault.Has(err, "vm.snp.id_block") {
		t.Errorf("hardware() = %v", err)
	}
}

func TestTheConfigsHashIsThatOfTheFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	if err := os.WriteFile(path, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	var o qemu.Options
	if err := hardware(&spec.Spec{TEE: spec.TEETDX, Config: path}, &o); err != nil || fmt.Sprintf("%x", o.ConfigSHA256) != "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a" {
		t.Errorf("hardware() = %x, %v", o.ConfigSHA256, err)
	}
}

// A guest that says it drains gets the time that its spec allows, and one that
// does not gets none.
func TestOnlyAGuestThatDrainsIsWaitedFor(t *testing.T) {
	m := &Machine{o: Options{Spec: &spec.Spec{Drain: 3600}}, done: make(chan struct{})}
	if m.drained(t.Context(), time.Second) {
		t.Error("a guest that does not drain was waited for")
	}
	m.state.Guest.State = Draining
	close(m.done)
	if !m.drained(t.Context(), time.Second) {
		t.Error("the end of a guest that drains was not seen")
	}
	m = &Machine{o: Options{Spec: &spec.Spec{}}, done: make(chan struct{})}
	m.state.Guest.State = Draining
	if m.drained(t.Context(), time.Second) {
		t.Error("a guest was waited for beyond its spec")
	}
}

// FuzzReadState reads what a crash or a hand has left of a state file.
func FuzzReadState(f *testing.F) {
	dir := f.TempDir()
	if err := WriteState(dir, &State{Name: "a", Phase: Running, Guest: Guest{Stages: []Stage{{Name: "packs", Status: "ok"}}}}); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(dir, StateFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, StateFile), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := ReadState(dir)
		if err != nil {
			return
		}
		if err := WriteState(dir, s); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadState(dir); err != nil {
			t.Errorf("what was read and written cannot be read: %v", err)
		}
	})
}

package boot

import (
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/vectors"
	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
)

// pcrsOf says which PCRs an event of a CCEL would go to in a TPM, by its type
// and label (PFP section 3.3.4): every one of them must map to the event's
// RTMR.
func pcrsOf(name string, e *eventlog.Event) []int {
	if e.Register == RuntimeRTMR+1 {
		return nil // the guest's own events
	}
	if strings.Contains(name, "alibabacloud") && e.Type == eventlog.EFIVariableBoot {
		return []int{5} // where the TCG's EFI Platform Specification 1.22, before the PFP, had boot variables
	}
	switch e.Type {
	case eventlog.EFIVariableDriverConf, eventlog.EFIVariableAuthority:
		return []int{7}
	case eventlog.EFIVariableBoot, eventlog.EFIVariableBoot2, eventlog.PlatformConfigFlags, eventlog.EFIHandoffTables, eventlog.EFIHandoffTables2:
		return []int{1}
	case eventlog.EFIBootApplication:
		return []int{4}
	case eventlog.EFIBootDriver, eventlog.EFIRuntimeDriver:
		return []int{2}
	case eventlog.EFIGPTEvent:
		return []int{5}
	case eventlog.EFIAction:
		return []int{4, 5}
	case eventlog.IPL: // boot loader and systemd-stub
		return []int{8, 9, 11, 14}
	case eventlog.EventTag: // the kernel's EFI stub
		return []int{9}
	}
	return nil
}

// TestTheTableHoldsForRealLogs holds the mapping of registers against every
// event of the CCELs of TDs in the field.
func TestTheTableHoldsForRealLogs(t *testing.T) {
	logs, err := filepath.Glob(filepath.Join(vectors.Dir(t), "eventlog", "*.ccel.bin"))
	if err != nil || len(logs) < 6 {
		t.Fatalf("%d logs: %v", len(logs), err)
	}
	seen := map[int]int{}
	for _, path := range logs {
		if strings.HasPrefix(filepath.Base(path), "neg-") {
			continue
		}
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		l, err := eventlog.ParseCCEL(b)
		if err != nil {
			t.Errorf("%s: %v", filepath.Base(path), err)
			continue
		}
		for i := range l.Events {
			e := &l.Events[i]
			for _, pcr := range pcrsOf(path, e) {
				if got := RTMROf(pcr); got != int(e.Register)-1 {
					t.Errorf("%s: event %d, %s %q, stands in RTMR%d, PCR %d maps to RTMR%d", filepath.Base(path), i, e.Type, e.Label(), e.Register-1, pcr, got)
				}
				seen[pcr]++
			}
		}
	}
	for pcr := range 16 {
		t.Logf("PCR %-2d → RTMR %-2d  %d events agree", pcr, RTMROf(pcr), seen[pcr])
	}
	for _, pcr := range []int{1, 4, 5, 7, 9} {
		if seen[pcr] == 0 {
			t.Errorf("no event speaks of PCR %d", pcr)
		}
	}
}

func direct() *eventlog.Log {
	l := &eventlog.Log{Algorithms: []eventlog.Algorithm{eventlog.SHA256}}
	for _, e := range predicted() {
		d := e.Digests
		if d == nil {
			d = Of([]byte("the host's"))
		}
		l.Events = append(l.Events, eventlog.Event{Register: uint32(e.PCR), Type: e.Type, Digests: []eventlog.Digest{{Algorithm: eventlog.SHA256, Value: append([]byte{}, d.SHA256[:]...)}}})
	}
	return l
}

func predicted() []Event {
	return []Event{
		New(1, eventlog.PlatformConfigFlags, "ACPI tables", SourceHost, nil),
		New(1, eventlog.EFIVariableBoot, "BootOrder", "OVMF.fd", Of([]byte("order"))),
		New(4, eventlog.EFIBootApplication, "kernel", "vmlinuz", Of([]byte("kernel"))),
		New(4, eventlog.Separator, "separator", SourceConstant, Of(Separator())),
		New(9, eventlog.EventTag, "command line", "cmdline", Of([]byte("quiet"))),
		New(9, eventlog.EventTag, "initrd", "initrd", Of([]byte("initrd"))),
	}
}

func TestALogIsExplained(t *testing.T) {
	x, err := Explain(direct(), KindTPM, predicted())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range x.Events {
		got = append(got, e.Status+" "+e.Component)
	}
	want := []string{"host ACPI tables", "explained BootOrder", "explained kernel", "explained separator", "explained command line", "explained initrd"}
	if diff := cmp.Diff(want, got); diff != "" || !x.OK() || len(x.Missing) != 0 {
		t.Errorf("(-want +got):\n%s%+v", diff, x.Missing)
	}
}

func TestWhatIsNotPredictedIsUnexplained(t *testing.T) {
	for name, c := range map[string]struct {
		change    func(*eventlog.Log)
		insteadOf string
		missing   int
		register  int
	}{
		"another initrd":       {func(l *eventlog.Log) { l.Events[5].Digests[0].Value[0] ^= 1 }, "initrd", 0, 9},
		"another command line": {func(l *eventlog.Log) { l.Events[4].Digests[0].Value[0] ^= 1 }, "command line", 0, 9},
		"another separator":    {func(l *eventlog.Log) { l.Events[3].Digests[0].Value[0] ^= 1 }, "separator", 0, 4},
		"an event more":        {func(l *eventlog.Log) { l.Events = append(l.Events, l.Events[2]) }, "", 0, 4},
		"a register more":      {func(l *eventlog.Log) { l.Events[2].Register = 12 }, "", 1, 12},
		"swapped":              {func(l *eventlog.Log) { l.Events[4], l.Events[5] = l.Events[5], l.Events[4] }, "", 1, 9},
	} {
		l := direct()
		c.change(l)
		x, err := Explain(l, KindTPM, predicted())
		if err != nil {
			t.Fatal(err)
		}
		u := x.Unexplained()
		if x.OK() || len(u) != 1 || u[0].InsteadOf != c.insteadOf || len(x.Missing) != c.missing || u[0].Register != c.register || x.OK(c.register) {
			t.Errorf("%s: unexplained %+v, missing %+v", name, u, x.Missing)
		}
		if !x.OK(1) {
			t.Errorf("%s: PCR 1 is not explained", name)
		}
	}
	l := direct()
	l.Events = l.Events[:5]
	x, err := Explain(l, KindTPM, predicted())
	if err != nil || x.OK() || len(x.Missing) != 1 || x.Missing[0].Component != "initrd" {
		t.Errorf("an event less: %+v, %v", x, err)
	}
	if _, err := Explain(l, KindTD, predicted()); !errors.Is(err, eventlog.ErrAlgorithm) {
		t.Errorf("a log without SHA-384: %v", err)
	}
}

// bzImage makes a kernel with a setup header.
func bzImage() []byte {
	k := make([]byte, 0x2000)
	copy(k[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(k[0x206:], 0x20f)
	k[0x211] = 1
	binary.LittleEndian.PutUint32(k[0x22c:], 0x7fffffff)
	k[0x236] = 2
	return k
}

func TestTheKernelIsPatchedAsQEMUDoes(t *testing.T) {
	const initrd = 0x123456
	u32 := func(b []byte, off int) uint32 { return binary.LittleEndian.Uint32(b[off:]) }
	for name, c := range map[string]struct {
		memory uint64
		want   uint32 // the initrd's address
	}{
		"512 MiB":            {512 << 20, (512<<20 - DefaultACPISize - 1 - initrd) &^ 4095},
		"just below a split": {splitMemory - 1<<20, (splitMemory - 1<<20 - DefaultACPISize - 1 - initrd) &^ 4095},
		"split":              {splitMemory, (lowMemory - DefaultACPISize - 1 - initrd) &^ 4095},
		"64 GiB":             {64 << 30, (lowMemory - DefaultACPISize - 1 - initrd) &^ 4095},
	} {
		got, err := Patch{Memory: c.memory, InitrdSize: initrd}.Apply(bzImage())
		if err != nil {
			t.Fatal(err)
		}
		if u32(got, 0x218) != c.want || u32(got, 0x21c) != initrd || got[0x210] != 0xb0 || got[0x211] != 0x81 ||
			binary.LittleEndian.Uint16(got[0x224:]) != 0xfe00 || u32(got, 0x228) != 0x20000 {
			t.Errorf("%s: header is % x", name, got[0x210:0x22c])
		}
	}
	for name, c := range map[string]struct {
		p Patch
		k []byte
	}{
		"a short file": {Patch{Memory: 1 << 30}, make([]byte, 100)}, "no header": {Patch{Memory: 1 << 30}, make([]byte, 0x2000)},
		"an initrd that does not fit": {Patch{Memory: 64 << 20, InitrdSize: 1 << 30}, bzImage()}, "no memory": {Patch{InitrdSize: 1}, bzImage()},
	} {
		if _, err := c.p.Apply(c.k); !errors.Is(err, ErrKernel) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBootVariablesOfRealMachines(t *testing.T) {
	for menu, want := range map[BootMenu][]string{
		// From a TD's log, SHA-384, and from a TPM's, SHA-256; see the vectors and
		// eventlog's testdata.
		MenuUiApp: {"1dd6f7b457ad880d840d41c961283bab688e94e4b59359ea45686581e90feccea3c624b1226113f824f315eb60ae0a7c",
			"23ada07f5261f12f34a0bd8e46760962d6b4d576a416f1fea1c64bc656b1d28eacf7047ae6e967c58fd2a98bfa74c298"},
		MenuSetup: {"6b1e73a0094b7b812d3b9e22cffb4f8239319847522c4fa103753b6950020f93", "7cecd39025081ffa990dbe7078111b2c15102f9da7ac85f25ce54935b9ae0a96",
			"e52e99d0e07a49d2553de3de65e8da30fa0bddf34002a1fa17e8c79356c2e190"},
	} {
		events, err := menu.Events("OVMF.fd")
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, e := range events {
			if menu == MenuUiApp {
				got = append(got, e.Digests.SHA384.String())
			} else {
				got = append(got, e.Digests.SHA256.String())
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", menu, diff)
		}
	}
	if _, err := BootMenu("other").Events("x"); err == nil {
		t.Error("an unknown menu is predicted")
	}
}

func TestRuntimeEventsHaveRegistersOfTheirOwn(t *testing.T) {
	events := Runtime([][]byte{[]byte("config"), []byte("model")})
	p, ok := PCR256(events, RuntimePCR)
	r, ok3 := RTMR(events, RuntimeRTMR)
	if !ok || !ok3 || p == (digest.SHA256{}) || r.IsZero() {
		t.Errorf("PCR 15 %s, RTMR3 %s", p, r)
	}
	if r2, _ := RTMR(events, 2); !r2.IsZero() {
		t.Error("runtime events reach RTMR2")
	}
}

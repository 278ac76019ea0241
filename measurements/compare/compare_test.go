package compare

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/boot"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/launch"
)

func snapshot(registers map[string]string, components ...Component) *Snapshot {
	return &Snapshot{Registers: registers, Components: components}
}

func TestDifferencesAreNamed(t *testing.T) {
	base := snapshot(map[string]string{"PCR 4 sha256": "aa", "PCR 9 sha256": "bb", "PCR 12 sha256": "00"},
		Component{"PCR 4", "kernel", "vmlinuz", "k1", "APP"}, Component{"PCR 4", "separator", "constant", "s", "SEP"},
		Component{"PCR 9", "command line", "cmdline", "c1", "TAG"}, Component{"PCR 9", "initrd", "initrd", "i1", "TAG"},
		Component{"PCR 1", "ACPI tables", "host", "", "FLAGS"})
	for name, c := range map[string]struct {
		other *Snapshot
		want  []Difference
	}{
		"the same": {base, []Difference{}},
		"another kernel, in a log that names nothing": {
			snapshot(map[string]string{"PCR 4 sha256": "ab", "PCR 9 sha256": "bb"}, Component{"PCR 4", "APP", "", "k2", "APP"}, Component{"PCR 4", "SEP", "", "s", "SEP"}),
			[]Difference{{"PCR 4 sha256", "aa", "ab", []Cause{{"kernel", "vmlinuz", "k1", "k2"}}}},
		},
		"another initrd": {
			snapshot(map[string]string{"PCR 4 sha256": "aa", "PCR 9 sha256": "bc"}, Component{"PCR 9", "TAG a", "", "c1", "TAG"}, Component{"PCR 9", "TAG b", "", "i2", "TAG"}),
			[]Difference{{"PCR 9 sha256", "bb", "bc", []Cause{{"initrd", "initrd", "i1", "i2"}}}},
		},
		"one event more": {
			snapshot(map[string]string{"PCR 4 sha256": "ad", "PCR 9 sha256": "bb"}, Component{"PCR 4", "kernel", "vmlinuz", "k1", "APP"},
				Component{"PCR 4", "second", "", "k9", "APP"}, Component{"PCR 4", "separator", "constant", "s", "SEP"}),
			[]Difference{{"PCR 4 sha256", "aa", "ad", []Cause{{"second", "", "", "k9"}}}},
		},
		"a bank that one side lacks": {snapshot(map[string]string{"PCR 4 sha384": "x"}), []Difference{}},
		"what depends on the host": {
			snapshot(map[string]string{"PCR 4 sha256": "aa", "PCR 9 sha256": "bb", "PCR 1 sha256": "h"}, Component{"PCR 1", "FLAGS", "", "h1", "FLAGS"}),
			[]Difference{},
		},
		"a register that should be untouched": {
			snapshot(map[string]string{"PCR 4 sha256": "aa", "PCR 9 sha256": "bb", "PCR 12 sha256": "99"}),
			[]Difference{{"PCR 12 sha256", "00", "99", []Cause{}}},
		},
	} {
		if diff := cmp.Diff(c.want, Diff(base, c.other)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
		if n := len(Diff(c.other, base)); n != len(c.want) {
			t.Errorf("%s: %d differences the other way round, want %d", name, n, len(c.want))
		}
	}
}

// TestALogIsComparedWithItself reads a real log; one event changed in it must
// be the one that is named.
func TestALogIsComparedWithItself(t *testing.T) {
	b, err := os.ReadFile("../eventlog/testdata/direct-boot.eventlog.bin")
	if err != nil {
		t.Fatal(err)
	}
	read := func() *eventlog.Log {
		l, err := eventlog.ParseTPM(append([]byte{}, b...))
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	of := func(l *eventlog.Log) *Snapshot {
		s, err := OfLog(l, boot.KindTPM, nil)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	good := of(read())
	if d := Diff(good, of(read())); len(d) != 0 {
		t.Errorf("a log differs from itself: %+v", d)
	}
	for i, e := range read().Events {
		l := read()
		l.Events[i].Digest(eventlog.SHA256)[0] ^= 1
		d := Diff(good, of(l))
		if len(d) != 1 || len(d[0].Causes) != 1 || base(d[0].Register) != good.Components[i].Register {
			t.Errorf("event %d (%s) changed: %+v", i, e.Type, d)
		}
	}
}

func TestAPredictionBecomesASnapshot(t *testing.T) {
	events := append(boot.SecureBoot("OVMF.fd"), boot.New(1, eventlog.PlatformConfigFlags, "ACPI tables", boot.SourceHost, nil))
	s := New()
	s.AddTPM(launch.ExpectTPM(events), events)
	s.AddTD(events)
	if s.Registers["PCR 7 sha256"] != "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439" {
		t.Errorf("PCR 7 is %s", s.Registers["PCR 7 sha256"])
	}
	if _, ok := s.Registers["PCR 1 sha256"]; ok {
		t.Error("PCR 1 has a value although a component is not known")
	}
	if _, ok := s.Registers["RTMR0"]; ok {
		t.Error("RTMR0 has a value although a component is not known")
	}
	if len(s.Components) != 2*len(events) {
		t.Errorf("%d components, want %d", len(s.Components), 2*len(events))
	}
}

package devmapper

import (
	"encoding/binary"
	"strings"
	"testing"
)

func TestHeaderFollowsTheIoctlStructure(t *testing.T) {
	b := header("root", flagReadOnly, 1, make([]byte, 2000))
	le := binary.LittleEndian
	for _, f := range []struct {
		name string
		off  int
		want uint32
	}{{"major version", 0, 4}, {"data size", 12, 2312}, {"data start", 16, 312}, {"targets", 20, 1}, {"flags", 28, 1}} {
		if got := le.Uint32(b[f.off:]); got != f.want {
			t.Errorf("%s is %d, want %d", f.name, got, f.want)
		}
	}
	if got := string(b[48:53]); got != "root\x00" {
		t.Errorf("name is %q", got)
	}
}

func TestTargetIsPaddedAndTerminated(t *testing.T) {
	b := target(Target{Name: "root", Type: "verity", Sectors: 800, Table: "1 x"})
	le := binary.LittleEndian
	if len(b)%8 != 0 || le.Uint64(b[8:]) != 800 || int(le.Uint32(b[20:])) != len(b) {
		t.Errorf("target spec is %x", b)
	}
	if got := string(b[24:31]); got != "verity\x00" {
		t.Errorf("type is %q", got)
	}
	if got := string(b[40:44]); got != "1 x\x00" {
		t.Errorf("parameters are %q", got)
	}
}

func TestWhatIsNoDeviceIsRefusedBeforeTheKernelIsAsked(t *testing.T) {
	for name, tt := range map[string]Target{
		"no name":       {Type: "crypt", Sectors: 1},
		"a path":        {Name: "../x", Type: "crypt", Sectors: 1},
		"a long name":   {Name: strings.Repeat("a", 33), Type: "crypt", Sectors: 1},
		"no type":       {Name: "x", Sectors: 1},
		"a long type":   {Name: "x", Type: strings.Repeat("t", 16), Sectors: 1},
		"an empty disk": {Name: "x", Type: "crypt"},
	} {
		if dev, err := Create(tt); err == nil || !strings.Contains(err.Error(), "not a name, a target and a size") {
			t.Errorf("%s: got %q, %v", name, dev, err)
		}
	}
	if err := Remove("a/b"); err == nil {
		t.Error("a path was removed")
	}
}

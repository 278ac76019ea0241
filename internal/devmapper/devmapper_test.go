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

func TestAKeyStandsInTheTableInHex(t *testing.T) {
	b := target(Target{Name: "c", Type: "crypt", Sectors: 8, Table: "aes-xts-plain64 " + KeyMark + " 0 /dev/vda 0", Key: []byte{0x00, 0xab, 0x10}})
	if got, want := string(b[40:]), "aes-xts-plain64 00ab10 0 /dev/vda 0\x00"; !strings.HasPrefix(got, want) || len(b)%8 != 0 {
		t.Errorf("parameters are %q, want %q", got, want)
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
	for name, tt := range map[string]Target{
		"a mark without a key": {Name: "x", Type: "crypt", Sectors: 1, Table: KeyMark},
		"a key without a mark": {Name: "x", Type: "crypt", Sectors: 1, Key: []byte{1}},
		"two marks":            {Name: "x", Type: "crypt", Sectors: 1, Table: KeyMark + KeyMark, Key: []byte{1}},
	} {
		if dev, err := Create(tt); err == nil || !strings.Contains(err.Error(), "keys of") {
			t.Errorf("%s: got %q, %v", name, dev, err)
		}
	}
	if err := Remove("a/b"); err == nil {
		t.Error("a path was removed")
	}
}

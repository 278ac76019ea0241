package tdx

import (
	"bytes"
	"crypto/sha512"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"

	"github.com/google/go-configfs-tsm/configfs/configfsi"
	"github.com/google/go-configfs-tsm/configfs/fakertmr"
	"github.com/google/go-configfs-tsm/configfs/faketsm"
	"github.com/google/go-configfs-tsm/rtmr"

	"cocoon/enclave/tsm"
	"cocoon/internal/fault"
)

func TestTheKernelsRegistersInSysfs(t *testing.T) {
	dir := t.TempDir()
	d := sha512.Sum384([]byte("event"))
	if err := (Sysfs{Dir: dir}).Extend(3, d); !errors.Is(err, ErrNoRegisters) {
		t.Errorf("without registers: %v", err)
	}
	file := filepath.Join(dir, "rtmr3:sha384")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := (Sysfs{Dir: dir}).Extend(3, d); err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(file); err != nil || !bytes.Equal(got, d[:]) {
		t.Errorf("the kernel was given %x, %v", got, err)
	}
	if err := os.Chmod(file, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(file, 0o700); err != nil { // a register that cannot be written
		t.Fatal(err)
	}
	if err := (Sysfs{Dir: dir}).Extend(3, d); err == nil || errors.Is(err, ErrNoRegisters) {
		t.Errorf("a broken register: %v", err)
	}
}

func TestTheKernelsRegistersInConfigfs(t *testing.T) {
	client := &faketsm.Client{Subsystems: map[string]configfsi.Client{"rtmrs": fakertmr.CreateRtmrSubsystem(t.TempDir())}}
	c := Configfs{Client: client}
	a, b := sha512.Sum384([]byte("a")), sha512.Sum384([]byte("b"))
	for _, d := range [][48]byte{a, b} { // the second finds the first's entry
		if err := c.Extend(3, d); err != nil {
			t.Fatal(err)
		}
	}
	want := sha512.Sum384(append(make([]byte, 48), a[:]...))
	want = sha512.Sum384(append(want[:], b[:]...))
	got, err := rtmr.GetDigest(client, 3)
	if err != nil || !bytes.Equal(got.Digest, want[:]) {
		t.Errorf("the register is %x, %v, want %x", got.Digest, err, want)
	}
	if err := c.Extend(1, a); err == nil || errors.Is(err, ErrNoRegisters) {
		t.Errorf("a register of the firmware's: %v", err)
	}
	if err := (Configfs{Client: tsm.Linux{}}).Extend(3, a); !errors.Is(err, ErrNoRegisters) {
		t.Errorf("on this machine: %v", err)
	}
}

func TestTheFirstInterfaceThatIsThereIsTaken(t *testing.T) {
	none := Sysfs{Dir: "/nowhere"}
	var got []int
	there := registers(func(n int) error { got = append(got, n); return nil })
	broken := errors.New("broken")
	if err := (Either{none, there}).Extend(3, [48]byte{}); err != nil || len(got) != 1 {
		t.Errorf("the second: %v, %v", err, got)
	}
	if err := (Either{registers(func(int) error { return broken }), there}).Extend(3, [48]byte{}); !errors.Is(err, broken) || len(got) != 1 {
		t.Errorf("one that is there and broken is passed over: %v", err)
	}
	for _, e := range []Either{nil, {none}} {
		if err := e.Extend(3, [48]byte{}); !errors.Is(err, ErrNoRegisters) {
			t.Errorf("none: %v", err)
		}
	}
}

type registers func(int) error

func (r registers) Extend(n int, _ [48]byte) error { return r(n) }

func TestReportsThatAreNone(t *testing.T) {
	good := make([]byte, ReportSize)
	good[0] = 0x81
	if _, err := ParseReport(good); err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"empty": nil, "short": good[:1023], "long": append(bytes.Clone(good), 0), "of an enclave": make([]byte, ReportSize)} {
		if _, err := ParseReport(b); err == nil {
			t.Errorf("%s: read", name)
		}
	}
}

func TestTheEventLogMustBeThere(t *testing.T) {
	for name, c := range map[string]struct {
		root fstest.MapFS
		ok   bool
	}{
		"there":   {fstest.MapFS{CCELPath: {Data: []byte{1}}}, true},
		"absent":  {fstest.MapFS{}, false},
		"empty":   {fstest.MapFS{CCELPath: {}}, false},
		"endless": {fstest.MapFS{CCELPath: {Data: make([]byte, MaxCCEL+1)}}, false},
	} {
		if _, err := (&TD{Root: c.root}).EventLog(); (err == nil) != c.ok || !c.ok && !fault.Has(err, CodeLog) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func FuzzParseQGS(f *testing.F) {
	f.Add([]byte{1, 0, 1, 0, 1, 0, 0, 0, 28, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0, 0, 0, 'q', 'u', 'o', 't'})
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := parseQGS(b)
		if err == nil && (len(q) == 0 || len(q) > len(b)-24 || !bytes.HasSuffix(b, q)) {
			t.Errorf("%x of %x", q, b)
		}
	})
}

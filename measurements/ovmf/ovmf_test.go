package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/toolstree"
	"cocoon/measurements/boot"
	"cocoon/measurements/ovmftest"
	"cocoon/measurements/tdvf"
)

func parse(t testing.TB, b []byte) *tdvf.Firmware {
	t.Helper()
	f, err := tdvf.Parse(b)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

func TestTheCoreIsRead(t *testing.T) {
	b := ovmftest.Firmware(t, ovmftest.Options{Version: "2031.02+ds-1", Variables: []string{"BootOrder"}})
	c, err := ReadCore(parse(t, b))
	if err != nil {
		t.Fatal(err)
	}
	if c.Version != "2031.02+ds-1" || len(c.Volumes) != 2 || c.Volumes[0].SHA256 == c.Volumes[1].SHA256 {
		t.Errorf("core is %+v", c)
	}
	if n := len(c.Events("OVMF.fd")); n != 3 {
		t.Errorf("%d events, want 3", n)
	}
	v, err := ReadVariables(parse(t, b))
	if diff := cmp.Diff(&Variables{Names: []string{"BootOrder"}}, v); err != nil || diff != "" {
		t.Errorf("variables: %v %s", err, diff)
	}
}

func TestACoreThatIsNotKnownIsAbsent(t *testing.T) {
	for name, o := range map[string]ovmftest.Options{
		"no version": {Version: "devel"}, "two versions": {Version: "2031.02", Extra: string(ovmftest.UTF16("2031.05"))},
	} {
		b := ovmftest.Firmware(t, o)
		if _, err := ReadCore(parse(t, b)); !errors.Is(err, ErrAbsent) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadCore(parse(t, make([]byte, tdvf.PageSize))); !errors.Is(err, ErrAbsent) {
		t.Errorf("an empty file: %v", err)
	}
}

func TestEnrolledKeysAreSeen(t *testing.T) {
	v, err := ReadVariables(parse(t, ovmftest.Store("Lang", "PK")))
	if err != nil || !v.Enrolled || len(v.Names) != 2 {
		t.Errorf("%+v: %v", v, err)
	}
	b := ovmftest.Store("PK")
	binary.LittleEndian.PutUint32(b[ovmftest.StoreHeader+40:], 1<<30)
	if _, err := ReadVariables(parse(t, b)); !errors.Is(err, ErrFormat) {
		t.Errorf("a variable beyond the store: %v", err)
	}
}

func TestASizeThatLiesIsRefused(t *testing.T) {
	b := ovmftest.Firmware(t, ovmftest.Options{Version: "2031.02"})
	at := bytes.Index(b, guidLZMA[:]) + 20
	for name, change := range map[string]func([]byte){
		"the dictionary": func(b []byte) { binary.LittleEndian.PutUint32(b[at+1:], 1<<31) },
		"the length":     func(b []byte) { binary.LittleEndian.PutUint64(b[at+5:], 1<<40) },
		"the data":       func(b []byte) { b[at+20] ^= 0xff },
	} {
		bad := bytes.Clone(b)
		change(bad)
		if c, err := ReadCore(parse(t, bad)); err == nil {
			t.Errorf("%s: %+v", name, c)
		}
	}
}

// TestThePinnedFirmwareGivesWhatWasWatched computes PCR 0 and 7 of the tools
// tree's firmware.
func TestThePinnedFirmwareGivesWhatWasWatched(t *testing.T) {
	tools, err := toolstree.Find()
	if err != nil {
		t.Skipf("the tools tree is absent: %v", err)
	}
	b, err := os.ReadFile(tools.OVMF())
	if err != nil {
		t.Skip(err)
	}
	f := parse(t, b)
	if f.SHA256().String() != "6a3e8f438ad7269f5dfd884647587b88391fb23965bb3aa7902b519438dba129" {
		t.Skipf("firmware %s was not watched", f.SHA256())
	}
	c, err := ReadCore(f)
	if err != nil {
		t.Fatal(err)
	}
	v, err := ReadVariables(f)
	if err != nil || v.Enrolled {
		t.Errorf("variables %+v: %v", v, err)
	}
	events := append(c.Events("x"), boot.New(0, 4, "separator", "", boot.Of(boot.Separator())))
	if got, _ := boot.PCR256(events, 0); got.String() != "c52ccebcb2f9e66ae492acf8a1d80ff26df1176c9fc52cb53bf08ffbb838069b" {
		t.Errorf("PCR 0 is %s", got)
	}
}

func FuzzReadCore(f *testing.F) {
	b := ovmftest.Firmware(f, ovmftest.Options{Version: "2031.02"})
	f.Add(b)
	f.Add(ovmftest.Store("PK"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > 1<<20 {
			return
		}
		fw, err := tdvf.Parse(b)
		if err != nil {
			return
		}
		if c, err := ReadCore(fw); err == nil && (c.Version == "" || len(c.Volumes) == 0) {
			t.Errorf("core %+v is accepted", c)
		}
		_, _ = ReadVariables(fw)
	})
}

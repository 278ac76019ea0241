package cpio

import (
	"bytes"
	"io"
	"strings"
	"testing"

	ucpio "github.com/u-root/u-root/pkg/cpio"
)

func sample(t *testing.T, order []int) []byte {
	t.Helper()
	a := New()
	add := []func() error{
		func() error { return a.File("modules/b.ko", 0o400, []byte("bb")) },
		func() error { return a.File("init", 0o755, []byte("program")) },
		func() error { return a.Char("dev/console", 0o600, 5, 1) },
		func() error { return a.Dir("proc", 0o555) },
		func() error { return a.File("modules/a.ko", 0o400, nil) },
	}
	for _, i := range order {
		if err := add[i](); err != nil {
			t.Fatal(err)
		}
	}
	var b bytes.Buffer
	n, err := a.WriteTo(&b)
	if err != nil {
		t.Fatal(err)
	}
	if n != int64(b.Len()) {
		t.Errorf("WriteTo says %d bytes, wrote %d", n, b.Len())
	}
	return b.Bytes()
}

func TestBytesDoNotDependOnTheOrderOfAdding(t *testing.T) {
	if !bytes.Equal(sample(t, []int{0, 1, 2, 3, 4}), sample(t, []int{4, 3, 2, 1, 0})) {
		t.Error("two orders gave two archives")
	}
}

// An independent reader must see exactly what was put in.
func TestAnotherReaderSeesWhatWasWritten(t *testing.T) {
	r := ucpio.Newc.Reader(bytes.NewReader(sample(t, []int{0, 1, 2, 3, 4})))
	var got []string
	for {
		rec, err := r.ReadRecord()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if rec.UID != 0 || rec.GID != 0 || rec.MTime != 0 {
			t.Errorf("%s has owner %d:%d and time %d, want zeroes", rec.Name, rec.UID, rec.GID, rec.MTime)
		}
		if rec.Name == "dev/console" && (rec.Rmajor != 5 || rec.Rminor != 1 || rec.Mode != 0o020600) {
			t.Errorf("console is %d:%d mode %o", rec.Rmajor, rec.Rminor, rec.Mode)
		}
		if rec.Name == "init" {
			data := make([]byte, rec.FileSize)
			if _, err := rec.ReadAt(data, 0); err != nil || string(data) != "program" || rec.Mode != 0o100755 {
				t.Errorf("init is %q, mode %o, error %v", data, rec.Mode, err)
			}
		}
		got = append(got, rec.Name)
	}
	if want := "dev dev/console init modules modules/a.ko modules/b.ko proc"; strings.Join(got, " ") != want {
		t.Errorf("entries are %q, want %q", got, want)
	}
}

func TestAddRefusesPathsThatAreNotPlain(t *testing.T) {
	for _, name := range []string{"", ".", "/init", "../x", "a/../b", "a//b", "a/"} {
		if err := New().File(name, 0o644, nil); err == nil {
			t.Errorf("path %q was accepted", name)
		}
	}
}

func TestAddRefusesTwoThingsUnderOneName(t *testing.T) {
	a := New()
	if err := a.File("x", 0o644, nil); err != nil {
		t.Fatal(err)
	}
	if err := a.File("x", 0o644, nil); err == nil {
		t.Error("a second file x was accepted")
	}
	if err := a.File("x/y", 0o644, nil); err == nil {
		t.Error("a file below a file was accepted")
	}
}

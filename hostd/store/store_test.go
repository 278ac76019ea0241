package store

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"errors"
	"golang.org/x/sys/unix"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/hostd/spec"
	"cocoon/internal/fault"
)

func TestRecordsSurviveReopening(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := Record{Spec: spec.Spec{Version: 1, Name: "a", TEE: spec.TEEVTPM, MemoryMiB: 1024, CPUs: 2, Image: "/i",
		Forwards: []spec.Forward{{Guest: "10.0.2.100:80", Target: "127.0.0.1:80"}}},
		Created: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	b := want
	b.Spec.Name = "b"
	for _, r := range []Record{b, want} {
		if err := s.Put(r); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Delete("b"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	rs, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]Record{want}, rs); diff != "" {
		t.Errorf("List() (-want +got):\n%s", diff)
	}
	if _, err := s.Get("b"); !errors.Is(err, ErrNotFound) {
		t.Errorf("Get of a deleted VM = %v, want ErrNotFound", err)
	}
	if _, err := Open(dir); !fault.Has(err, "hostd.store") {
		t.Errorf("a second Open = %v, want hostd.store", err)
	}
}

// Whatever is wrong with the file, Open returns: the store, or that it is
// damaged.
func TestADamagedFileIsReportedAndNothingPanics(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	for i := range 20 {
		if err := s.Put(Record{Spec: spec.Spec{Version: 1, Name: fmt.Sprintf("vm-%d", i), Image: "/" + strings.Repeat("i", 1500)}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(dir, File))
	if err != nil {
		t.Fatal(err)
	}
	damages := map[string][]byte{"garbage": []byte(strings.Repeat("x", 65536)), "half of it": whole[:len(whole)/2], "one page": whole[:4096]}
	for at := 0; at < len(whole); at += 1021 {
		b := slices.Clone(whole)
		for i := range min(64, len(b)-at) {
			b[at+i] ^= 0xa5
		}
		damages[fmt.Sprintf("64 bytes at %d", at)] = b
	}
	damaged := 0
	for name, b := range damages {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, File), b, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir)
		switch {
		case err == nil:
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		case errors.Is(err, ErrDamaged):
			damaged++
			if _, err := SetAside(dir, time.Unix(0, 0)); err != nil {
				t.Error(err)
			}
			if s, err = Open(dir); err != nil {
				t.Errorf("%s: a new store cannot be made: %v", name, err)
			} else if err := s.Close(); err != nil {
				t.Error(err)
			}
		default:
			t.Errorf("%s: Open() = %v", name, err)
		}
	}
	if damaged < 5 {
		t.Errorf("only %d of %d damages were seen", damaged, len(damages))
	}
}

// A full disk refuses the change and keeps what was there.
func TestAFullDiskKeepsWhatWasThere(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=96k"); err != nil {
		t.Skipf("cannot make a small file system here: %v", err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	s, err := Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	kept := 0
	for i := range 1000 {
		r := Record{Spec: spec.Spec{Version: 1, Name: fmt.Sprintf("vm-%03d", i), Image: "/" + strings.Repeat("i", 3000)}}
		if err := s.Put(r); err != nil {
			if !fault.Has(err, "vm.disk.full") {
				t.Errorf("Put() = %v, want vm.disk.full", err)
			}
			break
		}
		kept++
	}
	rs, err := s.List()
	if err != nil || len(rs) != kept || kept == 0 || kept == 1000 {
		t.Errorf("%d records of %d, %v", len(rs), kept, err)
	}
}

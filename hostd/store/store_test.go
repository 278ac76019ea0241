package store

import (
	"errors"
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

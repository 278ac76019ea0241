package server

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/measurements/digest"
	"cocoon/verifier/result"
)

func TestOldEvidenceIsRemoved(t *testing.T) {
	dir := t.TempDir()
	a, err := openArchive(dir, 1<<20, 48*time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	store := func(what string) string {
		t.Helper()
		r := &result.Result{Accepted: true, EvidenceSHA256: digest.Sum256([]byte(what))}
		if err := a.store([]byte(what), r, "token", nil); err != nil {
			t.Fatal(err)
		}
		return filepath.Join(dir, accepted, r.EvidenceSHA256.String()+".evidence.json")
	}
	age := func(path string, d time.Duration) {
		t.Helper()
		at := time.Now().Add(-d)
		if err := os.Chtimes(path, at, at); err != nil {
			t.Fatal(err)
		}
	}
	old, young := store("old"), store("young")
	age(old, 49*time.Hour)
	age(young, 47*time.Hour)
	killed := filepath.Join(dir, accepted, temp+"1")
	if err := os.WriteFile(killed, []byte("half"), 0o600); err != nil {
		t.Fatal(err)
	}
	a.size[accepted] += int64(len("half"))
	age(killed, 2*tempAge)
	s := &Server{archive: a}
	// Also where nothing is stored any more.
	if err := s.RemoveOldEvidence(); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{old, killed} {
		if _, err := os.Stat(path); !os.IsNotExist(err) {
			t.Errorf("%s is still there: %v", filepath.Base(path), err)
		}
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("evidence of 47 hours: %v", err)
	}
	store("young") // again: it counts once
	again, err := openArchive(dir, 1<<20, 48*time.Hour)
	if err != nil || again.size[accepted] != a.size[accepted] {
		t.Errorf("%d bytes are counted, there are %d: %v", a.size[accepted], again.size[accepted], err)
	}
	keep, err := openArchive(dir, 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	age(young, 1000*time.Hour)
	if err := keep.prune(time.Now()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(young); err != nil {
		t.Errorf("without an age: %v", err)
	}
	if err := (&Server{}).RemoveOldEvidence(); err != nil {
		t.Errorf("without an archive: %v", err)
	}
}

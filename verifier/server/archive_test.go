package server

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
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

// TestAcceptedEvidenceIsOnTheDisk: both files are flushed before they have their
// names, and the names after that. Refused evidence, without which no verdict is,
// waits for no disk.
func TestAcceptedEvidenceIsOnTheDisk(t *testing.T) {
	a, err := openArchive(filepath.Join(t.TempDir(), "new"), 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	var flushed []string
	fail := "" // begins the name of what cannot be flushed
	a.flush = func(f *os.File) error {
		name := filepath.Base(f.Name())
		if name == accepted { // the directory
			for _, e := range must(os.ReadDir(f.Name())) {
				name += " " + e.Name()[64:]
			}
		}
		if name, _, _ = strings.Cut(name, "-"); fail != "" && strings.HasPrefix(name, fail) {
			return errors.New("input/output error")
		}
		flushed = append(flushed, name)
		return nil
	}
	r := &result.Result{Accepted: true, EvidenceSHA256: digest.Sum256([]byte("1"))}
	if err := a.store([]byte("1"), r, "", nil); err != nil || len(flushed) > 0 {
		t.Errorf("refused evidence: %v, flushed %q", err, flushed)
	}
	if err := a.store([]byte("1"), r, "token", nil); err != nil || !slices.Equal(flushed, []string{".tmp", ".tmp", "accepted .evidence.json .result.json"}) {
		t.Errorf("%v, flushed %q", err, flushed)
	}
	for _, fail = range []string{".tmp", accepted} {
		if err := a.store([]byte("1"), r, "token", nil); err == nil {
			t.Errorf("kept although %q was not flushed", fail)
		}
	}
	if len(a.reserved) != 2 || a.reserved[accepted] != 0 || a.reserved[refused] != 0 {
		t.Errorf("room that is not used: %v", a.reserved)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestManyAreArchivedAtATime holds the first sync of names: who comes meanwhile
// shares the next, and none returns before one that began after its names.
func TestManyAreArchivedAtATime(t *testing.T) {
	const n = 16
	a, err := openArchive(t.TempDir(), 1<<20, 0)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	durable := map[string]bool{}
	begun, proceed := make(chan struct{}, n), make(chan struct{})
	a.flush = func(f *os.File) error {
		if filepath.Base(f.Name()) != accepted {
			return nil
		}
		there := must(os.ReadDir(f.Name()))
		begun <- struct{}{}
		<-proceed
		mu.Lock()
		defer mu.Unlock()
		for _, e := range there {
			durable[e.Name()] = true
		}
		return nil
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			what := []byte(strconv.Itoa(i))
			r := &result.Result{Accepted: true, EvidenceSHA256: digest.Sum256(what)}
			if err := a.store(what, r, "token", nil); err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			if name := r.EvidenceSHA256.String(); !durable[name+".evidence.json"] || !durable[name+".result.json"] {
				t.Errorf("%s returned before its names were durable", what)
			}
		})
	}
	<-begun
	close(proceed)
	wg.Wait()
	again, err := openArchive(a.dir, 1<<20, 0)
	if err != nil || again.size[accepted] != a.size[accepted] || a.reserved[accepted] != 0 {
		t.Errorf("%d bytes are counted and %d reserved, there are %d: %v", a.size[accepted], a.reserved[accepted], again.size[accepted], err)
	}
}

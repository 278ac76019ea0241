package journal

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

const origin = "verifier.example.org/verdicts"

var testKey = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{7}, 32))

func hash(name string, i uint64) digest.SHA256 {
	return digest.Sum256(binary.BigEndian.AppendUint64([]byte(name), i))
}

// entry returns the entry of a numbered verdict.
func entry(i uint64) Entry {
	at := time.Date(2026, 11, 1, 0, 0, int(i%3600), 0, time.UTC)
	return Entry{Time: at, Expires: at.Add(time.Hour), Key: hash("key", 0), Verdict: hash("verdict", i), Cell: hash("cell", i),
		Evidence: hash("evidence", i), Policy: hash("policy", 0), Manifest: hash("manifest", 0)}
}

func options(dir string) Options {
	return Options{Dir: dir, Origin: origin, Key: testKey, Interval: time.Hour, Promises: true}
}

func open(t testing.TB, o Options) *Journal {
	t.Helper()
	j, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = j.Close() }) // a second time, mostly
	return j
}

func closed(t testing.TB, j *Journal) {
	t.Helper()
	if err := j.Close(); err != nil {
		t.Fatal(err)
	}
}

// fill appends entries from..to-1, many at a time, in no order.
func fill(t testing.TB, j *Journal, from, to uint64) {
	t.Helper()
	next := make(chan uint64)
	var wg sync.WaitGroup
	for range 256 {
		wg.Go(func() {
			for i := range next {
				if _, err := j.Append(context.Background(), entry(i)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for i := from; i < to; i++ {
		next <- i
	}
	close(next)
	wg.Wait()
	if t.Failed() {
		t.FailNow()
	}
}

func wholesome(t testing.TB, dir string) *Report {
	t.Helper()
	r, err := Fsck(dir)
	if err == nil {
		err = r.Err()
	}
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestEntriesComeBackInOneForm(t *testing.T) {
	e := entry(5)
	text, err := e.Text()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseEntry(text)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(&e, got); diff != "" {
		t.Error(diff)
	}
	for i := range text {
		bad := bytes.Clone(text)
		bad[i] ^= 1
		if got, err := ParseEntry(bad); err == nil && cmp.Equal(&e, got) {
			t.Errorf("byte %d does not count", i)
		}
	}
	m := ManifestEntry(hash("manifest", 1))
	if text, err = m.Text(); err != nil {
		t.Fatal(err)
	}
	if got, err := ParseEntry(text); err != nil || !cmp.Equal(&m, got) {
		t.Errorf("%+v, %v", got, err)
	}
	for name, f := range map[string]func(*Entry){
		"no verdict":                       func(e *Entry) { e.Verdict = digest.SHA256{} },
		"for contracts without a manifest": func(e *Entry) { e.Manifest, e.Cell = digest.SHA256{}, digest.Sum256(nil) },
		"ends as it begins":                func(e *Entry) { e.Expires = e.Time },
		"parts of a second":                func(e *Entry) { e.Time = e.Time.Add(1) },
		"a clock before all":               func(e *Entry) { e.Time = time.Unix(0, 0) },
	} {
		e := entry(1)
		f(&e)
		if _, err := e.Text(); !errors.Is(err, ErrEntry) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestJournalKeepsFindsAndProves(t *testing.T) {
	dir := t.TempDir()
	j := open(t, options(dir))
	const n = 500
	fill(t, j, 0, n)
	r, err := j.Append(t.Context(), entry(7)) // a second verdict on the same evidence
	if err != nil || r.Index != n {
		t.Fatalf("%+v, %v", r, err)
	}
	p, err := OpenPromise(r.Promise, j.Key())
	if err != nil || p.Index != n || p.Leaf != r.Leaf {
		t.Errorf("promise %+v, %v", p, err)
	}
	before := j.Checkpoint()
	if before.Size != 0 {
		t.Fatalf("a checkpoint of %d entries came early", before.Size)
	}
	check := func(j interface {
		Find(By, digest.SHA256, int) ([]Found, error)
		ProveInclusion(uint64) (*log.Inclusion, error)
		Key() log.Key
	}) {
		t.Helper()
		fs, err := j.Find(ByEvidence, hash("evidence", 7), 10)
		if err != nil || len(fs) != 2 || fs[0].Index != n || fs[1].Index >= n {
			t.Fatalf("%+v, %v", fs, err)
		}
		for by, name := range map[By]string{ByVerdict: "verdict", ByCell: "cell"} {
			fs, err := j.Find(by, hash(name, 300), 1)
			if err != nil || len(fs) != 1 {
				t.Fatalf("%s: %+v, %v", name, fs, err)
			}
			if diff := cmp.Diff(entry(300), fs[0].Entry); diff != "" {
				t.Error(diff)
			}
			p, err := j.ProveInclusion(fs[0].Index)
			if err != nil {
				t.Fatal(err)
			}
			leaf, err := fs[0].Entry.Leaf()
			if err != nil {
				t.Fatal(err)
			}
			if p, err = log.ParseInclusion(p.Text()); err != nil {
				t.Fatal(err)
			}
			if _, err := p.VerifyLeaf(leaf, j.Key()); err != nil {
				t.Error(err)
			}
			if _, err := p.VerifyLeaf(hash("leaf", 1), j.Key()); !errors.Is(err, log.ErrProof) {
				t.Errorf("another leaf: %v", err)
			}
		}
		if _, err := j.Find(ByVerdict, hash("verdict", 1<<40), 1); !errors.Is(err, ErrNotFound) {
			t.Errorf("a verdict that was not given: %v", err)
		}
		if _, err := j.Find(ByCell, digest.SHA256{}, 1); !errors.Is(err, ErrNotFound) {
			t.Errorf("no cell: %v", err)
		}
		if _, err := j.ProveInclusion(1 << 40); !errors.Is(err, ErrNotFound) {
			t.Errorf("an entry after the last: %v", err)
		}
	}
	check(j)
	fill(t, j, n, n+100)
	closed(t, j)
	if _, err := j.Append(t.Context(), entry(1)); !errors.Is(err, ErrClosed) {
		t.Errorf("append after close: %v", err)
	}
	if rep := wholesome(t, dir); rep.Size != n+101 || rep.Later != 0 || rep.Torn {
		t.Errorf("%+v", rep)
	}
	again := open(t, options(dir))
	check(again)
	rd, err := OpenReader(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = rd.Close() }()
	check(rd)
	c, err := rd.ProveConsistency(before.Raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, later, err := c.Verify(j.Key()); err != nil || later.Size != n+101 {
		t.Errorf("%+v, %v", later, err)
	}
	fill(t, again, n+100, n+200)
	cp := rd.Checkpoint()
	if _, err := again.ProveInclusion(n + 150); err != nil {
		t.Fatal(err)
	}
	if c, err = again.ProveConsistency(cp.Raw); err != nil || len(c.Hashes) == 0 {
		t.Errorf("%+v, %v", c, err)
	}
}

// TestCommitsBeginApart appends one after the other: each is a commit, and two that
// follow at once would cost more than the entries.
func TestCommitsBeginApart(t *testing.T) {
	j := open(t, options(t.TempDir()))
	const commits = 20
	start := time.Now()
	for i := range uint64(commits) {
		if _, err := j.Append(context.Background(), entry(i)); err != nil {
			t.Fatal(err)
		}
	}
	if took := time.Since(start); took < (commits-1)*pace {
		t.Errorf("%d commits in %v", commits, took)
	}
	closed(t, j)
}

func TestOnlyOneProcessAppends(t *testing.T) {
	dir := t.TempDir()
	open(t, options(dir))
	if _, err := Open(options(dir)); !errors.Is(err, ErrLocked) {
		t.Errorf("a second one: %v", err)
	}
}

func TestAnotherKeyOrOriginIsRefused(t *testing.T) {
	dir := t.TempDir()
	closed(t, open(t, options(dir)))
	o := options(dir)
	o.Key = ed25519.NewKeyFromSeed(bytes.Repeat([]byte{8}, 32))
	if _, err := Open(o); err == nil {
		t.Error("another key was taken")
	}
	o = options(dir)
	o.Origin = "verifier.example.org/other"
	if _, err := Open(o); err == nil {
		t.Error("another origin was taken")
	}
}

func TestSegmentsAreFullAndIndexed(t *testing.T) {
	dir := t.TempDir()
	o := options(dir)
	o.Promises = false
	j := open(t, o)
	const n = 2*SegmentEntries + 100
	fill(t, j, 0, n)
	look := func(j *Journal) {
		t.Helper()
		for _, i := range []uint64{0, SegmentEntries - 1, SegmentEntries, 2*SegmentEntries - 1, n - 1} {
			e, err := j.Entry(i)
			if err != nil {
				t.Fatal(err)
			}
			fs, err := j.Find(ByVerdict, e.Verdict, 2)
			if err != nil || len(fs) != 1 || fs[0].Index != i {
				t.Fatalf("entry %d: %+v, %v", i, fs, err)
			}
			if _, err := j.ProveInclusion(i); err != nil {
				t.Fatal(err)
			}
		}
	}
	look(j)
	closed(t, j)
	wholesome(t, dir)
	// What can be computed again is.
	for _, name := range []string{hashesFile, "segments/0000000000.idx"} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	j = open(t, o)
	look(j)
	closed(t, j)
	if rep := wholesome(t, dir); rep.Size != n {
		t.Errorf("%+v", rep)
	}
}

// TestWhoGivesUpKeepsNobodyWaiting appends from many at once of whom half give
// up: the others of each group hear of their entries.
func TestWhoGivesUpKeepsNobodyWaiting(t *testing.T) {
	j := open(t, options(t.TempDir()))
	defer closed(t, j)
	gone, cancel := context.WithCancel(context.Background())
	defer cancel()
	var wg sync.WaitGroup
	for i := range 400 {
		ctx := context.Background()
		if i%2 == 0 {
			ctx = gone
		}
		wg.Go(func() {
			if _, err := j.Append(ctx, entry(uint64(i))); err != nil && ctx != gone {
				t.Errorf("entry %d: %v", i, err)
			}
		})
		if i == 200 {
			cancel()
		}
	}
	wg.Wait()
	if n := j.Size(); n < 200 {
		t.Errorf("%d entries, want at least those that nobody gave up", n)
	}
}

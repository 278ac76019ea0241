package journal

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
)

func publishing(dir string) Options {
	o := options(dir)
	o.Publish = &Publish{Interval: 100 * time.Millisecond}
	return o
}

// published waits until an entry is under a published checkpoint.
func published(t *testing.T, j *Journal, r *Receipt) *log.Inclusion {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for {
		p, err := j.ProvePublished(ctx, r.Index, r.Leaf)
		if err == nil {
			return p
		}
		if !errors.Is(err, ErrNotPublished) {
			t.Fatal(err)
		}
		select {
		case <-ctx.Done():
			t.Fatal("entry is not published")
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestEveryEntryIsPublishedAtItsIndex publishes verdicts and a manifest, across
// a restart, and reads the log as a monitor does.
func TestEveryEntryIsPublishedAtItsIndex(t *testing.T) {
	dir := t.TempDir()
	j := open(t, publishing(dir))
	const n = 700
	fill(t, j, 0, n)
	m := ManifestEntry(hash("manifest", 9))
	r, err := j.Append(t.Context(), m)
	if err != nil || r.Index != n {
		t.Fatalf("%+v, %v", r, err)
	}
	p := published(t, j, r)
	if _, err := p.Verify(m.Manifest, j.Key()); err != nil {
		t.Error(err)
	}
	if _, err := p.VerifyLeaf(hash("leaf", 1), j.Key()); err == nil {
		t.Error("the proof shows another entry")
	}
	promise, err := OpenPromise(r.Promise, j.Key())
	if err != nil || promise.Index != p.Index || promise.Leaf != r.Leaf {
		t.Errorf("promise %+v, %v", promise, err)
	}
	if fs, err := j.Find(ByVerdict, m.Manifest, 1); err != nil || fs[0].Index != n {
		t.Errorf("%+v, %v", fs, err)
	}
	closed(t, j)
	if rep := wholesome(t, dir); rep.Published == nil || *rep.Published != n+1 {
		t.Errorf("%+v", rep)
	}
	tile := filepath.Join(dir, LogDir, "tile", "0", "000")
	good, err := os.ReadFile(tile)
	if err != nil {
		t.Fatal(err)
	}
	bad := append([]byte{}, good...)
	bad[100] ^= 1
	if err := os.WriteFile(tile, bad, 0o644); err != nil {
		t.Fatal(err)
	}
	if rep, err := Fsck(dir); err != nil || rep.Err() == nil {
		t.Errorf("a changed tile: %+v, %v", rep, err)
	}
	if err := os.WriteFile(tile, good, 0o644); err != nil {
		t.Fatal(err)
	}

	// What was durable and not published is after the next start.
	o := options(dir)
	j = open(t, o)
	fill(t, j, n, n+300)
	closed(t, j)
	j = open(t, publishing(dir))
	if r, err = j.Append(t.Context(), entry(n+300)); err != nil {
		t.Fatal(err)
	}
	published(t, j, r)
	closed(t, j)

	l, err := tiles.Open(filepath.Join(dir, LogDir))
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Fsck(t.Context()); err != nil {
		t.Error(err)
	}
	again := open(t, options(dir))
	var count uint64
	if err := l.Walk(t.Context(), func(i uint64, text []byte) error {
		e, err := again.Entry(i)
		if err != nil {
			return err
		}
		want, err := e.Text()
		if err == nil && string(want) != string(text) {
			t.Errorf("entry %d differs", i)
		}
		count++
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if count != n+302 {
		t.Errorf("%d entries are published, want %d", count, n+302)
	}
	ms, err := l.Manifests(t.Context())
	if err != nil || len(ms) != 1 || ms[0].Index != n || ms[0].SHA256 != m.Manifest {
		t.Errorf("%+v, %v", ms, err)
	}
}

// TestAPublishedLogOfAnotherIsRefused puts one journal's published log beside
// another's entries.
func TestAPublishedLogOfAnotherIsRefused(t *testing.T) {
	dir := t.TempDir()
	j := open(t, publishing(dir))
	r, err := j.Append(t.Context(), entry(1))
	if err != nil {
		t.Fatal(err)
	}
	published(t, j, r)
	closed(t, j)
	for name, entries := range map[string][]uint64{"fewer entries": nil, "other entries": {5, 6}} {
		other := t.TempDir()
		o := open(t, options(other))
		for _, i := range entries {
			if _, err := o.Append(t.Context(), entry(i)); err != nil {
				t.Fatal(err)
			}
		}
		closed(t, o)
		copyDir(t, filepath.Join(dir, LogDir), filepath.Join(other, LogDir))
		if _, err := Open(publishing(other)); !errors.Is(err, ErrDamaged) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func copyDir(t *testing.T, from, to string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
}

package journal

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/storage/posix"

	"cocoon/measurements/log/tiles"
)

// remote is a storage of tessera's that is none of ours: it keeps its files at a
// place that the journal does not know, and answers, as an object store does, by
// its reader alone. That counts what it is asked.
type remote struct {
	*posix.Storage
	reads atomic.Int64
}

func newRemote(t *testing.T, dir string) *remote {
	t.Helper()
	s, err := posix.New(t.Context(), posix.Config{Path: dir})
	if err != nil {
		t.Fatal(err)
	}
	return &remote{Storage: s.(*posix.Storage)}
}

// Appender is what tessera asks of a driver.
func (r *remote) Appender(ctx context.Context, o *tessera.AppendOptions) (*tessera.Appender, tessera.LogReader, error) {
	a, reader, err := r.Storage.Appender(ctx, o)
	return a, &counted{reader, &r.reads}, err
}

type counted struct {
	tessera.LogReader
	n *atomic.Int64
}

func (c *counted) ReadTile(ctx context.Context, level, index uint64, p uint8) ([]byte, error) {
	c.n.Add(1)
	return c.LogReader.ReadTile(ctx, level, index, p)
}

func (c *counted) ReadCheckpoint(ctx context.Context) ([]byte, error) {
	c.n.Add(1)
	return c.LogReader.ReadCheckpoint(ctx)
}

func (c *counted) ReadEntryBundle(ctx context.Context, index uint64, p uint8) ([]byte, error) {
	c.n.Add(1)
	return c.LogReader.ReadEntryBundle(ctx, index, p)
}

// TestAnotherStoragePublishesTheSame publishes into a storage that is given,
// across a restart, and has a monitor read it over HTTP: what is served comes
// from the storage, and nothing lies in the journal's directory.
func TestAnotherStoragePublishesTheSame(t *testing.T) {
	dir, bucket := t.TempDir(), t.TempDir()
	o := publishing(dir)
	first := newRemote(t, bucket)
	o.Publish.Driver = first
	j := open(t, o)
	const n = 300 // more than a tile
	fill(t, j, 0, n)
	closed(t, j)
	second := newRemote(t, bucket)
	o.Publish.Driver = second
	j = open(t, o)
	defer closed(t, j)
	m := ManifestEntry(hash("manifest", 9))
	r, err := j.Append(t.Context(), m)
	if err != nil || r.Index != n {
		t.Fatalf("%+v, %v", r, err)
	}
	if _, err := published(t, j, r).Verify(m.Manifest, j.Key()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, LogDir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the journal has files of a log: %v", err)
	}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		b, err := j.ReadPublished(req.Context(), req.URL.Path)
		if err != nil {
			http.NotFound(w, req)
			return
		}
		_, _ = w.Write(b) // an error here is the peer's hang-up
	}))
	defer srv.Close()
	before := second.reads.Load()
	l, err := tiles.OpenURL(t.Context(), srv.URL, j.Key(), http.DefaultClient)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Fsck(t.Context()); err != nil {
		t.Error(err)
	}
	if p, err := l.ProveInclusion(t.Context(), m.Manifest); err != nil || p.Index != n {
		t.Errorf("%+v, %v", p, err)
	}
	if second.reads.Load() == before {
		t.Error("what is served is not the storage's")
	}
	for _, path := range []string{"/", "/tile/", "/tile/0/001", "/tile/64/000", "/tile/0/x", "/tile/entries/", "/tile/0/../0/000", "/.state/treeState", "/tile/../" + tiles.KeyFile, "/checkpoint/"} {
		if b, err := j.ReadPublished(t.Context(), path); !errors.Is(err, fs.ErrNotExist) || b != nil {
			t.Errorf("%s: %d bytes, %v", path, len(b), err)
		}
	}
}

// TestADriverOfAnotherLogIsRefused opens a journal on a storage that has the log
// of another key.
func TestADriverOfAnotherLogIsRefused(t *testing.T) {
	bucket := t.TempDir()
	o := publishing(t.TempDir())
	o.Publish.Driver = newRemote(t, bucket)
	closed(t, open(t, o))
	other := publishing(t.TempDir())
	other.Origin, other.Publish.Driver = "log.example/another", newRemote(t, bucket)
	j, err := Open(other)
	if err == nil {
		closed(t, j)
		t.Error("another log's storage was taken")
	}
}

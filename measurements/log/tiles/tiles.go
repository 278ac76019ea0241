// Package tiles keeps transparency logs: the files of C2SP tlog-tiles, which
// any web server can serve as they are, by transparency-dev/tessera, in a
// directory or another of its storages. In come identities of manifests, or
// entries from a Writer's owner, and the log's key; out come indexes and the
// proofs that package log checks.
// Files are written beside their place and renamed, so a crash loses at most
// entries that nobody was told of.
package tiles

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/client"
	"github.com/transparency-dev/tessera/storage/posix"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// KeyFile is the file in a log's directory that holds its verifier key. It
// helps people and programs of the log's own; who relies on the log has the
// key from elsewhere.
const KeyFile = "log.pub"

// maxEntries bounds what Entries reads: a log of manifests is short.
const maxEntries = 1 << 20

// Times of the storage. One entry a call is the rule, so nothing is gained by
// waiting for more.
const (
	checkpointInterval = 100 * time.Millisecond
	batchAge           = 10 * time.Millisecond
	pollInterval       = 20 * time.Millisecond
)

// ErrExists is returned by Init for a directory that has a log.
var ErrExists = errors.New("the directory has a log already")

// ErrNotLogged is returned for manifests that are not in the log.
var ErrNotLogged = errors.New("manifest is not in the log")

// fetcher reads the parts of a log, from a directory, a web server or a
// storage.
type fetcher interface {
	ReadCheckpoint(ctx context.Context) ([]byte, error)
	ReadTile(ctx context.Context, level, index uint64, p uint8) ([]byte, error)
	ReadEntryBundle(ctx context.Context, index uint64, p uint8) ([]byte, error)
}

// Log is a log, opened for reading.
type Log struct {
	dir string // "": it is not in a directory here
	key log.Key
	f   fetcher
}

// Init makes an empty log, signed by a key under an origin.
func Init(ctx context.Context, dir, origin string, key ed25519.PrivateKey) (*Log, error) {
	k, err := log.NewKey(origin, key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	if _, err := os.Stat(filepath.Join(dir, KeyFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("making log in %s: %w", dir, ErrExists)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("making log: %w", err)
	}
	l := &Log{dir: dir, key: k, f: client.FileFetcher{Root: dir}}
	if err := l.append(ctx, key, nil); err != nil {
		return nil, err
	}
	// The key file comes last: a directory without it is no log yet, and Init
	// can be called again.
	if err := writeFile(filepath.Join(dir, KeyFile), []byte(k.String()+"\n")); err != nil {
		return nil, err
	}
	return l, nil
}

// writeFile replaces a file in one step that survives a crash.
func writeFile(path string, b []byte) error {
	tmp := path + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// Open opens a log for reading. Its checkpoint must be signed by the key in
// the directory.
func Open(dir string) (*Log, error) {
	b, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	if len(b) == 0 || b[len(b)-1] != '\n' {
		return nil, fmt.Errorf("opening log: %s has no line: %w", KeyFile, log.ErrForm)
	}
	k, err := log.ParseKey(string(b[:len(b)-1]))
	if err != nil {
		return nil, err
	}
	l := &Log{dir: dir, key: k, f: client.FileFetcher{Root: dir}}
	if _, err := l.Checkpoint(context.Background()); err != nil {
		return nil, err
	}
	return l, nil
}

// OpenURL opens a log that a web server has, for reading, under a key that the
// caller has from elsewhere.
func OpenURL(ctx context.Context, address string, k log.Key, c *http.Client) (*Log, error) {
	u, err := url.Parse(address)
	if err == nil && (u.Scheme != "http" && u.Scheme != "https" || u.Host == "") {
		err = fmt.Errorf("%.64q is no http or https address", address)
	}
	if err != nil {
		return nil, fmt.Errorf("opening log: %w: %w", log.ErrForm, err)
	}
	f, err := client.NewHTTPFetcher(u, c)
	if err != nil {
		return nil, fmt.Errorf("opening log: %w", err)
	}
	l := &Log{key: k, f: f}
	if _, err := l.Checkpoint(ctx); err != nil {
		return nil, err
	}
	return l, nil
}

// Key returns the log's key.
func (l *Log) Key() log.Key { return l.key }

// Checkpoint returns the latest checkpoint, verified.
func (l *Log) Checkpoint(ctx context.Context) (*log.Checkpoint, error) {
	raw, err := l.f.ReadCheckpoint(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading checkpoint: %w", err)
	}
	return log.OpenCheckpoint(raw, l.key)
}

// append runs the storage until everything in entries is under a published
// checkpoint; without entries until there is a checkpoint.
func (l *Log) append(ctx context.Context, key ed25519.PrivateKey, entries [][]byte) (err error) {
	if l.dir == "" {
		return fmt.Errorf("appending to log %s: it is only read here", l.key.Origin)
	}
	signer, err := log.Signer(l.key.Origin, key)
	if err != nil {
		return err
	}
	if !key.Public().(ed25519.PublicKey).Equal(l.key.Public) {
		return fmt.Errorf("appending to log %s: the key is another log's", l.key.Origin)
	}
	// The storage's goroutines end with this context.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	driver, err := posix.New(ctx, posix.Config{Path: l.dir})
	if err != nil {
		return fmt.Errorf("opening log storage: %w", err)
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, tessera.NewAppendOptions().
		WithCheckpointSigner(signer).WithCheckpointInterval(checkpointInterval).WithBatching(tessera.DefaultBatchMaxSize, batchAge))
	if err != nil {
		return fmt.Errorf("opening log storage: %w", err)
	}
	defer func() {
		if e := shutdown(ctx); err == nil && e != nil {
			err = fmt.Errorf("closing log storage: %w", e)
		}
	}()
	await := tessera.NewPublicationAwaiter(ctx, reader.ReadCheckpoint, pollInterval)
	for _, e := range entries {
		if _, _, err := await.Await(ctx, appender.Add(ctx, tessera.NewEntry(e))); err != nil {
			return fmt.Errorf("appending to log: %w", err)
		}
	}
	return nil
}

// Append puts a manifest into the log, unless it is there, and returns its
// index once a signed checkpoint covers it.
func (l *Log) Append(ctx context.Context, key ed25519.PrivateKey, manifest digest.SHA256) (uint64, error) {
	if i, err := l.Index(ctx, manifest); !errors.Is(err, ErrNotLogged) {
		return i, err
	}
	if err := l.append(ctx, key, [][]byte{log.Entry(manifest)}); err != nil {
		return 0, err
	}
	return l.Index(ctx, manifest)
}

// Walk calls f for each entry under the latest checkpoint, in order, as the
// files have them; Fsck holds them against the checkpoint.
func (l *Log) Walk(ctx context.Context, f func(index uint64, entry []byte) error) error {
	c, err := l.Checkpoint(ctx)
	if err != nil {
		return err
	}
	return l.walk(ctx, c, f)
}

func (l *Log) walk(ctx context.Context, c *log.Checkpoint, f func(index uint64, entry []byte) error) error {
	var index uint64
	for bundle := uint64(0); index < c.Size; bundle++ {
		b, err := client.GetEntryBundle(ctx, l.f.ReadEntryBundle, bundle, c.Size)
		if err != nil {
			return fmt.Errorf("reading log entries: %w", err)
		}
		want := min(layout.EntryBundleWidth, c.Size-index)
		if uint64(len(b.Entries)) < want {
			return fmt.Errorf("reading log: entry bundle %d has %d entries, want %d: %w", bundle, len(b.Entries), want, log.ErrForm)
		}
		for _, e := range b.Entries[:want] { // more are of a bundle that has grown since
			if err := f(index, e); err != nil {
				return err
			}
			index++
		}
	}
	return nil
}

// Manifest is a manifest in the log.
type Manifest struct {
	Index  uint64        `json:"index"`
	SHA256 digest.SHA256 `json:"sha256"`
}

// Manifests returns the manifests in the log, in order. Other entries, such as
// a verifier's verdicts, are passed over.
func (l *Log) Manifests(ctx context.Context) ([]Manifest, error) {
	var out []Manifest
	err := l.Walk(ctx, func(i uint64, entry []byte) error {
		d, err := log.ParseEntry(entry)
		if err != nil {
			return nil // another's
		}
		if len(out) == maxEntries {
			return fmt.Errorf("reading log: more than %d manifests", maxEntries)
		}
		out = append(out, Manifest{i, d})
		return nil
	})
	return out, err
}

// Entries returns the manifests of a log that has nothing else.
func (l *Log) Entries(ctx context.Context) ([]digest.SHA256, error) {
	c, err := l.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if c.Size > maxEntries {
		return nil, fmt.Errorf("reading log: %d entries, limit %d", c.Size, maxEntries)
	}
	var out []digest.SHA256
	err = l.Walk(ctx, func(_ uint64, entry []byte) error {
		d, err := log.ParseEntry(entry)
		out = append(out, d)
		return err
	})
	return out, err
}

// Index returns the first index of a manifest.
func (l *Log) Index(ctx context.Context, manifest digest.SHA256) (uint64, error) {
	ms, err := l.Manifests(ctx)
	if err != nil {
		return 0, err
	}
	for _, m := range ms {
		if m.SHA256 == manifest {
			return m.Index, nil
		}
	}
	return 0, fmt.Errorf("looking up manifest %s: %w", manifest, ErrNotLogged)
}

// ProveInclusion returns a proof, checked, that a manifest is in the log under
// its latest checkpoint.
func (l *Log) ProveInclusion(ctx context.Context, manifest digest.SHA256) (*log.Inclusion, error) {
	index, err := l.Index(ctx, manifest)
	if err != nil {
		return nil, err
	}
	return l.ProveLeaf(ctx, index, log.LeafHash(manifest))
}

// ErrNotPublished is returned for entries that no checkpoint covers yet.
var ErrNotPublished = errors.New("no checkpoint covers the entry yet")

// ProveLeaf returns a proof, checked, that an entry with a leaf hash is in the
// log at an index, under its latest checkpoint.
func (l *Log) ProveLeaf(ctx context.Context, index uint64, leaf digest.SHA256) (*log.Inclusion, error) {
	c, err := l.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if index >= c.Size {
		return nil, fmt.Errorf("proving inclusion of entry %d in a log of %d: %w", index, c.Size, ErrNotPublished)
	}
	b, err := client.NewProofBuilder(ctx, c.Size, l.f.ReadTile)
	if err != nil {
		return nil, fmt.Errorf("proving inclusion: %w", err)
	}
	hs, err := b.InclusionProof(ctx, index)
	if err != nil {
		return nil, fmt.Errorf("proving inclusion: %w", err)
	}
	p := &log.Inclusion{Index: index, Hashes: digests(hs), Checkpoint: c.Raw}
	_, err = p.VerifyLeaf(leaf, l.key)
	return p, err
}

// ProveConsistency returns a proof, checked, that the log has every entry of
// the state that an earlier checkpoint, a signed note, describes.
func (l *Log) ProveConsistency(ctx context.Context, earlier []byte) (*log.Consistency, error) {
	from, err := log.OpenCheckpoint(earlier, l.key)
	if err != nil {
		return nil, err
	}
	c, err := l.Checkpoint(ctx)
	if err != nil {
		return nil, err
	}
	if from.Size > c.Size {
		return nil, fmt.Errorf("proving consistency: the log has %d entries, the earlier checkpoint %d: %w", c.Size, from.Size, log.ErrProof)
	}
	p := &log.Consistency{Earlier: earlier, Checkpoint: c.Raw}
	if from.Size > 0 && from.Size < c.Size {
		b, err := client.NewProofBuilder(ctx, c.Size, l.f.ReadTile)
		if err != nil {
			return nil, fmt.Errorf("proving consistency: %w", err)
		}
		hs, err := b.ConsistencyProof(ctx, from.Size, c.Size)
		if err != nil {
			return nil, fmt.Errorf("proving consistency: %w", err)
		}
		p.Hashes = digests(hs)
	}
	_, _, err = p.Verify(l.key)
	return p, err
}

func digests(hs [][]byte) []digest.SHA256 {
	out := make([]digest.SHA256, len(hs))
	for i, h := range hs {
		copy(out[i][:], h)
	}
	return out
}

package journal

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// ErrNotFound is returned for verdicts that are not in the journal.
var ErrNotFound = errors.New("verdict is not in the journal")

// Found is an entry and its place in the log.
type Found struct {
	Index uint64 `json:"index"`
	Entry Entry  `json:"entry"`
}

func readEntry(dir string, index, size uint64) (*Entry, error) {
	if index >= size {
		return nil, fmt.Errorf("reading entry %d of %d: %w", index, size, ErrNotFound)
	}
	text, err := readRecord(dir, index)
	if err != nil {
		return nil, err
	}
	return ParseEntry(text)
}

// found reads the entries at places of a segment and holds them against the
// key that led there.
func found(dir string, first, size uint64, places []uint32, by By, key digest.SHA256) ([]Found, error) {
	var out []Found
	for _, at := range places {
		index := first + uint64(at)
		if index >= size {
			continue
		}
		e, err := readEntry(dir, index, size)
		if err != nil {
			return nil, err
		}
		if keyOf(e, by) != key {
			return nil, damaged("the index leads to entry %d for a hash that it does not have", index)
		}
		out = append(out, Found{index, *e})
	}
	return out, nil
}

// find looks through segments, the latest first. recent has the keys of those
// without an index.
func find(dir string, size uint64, recent []*keys, by By, key digest.SHA256, limit int) ([]Found, error) {
	if by >= bys || key.IsZero() || limit <= 0 {
		return nil, fmt.Errorf("looking up verdict: %w", ErrNotFound)
	}
	var out []Found
	full := (size + SegmentEntries - 1) / SegmentEntries
	for n := full; n > 0 && len(out) < limit; n-- {
		first := (n - 1) * SegmentEntries
		var places []uint32
		var err error
		var k *keys
		for _, r := range recent {
			if r != nil && r.first == first {
				k = r
			}
		}
		if k != nil {
			places = k.find(by, key, limit-len(out))
		} else if places, err = findIn(dir, n-1, by, key, limit-len(out)); err != nil {
			return nil, err
		}
		more, err := found(dir, first, size, places, by, key)
		if err != nil {
			return nil, err
		}
		out = append(out, more...)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("looking up verdict %s: %w", key, ErrNotFound)
	}
	return out, nil
}

// proveInclusion returns a proof, checked, that an entry is under a
// checkpoint.
func proveInclusion(dir string, hashes io.ReaderAt, k log.Key, cp *log.Checkpoint, index uint64) (*log.Inclusion, error) {
	e, err := readEntry(dir, index, cp.Size)
	if err != nil {
		return nil, err
	}
	leaf, err := e.Leaf()
	if err != nil {
		return nil, err
	}
	path, err := inclusion(hashes, index, cp.Size)
	if err != nil {
		return nil, err
	}
	p := &log.Inclusion{Index: index, Hashes: path, Checkpoint: cp.Raw}
	if _, err := p.VerifyLeaf(leaf, k); err != nil {
		return nil, damaged("%w", err)
	}
	return p, nil
}

// proveConsistency returns a proof, checked, that a log has every entry of an
// earlier state of it.
func proveConsistency(hashes io.ReaderAt, k log.Key, cp *log.Checkpoint, earlier []byte) (*log.Consistency, error) {
	from, err := log.OpenCheckpoint(earlier, k)
	if err != nil {
		return nil, err
	}
	if from.Size > cp.Size {
		return nil, fmt.Errorf("proving consistency: the log has %d entries, the earlier checkpoint %d: %w", cp.Size, from.Size, log.ErrProof)
	}
	path, err := consistency(hashes, from.Size, cp.Size)
	if err != nil {
		return nil, err
	}
	p := &log.Consistency{Hashes: path, Earlier: earlier, Checkpoint: cp.Raw}
	_, _, err = p.Verify(k)
	return p, err
}

// Key returns the log's key.
func (j *Journal) Key() log.Key { return j.key }

// Size returns the number of durable entries.
func (j *Journal) Size() uint64 {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.size
}

// Checkpoint returns the latest published checkpoint.
func (j *Journal) Checkpoint() *log.Checkpoint {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.cp
}

// Entry returns the entry at an index.
func (j *Journal) Entry(index uint64) (*Entry, error) {
	return readEntry(j.o.Dir, index, j.Size())
}

// Find returns the entries with a hash, at most limit, the latest first; an
// ErrNotFound where there is none.
func (j *Journal) Find(by By, key digest.SHA256, limit int) ([]Found, error) {
	j.mu.RLock()
	size := j.size
	recent := []*keys{j.sealing.clone(), j.active.clone()}
	j.mu.RUnlock()
	return find(j.o.Dir, size, recent, by, key, limit)
}

// ProveInclusion returns a proof that the entry at an index is in the log. It
// publishes a checkpoint where none covers the entry yet.
func (j *Journal) ProveInclusion(index uint64) (*log.Inclusion, error) {
	cp := j.Checkpoint()
	if index >= cp.Size && index < j.Size() {
		var err error
		if cp, err = j.publish(); err != nil {
			return nil, err
		}
	}
	return proveInclusion(j.o.Dir, j.hashes, j.key, cp, index)
}

// ProveConsistency returns a proof that the log has every entry of the state
// that an earlier checkpoint, a signed note, describes.
func (j *Journal) ProveConsistency(earlier []byte) (*log.Consistency, error) {
	return proveConsistency(j.hashes, j.key, j.Checkpoint(), earlier)
}

// Reader reads a journal that another process may be appending to, as far as
// its checkpoint goes. It needs no private key.
type Reader struct {
	dir    string
	key    log.Key
	hashes *os.File
	cp     *log.Checkpoint
}

// OpenReader opens a journal for reading. Its checkpoint must be signed by the
// key in the directory.
func OpenReader(dir string) (*Reader, error) {
	k, err := readKey(dir)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	raw, err := os.ReadFile(checkpointPath(dir))
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	cp, err := log.OpenCheckpoint(raw, k)
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	f, err := os.Open(filepath.Join(dir, hashesFile))
	if err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	return &Reader{dir: dir, key: k, hashes: f, cp: cp}, nil
}

// Close lets go of the files.
func (r *Reader) Close() error { return r.hashes.Close() }

// Key returns the log's key.
func (r *Reader) Key() log.Key { return r.key }

// Checkpoint returns the checkpoint that bounds what is read.
func (r *Reader) Checkpoint() *log.Checkpoint { return r.cp }

// Entry returns the entry at an index.
func (r *Reader) Entry(index uint64) (*Entry, error) { return readEntry(r.dir, index, r.cp.Size) }

// Find is Journal.Find.
func (r *Reader) Find(by By, key digest.SHA256, limit int) ([]Found, error) {
	var recent []*keys
	// The last segments may have no index yet.
	for n := (r.cp.Size + SegmentEntries - 1) / SegmentEntries; n > 0 && len(recent) < 3; n-- {
		if _, err := os.Stat(indexPath(r.dir, n-1)); err == nil {
			break
		}
		s, err := scanSegment(r.dir, n-1, r.cp.Size-(n-1)*SegmentEntries)
		if err != nil {
			return nil, err
		}
		k, err := readKeys(n-1, s.texts)
		if err != nil {
			return nil, err
		}
		recent = append(recent, k)
	}
	return find(r.dir, r.cp.Size, recent, by, key, limit)
}

// ProveInclusion is Journal.ProveInclusion under the checkpoint as it is.
func (r *Reader) ProveInclusion(index uint64) (*log.Inclusion, error) {
	return proveInclusion(r.dir, r.hashes, r.key, r.cp, index)
}

// ProveConsistency is Journal.ProveConsistency.
func (r *Reader) ProveConsistency(earlier []byte) (*log.Consistency, error) {
	return proveConsistency(r.hashes, r.key, r.cp, earlier)
}

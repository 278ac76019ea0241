package journal

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/transparency-dev/merkle/compact"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
)

// maxFailures bounds what a Report lists.
const maxFailures = 20

// Report is what Fsck found.
type Report struct {
	Origin string        `json:"origin"`
	Size   uint64        `json:"size"` // entries under the checkpoint
	Root   digest.SHA256 `json:"root"`
	Later  uint64        `json:"later"` // good entries that no checkpoint covers yet
	Torn   bool          `json:"torn"`  // after them the rest of a write that did not end; Open cuts it
	// Published is the number of entries under the published log's checkpoint;
	// nil where none is beside the journal.
	Published *uint64  `json:"published,omitempty"`
	Failures  []string `json:"failures"`
}

// Err returns an ErrDamaged with every failure, nil where there is none.
func (r *Report) Err() error {
	var errs []error
	for _, f := range r.Failures {
		errs = append(errs, fmt.Errorf("checking journal: %w: %s", ErrDamaged, f))
	}
	return errors.Join(errs...)
}

func (r *Report) fail(format string, args ...any) {
	if len(r.Failures) < maxFailures {
		r.Failures = append(r.Failures, fmt.Sprintf(format, args...))
	}
}

// Fsck reads the whole journal: every record and entry, the indexes and every
// node of the tree are held against what is computed from the entries, and the
// root against the checkpoint that the directory's key signed. It may run
// beside the process that appends. The error says why it could not look.
func Fsck(dir string) (*Report, error) {
	r, err := OpenReader(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }() // only read
	rep := &Report{Origin: r.cp.Origin, Size: r.cp.Size, Root: r.cp.Root, Failures: []string{}}
	n, err := countSegments(dir)
	if errors.Is(err, ErrDamaged) {
		rep.fail("%v", err)
		return rep, nil
	}
	if err != nil {
		return nil, err
	}
	if want := (r.cp.Size + SegmentEntries - 1) / SegmentEntries; n < want {
		rep.fail("%d segments are there, want %d", n, want)
		return rep, nil
	}
	f := ranges.NewEmptyRange(0)
	for i := range n {
		if err := rep.segment(r, f, i, i+1 == n); err != nil {
			return nil, err
		}
	}
	if f.End() < r.cp.Size {
		rep.fail("%d entries are good, %d are under the checkpoint", f.End(), r.cp.Size)
	}
	if r.cp.Size == 0 && r.cp.Root != digest.Sum256(nil) {
		rep.fail("the checkpoint of an empty log has root %s", r.cp.Root)
	}
	return rep, rep.published(r)
}

// published checks the published log, and that it is the beginning of the
// journal.
func (rep *Report) published(r *Reader) error {
	dir := filepath.Join(r.dir, LogDir)
	if _, err := os.Stat(filepath.Join(dir, tiles.KeyFile)); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	l, err := tiles.Open(dir)
	if err != nil {
		rep.fail("the published log: %v", err)
		return nil
	}
	ctx := context.Background()
	cp, err := l.Checkpoint(ctx)
	if err == nil {
		err = l.Fsck(ctx)
	}
	if err != nil {
		rep.fail("the published log: %v", err)
		return nil
	}
	rep.Published = &cp.Size
	if l.Key().String() != r.key.String() {
		rep.fail("the published log is of %s, the journal of %s", l.Key().ID(), r.key.ID())
		return nil
	}
	f, err := frontierAt(r.hashes, cp.Size)
	if err != nil {
		rep.fail("the published log has %d entries, which the journal has not: %v", cp.Size, err)
		return nil
	}
	root, err := rootOf(f)
	if err == nil && root != cp.Root {
		rep.fail("the published log of %d entries has root %s, the journal %s", cp.Size, cp.Root, root)
	}
	return err
}

// segment checks one segment, its index and its nodes, and adds its entries to
// the tree.
func (rep *Report) segment(r *Reader, f *compact.Range, n uint64, last bool) error {
	if f.End() != n*SegmentEntries {
		return nil // an earlier one is short, which is a failure already
	}
	s, err := scanSegment(r.dir, n, SegmentEntries)
	if errors.Is(err, ErrDamaged) {
		rep.fail("%v", err)
		return nil
	}
	if err != nil {
		return err
	}
	if !last && s.good != SegmentEntries {
		rep.fail("segment %d: record %d is bad", n, n*SegmentEntries+s.good)
	}
	k, err := readKeys(n, s.texts)
	if err != nil {
		rep.fail("%v", err)
		return nil
	}
	rep.index(r.dir, n, k)
	first, covered := f.End(), nodesLen(r.cp.Size)
	var nodes []byte
	for i := range s.good {
		leaf := log.HashLeaf(entryText(s.texts[i*EntrySize : (i+1)*EntrySize]))
		if err := f.Append(leaf[:], func(_ compact.NodeID, h []byte) { nodes = append(nodes, h...) }); err != nil {
			return fmt.Errorf("checking journal: %w", err)
		}
		if f.End() == r.cp.Size {
			root, err := rootOf(f)
			if err != nil {
				return err
			}
			if root != r.cp.Root {
				rep.fail("the entries' root is %s, %s was signed", root, r.cp.Root)
			}
		}
	}
	// Nodes that no checkpoint covers may still be on their way.
	at := nodesLen(first)
	nodes = nodes[:max(0, min(int64(len(nodes)), covered-at))]
	have := make([]byte, len(nodes))
	if got, err := r.hashes.ReadAt(have, at); err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("checking journal: %w", err)
	} else if got < len(nodes) || !bytes.Equal(have, nodes) {
		rep.fail("nodes %d to %d of the tree differ from the entries", at/sha256.Size, at/sha256.Size+int64(len(nodes)/sha256.Size))
	}
	if last {
		rep.Torn = s.torn
		if f.End() > r.cp.Size {
			rep.Later = f.End() - r.cp.Size
		}
	}
	return nil
}

// index holds a full segment's index against its entries. One that is missing
// is written when the journal is opened.
func (rep *Report) index(dir string, n uint64, k *keys) {
	b, err := os.ReadFile(indexPath(dir, n))
	if errors.Is(err, os.ErrNotExist) {
		return
	}
	if err != nil || k.len() != SegmentEntries || !bytes.Equal(b, k.index()) {
		rep.fail("the index of segment %d differs from its entries", n)
	}
}

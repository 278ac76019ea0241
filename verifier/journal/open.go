package journal

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// KeyFile is the file that holds the log's verifier key. Who relies on the log
// has the key from elsewhere.
const KeyFile = "log.pub"

func checkpointPath(dir string) string { return filepath.Join(dir, "checkpoint") }

func segmentsDir(dir string) string { return filepath.Join(dir, "segments") }

// signCheckpoint writes a checkpoint (C2SP tlog-checkpoint).
func signCheckpoint(s note.Signer, origin string, size uint64, root digest.SHA256) ([]byte, error) {
	text := fmt.Sprintf("%s\n%d\n%s\n", origin, size, base64.StdEncoding.EncodeToString(root[:]))
	raw, err := note.Sign(&note.Note{Text: text}, s)
	if err != nil {
		return nil, fmt.Errorf("signing checkpoint: %w", err)
	}
	return raw, nil
}

// Open opens a journal to append to, makes a new one where the directory is
// empty, and puts in order what a crash left: the rest of a write that did not
// end is cut. It refuses a journal that lost something durable (ErrDamaged).
func Open(o Options) (*Journal, error) {
	if len(o.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("opening journal: an Ed25519 key is needed")
	}
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.open == nil {
		o.open = openFile
	}
	j := &Journal{o: o, in: make(chan *pending, queueLength), quit: make(chan struct{}), done: make(chan struct{}), ticked: make(chan struct{})}
	var err error
	if j.key, err = log.NewKey(o.Origin, o.Key.Public().(ed25519.PublicKey)); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	if j.signer, err = log.Signer(o.Origin, o.Key); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	if err := os.MkdirAll(segmentsDir(o.Dir), 0o750); err != nil {
		return nil, fmt.Errorf("opening journal: %w", err)
	}
	if j.lock, err = lock(o.Dir); err != nil {
		return nil, err
	}
	if err := j.recover(); err != nil {
		errs := []error{fmt.Errorf("opening journal: %w", err), j.lock.Close()}
		for _, f := range []file{j.hashes, j.segment} {
			if f != nil {
				errs = append(errs, f.Close())
			}
		}
		return nil, errors.Join(errs...)
	}
	if o.Publish != nil {
		if err := j.startPublisher(); err != nil {
			errs := []error{fmt.Errorf("opening journal: %w", err), j.hashes.Close(), j.lock.Close()}
			return nil, errors.Join(errs...)
		}
	}
	go j.run()
	go j.tick()
	return j, nil
}

// recover reads what is there.
func (j *Journal) recover() error {
	n, err := countSegments(j.o.Dir)
	if err != nil {
		return err
	}
	cp, err := j.init(n)
	if err != nil {
		return err
	}
	tail, total, err := j.cutTail(n, cp.Size)
	if err != nil {
		return err
	}
	if j.hashes, err = j.o.open(filepath.Join(j.o.Dir, hashesFile)); err != nil {
		return err
	}
	if err := j.recoverTree(cp, total); err != nil {
		return err
	}
	if err := j.recoverIndexes(total); err != nil {
		return err
	}
	j.size, j.cp, j.active = total, cp, newKeys(total-total%SegmentEntries)
	if total%SegmentEntries != 0 {
		if j.active, err = readKeys(n-1, tail); err != nil {
			return err
		}
	}
	_, err = j.publish()
	return err
}

// init returns the checkpoint, a first one for a new journal. The key comes
// before the checkpoint and that before any entry, so that what is missing
// later was lost.
func (j *Journal) init(segments uint64) (*log.Checkpoint, error) {
	raw, err := os.ReadFile(checkpointPath(j.o.Dir))
	fresh := errors.Is(err, fs.ErrNotExist)
	if err != nil && !fresh {
		return nil, fmt.Errorf("reading checkpoint: %w", err)
	}
	if fresh && segments > 0 {
		return nil, damaged("there are entries and no checkpoint")
	}
	k, err := readKey(j.o.Dir)
	switch {
	case errors.Is(err, fs.ErrNotExist) && fresh:
		if err := replaceFile(filepath.Join(j.o.Dir, KeyFile), []byte(j.key.String()+"\n")); err != nil {
			return nil, err
		}
	case err != nil:
		return nil, err
	case k.String() != j.key.String():
		return nil, fmt.Errorf("the journal is of %s, the key of %s", k.ID(), j.key.ID())
	}
	if fresh {
		if raw, err = signCheckpoint(j.signer, j.key.Origin, 0, digest.Sum256(nil)); err != nil {
			return nil, err
		}
		if err := replaceFile(checkpointPath(j.o.Dir), raw); err != nil {
			return nil, err
		}
	}
	return log.OpenCheckpoint(raw, j.key)
}

// readKey reads the journal's verifier key.
func readKey(dir string) (log.Key, error) {
	b, err := os.ReadFile(filepath.Join(dir, KeyFile))
	if err != nil {
		return log.Key{}, fmt.Errorf("reading journal's key: %w", err)
	}
	line, ok := strings.CutSuffix(string(b), "\n")
	if !ok {
		return log.Key{}, fmt.Errorf("reading journal's key: %s has no line: %w", KeyFile, log.ErrForm)
	}
	return log.ParseKey(line)
}

// cutTail returns the entries of the last segment and the number of all, and
// cuts off the rest of a write that did not end. Nothing under a checkpoint is
// ever cut.
func (j *Journal) cutTail(n, durable uint64) (texts []byte, total uint64, err error) {
	for i := uint64(0); i+1 < n; i++ {
		st, err := os.Stat(segmentPath(j.o.Dir, i))
		if err != nil {
			return nil, 0, fmt.Errorf("reading segment: %w", err)
		}
		if st.Size() != SegmentEntries*recordSize {
			return nil, 0, damaged("segment %d of %d has %d bytes, want %d", i, n, st.Size(), SegmentEntries*recordSize)
		}
	}
	if n > 0 {
		s, err := scanSegment(j.o.Dir, n-1, SegmentEntries)
		if err != nil {
			return nil, 0, err
		}
		texts, total = s.texts, (n-1)*SegmentEntries+s.good
		if s.torn && total >= durable {
			if err := j.truncateTail(n-1, s.good); err != nil {
				return nil, 0, err
			}
			j.o.Log.Warn("journal: cut off a write that had not ended", "entries", total)
		}
	}
	if total < durable {
		return nil, 0, damaged("%d entries are left, %d were under a checkpoint", total, durable)
	}
	return texts, total, nil
}

func (j *Journal) truncateTail(n, good uint64) error {
	f, err := j.o.open(segmentPath(j.o.Dir, n))
	if err != nil {
		return err
	}
	err = f.Truncate(int64(good) * recordSize)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return fmt.Errorf("cutting segment: %w", err)
	}
	return nil
}

// recoverTree brings the file of hashes to the number of entries. What it has
// counts where it leads to the signed root; else all of it is computed from
// the entries, which must lead there.
func (j *Journal) recoverTree(cp *log.Checkpoint, total uint64) (err error) {
	if j.frontier, err = frontierAt(j.hashes, cp.Size); err == nil {
		root, err := rootOf(j.frontier)
		if err != nil {
			return err
		}
		if root == cp.Root {
			return j.addLeaves(total)
		}
	}
	j.o.Log.Warn("journal: computing the tree again", "entries", total)
	j.frontier = ranges.NewEmptyRange(0)
	if err := j.addLeaves(cp.Size); err != nil {
		return err
	}
	root, err := rootOf(j.frontier)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return damaged("the entries' root is %s, %s was signed", root, cp.Root)
	}
	return j.addLeaves(total)
}

// addLeaves brings the tree from where it is to a number of entries.
func (j *Journal) addLeaves(total uint64) error {
	if err := j.hashes.Truncate(nodesLen(j.frontier.End())); err != nil {
		return fmt.Errorf("cutting file of hashes: %w", err)
	}
	for j.frontier.End() < total {
		from := j.frontier.End()
		s, err := scanSegment(j.o.Dir, from/SegmentEntries, SegmentEntries)
		if err != nil {
			return err
		}
		start := from % SegmentEntries
		end := min(SegmentEntries, total-(from-start))
		if s.good < end {
			return damaged("segment %d has %d good records, want %d", from/SegmentEntries, s.good, end)
		}
		var leaves []digest.SHA256
		for i := start; i < end; i++ {
			leaves = append(leaves, log.HashLeaf(entryText(s.texts[i*EntrySize:(i+1)*EntrySize])))
		}
		next, nodes, err := grow(j.frontier, leaves)
		if err != nil {
			return err
		}
		if _, err := j.hashes.WriteAt(nodes, nodesLen(from)); err != nil {
			return fmt.Errorf("writing tree: %w", err)
		}
		j.frontier = next
	}
	return nil
}

// recoverIndexes writes the indexes of full segments that have none.
func (j *Journal) recoverIndexes(total uint64) error {
	for n := range total / SegmentEntries {
		if st, err := os.Stat(indexPath(j.o.Dir, n)); err == nil && st.Size() == int64(bys)*SegmentEntries*indexRow {
			continue
		}
		s, err := scanSegment(j.o.Dir, n, SegmentEntries)
		if err != nil {
			return err
		}
		k, err := readKeys(n, s.texts)
		if err != nil {
			return err
		}
		if k.len() != SegmentEntries {
			return damaged("segment %d has %d good records", n, k.len())
		}
		if err := replaceFile(indexPath(j.o.Dir, n), k.index()); err != nil {
			return err
		}
	}
	return nil
}

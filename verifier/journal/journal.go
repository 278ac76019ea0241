// Package journal is the verifier's log of the verdicts it gave: append only,
// durable before a verdict is handed out, and a Merkle tree (RFC 6962) under
// signed checkpoints (C2SP tlog-checkpoint), so that a verdict can be proven to
// be in it and a change of the past is seen by whoever kept a checkpoint.
//
// In come entries, hashes of verdicts and of manifests; out go indexes, promises,
// and the proofs that package measurements/log checks. What is durable here is
// published as a log of tiles (Publish). Many appends share one sync of the
// disk. A crash at any moment loses no entry that Append returned for. A
// directory has
//
//	log.pub      the log's verifier key (C2SP signed-note)
//	checkpoint   the latest signed checkpoint
//	segments/    NNNNNNNNNN.log: records of SegmentEntries entries each;
//	             NNNNNNNNNN.idx: the sorted hashes of a full one
//	hashes       the nodes of the tree; computed again where it is lost
//	lock         taken by the one process that appends
//	log/         the published log (C2SP tlog-tiles)
package journal

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/transparency-dev/merkle/compact"
	"golang.org/x/mod/sumdb/note"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// Defaults and limits of a journal.
const (
	DefaultInterval = time.Second // between checkpoints
	maxGroup        = 1024        // entries of one write
	// Commits begin that far apart: a sync costs the machine as much as a verdict or
	// two, and on a fast disk there would be one for every few entries. Who comes when
	// there was none lately waits for nobody.
	pace        = 2 * time.Millisecond
	queueLength = 4096 // appends that wait
)

// ErrClosed is returned by Append after Close.
var ErrClosed = errors.New("journal is closed")

// Options of a Journal.
type Options struct {
	Dir      string             // made where it does not exist
	Origin   string             // the log's name, a URL without a scheme
	Key      ed25519.PrivateKey // signs checkpoints and promises
	Interval time.Duration      // between checkpoints; 0: DefaultInterval
	Promises bool               // Append signs a promise for each entry
	Publish  *Publish           // nil: entries stay here
	Log      *slog.Logger       // nil: nothing is logged

	open func(path string) (file, error) // nil: openFile
}

// Journal is a journal that this process appends to. Its methods may be called
// at the same time.
type Journal struct {
	o      Options
	key    log.Key
	signer note.Signer
	lock   *os.File
	hashes file

	in        chan *pending
	quit      chan struct{} // closed by Close
	done      chan struct{} // closed when nothing is written any more
	closeOnce sync.Once
	closeErr  error

	mu sync.RWMutex
	// Size, frontier, active and sealing are written by the committer alone,
	// who reads them freely.
	size     uint64         // durable entries
	frontier *compact.Range // of size entries
	active   *keys          // of the segment that is written
	sealing  *keys          // of the one before, until its index is there
	broken   error          // why nothing can be appended any more
	cp       *log.Checkpoint

	segment   file // that is written; nil: none is open
	sealDone  chan error
	ticked    chan struct{} // closed when tick has ended
	publishMu sync.Mutex
	closed    bool // nothing is published any more; publishMu protects it
	publisher *publisher
}

type pending struct {
	entry Entry
	text  []byte
	index uint64
	group *group // that it was committed with
	err   error
	done  chan struct{}
	next  *pending    // of the same group
	taken atomic.Bool // a group has it: it will be done
}

// pass says to the next of the group that it is done. One wakes the next so that
// each goes on at once: woken together, all but one would stand behind whatever
// else the process has to do, and under overload that is much.
func (p *pending) pass() {
	if p.next != nil {
		close(p.next.done)
	}
}

// Receipt says where an entry is.
type Receipt struct {
	Index   uint64        `json:"index"`
	Leaf    digest.SHA256 `json:"leaf"`              // its hash in the tree
	Promise []byte        `json:"promise,omitempty"` // see Promise; with Options.Promises
}

// Append puts an entry into the journal and returns when it is durable. Hand
// out a verdict only after that, and only where there is no error: then
// nobody knows whether the entry is there.
func (j *Journal) Append(ctx context.Context, e Entry) (*Receipt, error) {
	text, err := e.Text()
	if err != nil {
		return nil, err
	}
	p := &pending{entry: e, text: text, done: make(chan struct{})}
	select {
	case <-j.quit: // select below would take either
		return nil, fmt.Errorf("appending to journal: %w", ErrClosed)
	default:
	}
	select {
	case j.in <- p:
	case <-j.quit:
		return nil, fmt.Errorf("appending to journal: %w", ErrClosed)
	case <-ctx.Done():
		return nil, fmt.Errorf("appending to journal: %w", ctx.Err())
	}
	select {
	case <-p.done:
	case <-ctx.Done():
		go func() { // the others of its group wait
			if j.await(p) {
				p.pass()
			}
		}()
		return nil, fmt.Errorf("appending to journal: %w", ctx.Err())
	case <-j.done:
		if !j.await(p) {
			return nil, fmt.Errorf("appending to journal: %w", ErrClosed)
		}
	}
	p.pass()
	if p.err != nil {
		return nil, p.err
	}
	r := &Receipt{Index: p.index, Leaf: p.group.leaves[p.index-p.group.first]}
	if j.o.Promises {
		if r.Promise, err = j.promise(p.group, p.index); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// await waits until an entry is done; false where the journal ended before it
// took the entry.
func (j *Journal) await(p *pending) bool {
	select {
	case <-p.done:
		return true
	case <-j.done:
	}
	if !p.taken.Load() {
		return false
	}
	<-p.done
	return true
}

// run commits what is appended, as much at a time as there is.
func (j *Journal) run() {
	defer close(j.done)
	var latest time.Time // when the latest commit began
	for {
		var first *pending
		select {
		case first = <-j.in:
		case <-j.quit:
			select {
			case first = <-j.in: // came before the end
			default:
				return
			}
		}
		time.Sleep(time.Until(latest.Add(pace)))
		latest = time.Now()
		batch := []*pending{first}
		room := int(min(maxGroup, SegmentEntries-j.size%SegmentEntries))
	gather:
		for len(batch) < room {
			select {
			case p := <-j.in:
				batch = append(batch, p)
			default:
				break gather
			}
		}
		err := j.commit(batch)
		if err != nil {
			j.o.Log.Error("journal cannot append", "entries", len(batch), "error", err)
		}
		for i, p := range batch {
			p.err = err
			p.taken.Store(true)
			if i > 0 {
				batch[i-1].next = p
			}
		}
		close(first.done)
	}
}

// commit writes a group of entries of one segment and makes it durable: all
// of it or, with an error, nothing that counts.
func (j *Journal) commit(batch []*pending) error {
	if err := j.Err(); err != nil {
		return fmt.Errorf("appending to journal: it failed before: %w", err)
	}
	if err := j.openSegment(); err != nil {
		return err
	}
	first := j.size
	leaves := make([]digest.SHA256, len(batch))
	records := make([]byte, 0, len(batch)*recordSize)
	for i, p := range batch {
		leaves[i] = log.HashLeaf(p.text) // before it is padded
		records = appendRecord(records, first+uint64(i), first, p.text)
	}
	frontier, nodes, err := grow(j.frontier, leaves)
	if err != nil {
		return err
	}
	at := int64(first%SegmentEntries) * recordSize
	if _, err = j.hashes.WriteAt(nodes, nodesLen(first)); err == nil {
		_, err = j.segment.WriteAt(records, at)
	}
	if err != nil {
		// A full disk, mostly: what was written goes, and the next group tries
		// again.
		if e := errors.Join(j.segment.Truncate(at), j.hashes.Truncate(nodesLen(first))); e != nil {
			err = j.breakDown(errors.Join(err, e))
		}
		return fmt.Errorf("appending to journal: %w", err)
	}
	if err := j.segment.Sync(); err != nil {
		// What the disk has is unknown now, and a second sync would not tell
		// (fsync(2), ERRORS): only opening the journal again does.
		return fmt.Errorf("appending to journal: %w", j.breakDown(err))
	}
	defer j.notifyPublisher()
	j.mu.Lock()
	defer j.mu.Unlock()
	j.size, j.frontier = first+uint64(len(batch)), frontier
	g := &group{first: first, leaves: leaves}
	for i, p := range batch {
		p.index, p.group = first+uint64(i), g
		j.active.add(&p.entry)
	}
	return nil
}

func (j *Journal) breakDown(err error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.broken = err
	return err
}

// openSegment makes sure that there is a segment with room. The index of a
// full one is written while the next is filled.
func (j *Journal) openSegment() error {
	if j.active.len() == SegmentEntries {
		if err := j.sealed(); err != nil {
			return err
		}
		full := j.active
		j.mu.Lock()
		j.sealing, j.active = full, newKeys(j.size)
		j.mu.Unlock()
		j.startSealing()
		segment := j.segment
		j.segment = nil
		if segment != nil {
			if err := segment.Close(); err != nil { // it is durable
				j.o.Log.Warn("closing segment failed", "error", err)
			}
		}
	}
	if j.segment != nil {
		return nil
	}
	path := segmentPath(j.o.Dir, j.size/SegmentEntries)
	f, err := j.o.open(path)
	if err != nil {
		return fmt.Errorf("appending to journal: %w", err)
	}
	if err := syncDir(segmentsDir(j.o.Dir)); err != nil {
		return errors.Join(err, f.Close())
	}
	j.segment = f
	return nil
}

func (j *Journal) startSealing() {
	k, done := j.sealing, make(chan error, 1)
	j.sealDone = done
	go func() { done <- replaceFile(indexPath(j.o.Dir, k.first/SegmentEntries), k.index()) }()
}

// sealed waits until the segment before the active one has its index, and
// tries again where it could not be written.
func (j *Journal) sealed() error {
	if j.sealDone == nil {
		return nil
	}
	if err := <-j.sealDone; err != nil {
		j.startSealing()
		return fmt.Errorf("appending to journal: writing index: %w", err)
	}
	j.sealDone = nil
	j.mu.Lock()
	j.sealing = nil
	j.mu.Unlock()
	return nil
}

// publish signs a checkpoint over all that is durable, where it is new.
func (j *Journal) publish() (*log.Checkpoint, error) {
	j.publishMu.Lock()
	defer j.publishMu.Unlock()
	j.mu.RLock()
	cp, frontier := j.cp, j.frontier
	j.mu.RUnlock()
	if cp != nil && cp.Size == frontier.End() {
		return cp, nil
	}
	if j.closed { // the directory may be another's by now
		return nil, fmt.Errorf("publishing checkpoint: %w", ErrClosed)
	}
	root, err := rootOf(frontier)
	if err != nil {
		return nil, err
	}
	raw, err := signCheckpoint(j.signer, j.key.Origin, frontier.End(), root)
	if err != nil {
		return nil, err
	}
	if cp, err = log.OpenCheckpoint(raw, j.key); err != nil {
		return nil, err
	}
	if err := j.hashes.Sync(); err != nil {
		return nil, fmt.Errorf("publishing checkpoint: %w", j.breakDown(err))
	}
	if err := replaceFile(checkpointPath(j.o.Dir), raw); err != nil {
		return nil, fmt.Errorf("publishing checkpoint: %w", err)
	}
	j.mu.Lock()
	j.cp = cp
	j.mu.Unlock()
	return cp, nil
}

// tick publishes checkpoints until the journal is closed.
func (j *Journal) tick() {
	defer close(j.ticked)
	t := time.NewTicker(j.o.Interval)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if _, err := j.publish(); err != nil {
				j.o.Log.Error("journal cannot publish a checkpoint", "error", err)
			}
		case <-j.done:
			return
		}
	}
}

// Err returns why nothing can be appended any more, nil while it can.
func (j *Journal) Err() error {
	j.mu.RLock()
	defer j.mu.RUnlock()
	return j.broken
}

// Close appends what waits, publishes a checkpoint over all of it and lets go
// of the directory.
func (j *Journal) Close() error {
	j.closeOnce.Do(func() {
		close(j.quit)
		<-j.done
		<-j.ticked
		var errs []error
		if j.Err() == nil {
			_, err := j.publish()
			errs = append(errs, err, j.sealed())
		}
		errs = append(errs, j.endPublisher())
		if j.segment != nil {
			errs = append(errs, j.segment.Close())
		}
		j.publishMu.Lock()
		defer j.publishMu.Unlock()
		j.closed = true
		errs = append(errs, j.hashes.Close(), j.lock.Close())
		if err := errors.Join(errs...); err != nil {
			j.closeErr = fmt.Errorf("closing journal: %w", err)
		}
	})
	return j.closeErr
}

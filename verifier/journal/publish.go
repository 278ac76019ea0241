package journal

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/transparency-dev/tessera"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
	"cocoon/measurements/log/tiles"
)

// Publish says how a journal's entries are published: as a log of C2SP
// tlog-tiles, which monitors read. The journal is its write-ahead log. Entries
// stand at the same index in both, and checkpoints of both are of one tree, so
// a promise is one of the published log.
type Publish struct {
	Driver    tessera.Driver // nil: files in the directory "log"
	Interval  time.Duration  // between checkpoints; 0: tiles.DefaultInterval
	Witnesses []byte         // see tiles.WriterOptions
}

// LogDir is the directory, below the journal's, of the published log.
const LogDir = "log"

// Times of the publisher.
const (
	// One write has what came in this time. Each costs tessera a dozen files, which
	// it syncs on the disk that verdicts wait for; a proof comes within two seconds
	// (a checkpoint is made each second) all the same.
	gather       = 300 * time.Millisecond
	publishRetry = time.Second
)

// PublishedWithin is how long after an entry is durable a checkpoint covers it,
// at the default interval: gathering, and the wait for the next checkpoint. What
// disk, storage and witnesses take comes on top.
const PublishedWithin = gather + tiles.DefaultInterval

// publisher copies durable entries into the published log.
type publisher struct {
	w    *tiles.Writer
	wake chan struct{}
	quit chan struct{} // closed: copy what is there, then end
	done chan struct{}
	next uint64
}

// startPublisher opens the published log and checks that it is the journal's.
func (j *Journal) startPublisher() error {
	o := tiles.WriterOptions{Dir: filepath.Join(j.o.Dir, LogDir), Origin: j.o.Origin, Key: j.o.Key,
		Driver: j.o.Publish.Driver, Interval: j.o.Publish.Interval, Witnesses: j.o.Publish.Witnesses}
	w, err := tiles.OpenWriter(o)
	if err != nil {
		return err
	}
	p := &publisher{w: w, wake: make(chan struct{}, 1), quit: make(chan struct{}), done: make(chan struct{})}
	if err := j.checkPublished(p); err != nil {
		return errors.Join(err, w.Close())
	}
	j.publisher = p
	go j.copyEntries(p)
	return nil
}

// checkPublished holds what was published against the journal: it must be the
// beginning of it.
func (j *Journal) checkPublished(p *publisher) error {
	ctx := context.Background()
	var err error
	if p.next, err = p.w.Next(ctx); err != nil {
		return err
	}
	if p.next > j.size {
		return damaged("%d entries are published, the journal has %d", p.next, j.size)
	}
	cp, err := p.w.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if cp.Size > p.next {
		return damaged("a checkpoint of %d entries is published, the log has %d", cp.Size, p.next)
	}
	f, err := frontierAt(j.hashes, cp.Size)
	if err != nil {
		return err
	}
	root, err := rootOf(f)
	if err != nil {
		return err
	}
	if root != cp.Root {
		return damaged("the published log of %d entries has root %s, the journal %s", cp.Size, cp.Root, root)
	}
	return nil
}

// copyEntries copies entries until the journal is closed, and then the rest.
func (j *Journal) copyEntries(p *publisher) {
	defer close(p.done)
	for {
		err := j.copySome(p)
		if err != nil {
			j.o.Log.Error("journal cannot publish entries", "from", p.next, "error", err)
		}
		wait := time.NewTimer(gather)
		if err != nil {
			wait.Reset(publishRetry)
		}
		if err == nil && p.next == j.Size() {
			select {
			case <-p.wake:
			case <-p.quit:
				if p.next == j.Size() {
					return
				}
				continue
			}
		}
		select {
		case <-wait.C:
		case <-p.quit:
			if err != nil {
				return // it is durable here, and published after the next start
			}
		}
	}
}

// copySome copies all that is there.
func (j *Journal) copySome(p *publisher) error {
	ctx := context.Background()
	for size := j.Size(); p.next < size; {
		entries, err := readTexts(j.o.Dir, p.next, min(size-p.next, tiles.MaxBatch))
		if err != nil {
			return err
		}
		if err := p.w.Append(ctx, p.next, entries); err != nil {
			if n, e := p.w.Next(ctx); e == nil && n >= p.next && n <= size {
				p.next = n
			}
			return err
		}
		p.next += uint64(len(entries))
	}
	return nil
}

// readTexts reads entries' texts from one segment.
func readTexts(dir string, first, n uint64) ([][]byte, error) {
	n = min(n, SegmentEntries-first%SegmentEntries)
	f, err := os.Open(segmentPath(dir, first/SegmentEntries))
	if err != nil {
		return nil, fmt.Errorf("opening segment: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	b := make([]byte, n*recordSize)
	if _, err := io.ReadFull(io.NewSectionReader(f, int64(first%SegmentEntries)*recordSize, int64(len(b))), b); err != nil {
		return nil, fmt.Errorf("reading records: %w", err)
	}
	out := make([][]byte, n)
	for i := range out {
		_, text, err := parseRecord(b[i*recordSize:(i+1)*recordSize], first+uint64(i))
		if err != nil {
			return nil, damaged("%w", err)
		}
		out[i] = entryText(text)
	}
	return out, nil
}

// endPublisher copies what is there and closes the published log.
func (j *Journal) endPublisher() error {
	if j.publisher == nil {
		return nil
	}
	close(j.publisher.quit)
	<-j.publisher.done
	return j.publisher.w.Close()
}

// notifyPublisher says that there is more.
func (j *Journal) notifyPublisher() {
	if j.publisher == nil {
		return
	}
	select {
	case j.publisher.wake <- struct{}{}:
	default:
	}
}

// ErrNotPublished is returned for entries that no published checkpoint covers
// yet.
var ErrNotPublished = tiles.ErrNotPublished

// ProvePublished returns a proof that an entry is under the latest published
// checkpoint, cosigned where witnesses are configured.
func (j *Journal) ProvePublished(ctx context.Context, index uint64, leaf digest.SHA256) (*log.Inclusion, error) {
	if j.publisher == nil {
		return nil, ErrNotPublished
	}
	return j.publisher.w.ProveLeaf(ctx, index, leaf)
}

// ReadPublished returns the part of the published log that a path of C2SP
// tlog-tiles names, fs.ErrNotExist where it names none.
func (j *Journal) ReadPublished(ctx context.Context, path string) ([]byte, error) {
	if j.publisher == nil {
		return nil, fs.ErrNotExist
	}
	return j.publisher.w.Read(ctx, path)
}

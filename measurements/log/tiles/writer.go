package tiles

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/transparency-dev/tessera"
	"github.com/transparency-dev/tessera/api/layout"
	"github.com/transparency-dev/tessera/storage/posix"
	"k8s.io/klog/v2"

	"cocoon/measurements/log"
)

// Defaults and bounds of a Writer.
const (
	DefaultInterval = time.Second // between checkpoints
	MaxBatch        = 1024        // entries that one Append takes
	witnessTimeout  = 5 * time.Second
	closeTimeout    = 10 * time.Second
	gcInterval      = 5 * time.Second // of partial tiles, a hundred bundles each time
)

// WriterOptions say where a Writer writes.
type WriterOptions struct {
	Dir    string // made where it does not exist; not used with a Driver
	Origin string
	Key    ed25519.PrivateKey
	// Driver is another storage of tessera's: the same code with a cloud's.
	Driver   tessera.Driver
	Interval time.Duration // between checkpoints; 0: DefaultInterval
	// Witnesses is a policy of witnesses in sigsum's format, as tessera reads it:
	// a checkpoint is published when they have cosigned it (C2SP tlog-witness,
	// tlog-cosignature). Empty: nobody is asked.
	Witnesses []byte
}

// Writer appends entries to a log for an owner who gives each its index: it is
// the one that appends, and in order. Its methods but Append may be called at
// the same time.
type Writer struct {
	*Log
	reader   tessera.LogReader
	add      tessera.AddFn
	shutdown func(context.Context) error
	cancel   context.CancelFunc
	once     sync.Once
	err      error
}

// OpenWriter opens a log for its owner, and makes it where there is none.
func OpenWriter(o WriterOptions) (*Writer, error) {
	if len(o.Key) != ed25519.PrivateKeySize {
		return nil, errors.New("opening log: an Ed25519 key is needed")
	}
	k, err := log.NewKey(o.Origin, o.Key.Public().(ed25519.PublicKey))
	if err != nil {
		return nil, err
	}
	signer, err := log.Signer(o.Origin, o.Key)
	if err != nil {
		return nil, err
	}
	if o.Interval <= 0 {
		o.Interval = DefaultInterval
	}
	if o.Driver == nil {
		if err := o.directory(k); err != nil {
			return nil, err
		}
	}
	// The storage's goroutines end with this context.
	ctx, cancel := context.WithCancel(context.Background())
	w := &Writer{cancel: cancel}
	if err := w.open(ctx, &o, tessera.NewAppendOptions().WithCheckpointSigner(signer).WithCheckpointInterval(o.Interval).
		WithBatching(MaxBatch, batchAge).WithGarbageCollectionInterval(gcInterval)); err != nil {
		cancel()
		return nil, fmt.Errorf("opening log: %w", err)
	}
	w.Log = &Log{dir: o.Dir, key: k, f: w.reader}
	if err := w.begun(ctx); err != nil {
		cancel()
		return nil, err
	}
	return w, nil
}

// begun waits until there is a checkpoint: a storage may take a while for the
// first. It may be of another key.
func (w *Writer) begun(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for {
		_, err := w.Checkpoint(ctx)
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		select {
		case <-time.After(pollInterval):
		case <-ctx.Done():
			return err
		}
	}
}

// directory makes the log where there is none. A first checkpoint, of nothing,
// needs no witness.
func (o *WriterOptions) directory(k log.Key) error {
	l, err := Open(o.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		if l, err = Init(context.Background(), o.Dir, o.Origin, o.Key); errors.Is(err, ErrExists) {
			return fmt.Errorf("opening log: its key is there, its checkpoint is not: %w", err)
		}
	}
	if err != nil {
		return err
	}
	if l.key.String() != k.String() {
		return fmt.Errorf("opening log: it is of %s, the key of %s", l.key.ID(), k.ID())
	}
	return nil
}

func (w *Writer) open(ctx context.Context, o *WriterOptions, opts *tessera.AppendOptions) error {
	if len(o.Witnesses) > 0 {
		group, err := tessera.NewWitnessGroupFromPolicy(o.Witnesses)
		if err != nil {
			return fmt.Errorf("reading policy of witnesses: %w", err)
		}
		opts = opts.WithWitnesses(group, &tessera.WitnessOptions{Timeout: witnessTimeout})
	}
	driver := o.Driver
	if driver == nil {
		var err error
		if driver, err = posix.New(ctx, posix.Config{Path: o.Dir}); err != nil {
			return err
		}
	}
	appender, shutdown, reader, err := tessera.NewAppender(ctx, driver, opts)
	if err != nil {
		return err
	}
	w.add, w.shutdown, w.reader = appender.Add, shutdown, reader
	return nil
}

// Next returns the index of the next entry: how many the storage has, whether
// or not a checkpoint covers them.
func (w *Writer) Next(ctx context.Context) (uint64, error) {
	n, err := w.reader.NextIndex(ctx)
	if err != nil {
		return 0, fmt.Errorf("reading size of log: %w", err)
	}
	return n, nil
}

// Append puts at most MaxBatch entries into the log and returns when they are
// durable and in the tree. They must come to stand at index first and on.
// After an error Next says how many did.
func (w *Writer) Append(ctx context.Context, first uint64, entries [][]byte) error {
	if len(entries) > MaxBatch {
		return fmt.Errorf("appending to log: %d entries, limit %d", len(entries), MaxBatch)
	}
	futures := make([]tessera.IndexFuture, len(entries))
	for i, e := range entries {
		futures[i] = w.add(ctx, tessera.NewEntry(e))
	}
	var errs []error
	for i, f := range futures {
		at, err := f()
		switch {
		case err != nil:
			errs = append(errs, err)
		case at.Index != first+uint64(i):
			return fmt.Errorf("appending to log: entry %d came to stand at %d: %w", first+uint64(i), at.Index, ErrOrder)
		}
	}
	if len(errs) > 0 {
		return fmt.Errorf("appending to log: %w", errs[0])
	}
	return nil
}

// ErrOrder is returned where a log has other entries than its owner gave it.
var ErrOrder = errors.New("the log is not its owner's")

// Close waits for a while until a checkpoint covers what was appended, and
// ends.
func (w *Writer) Close() error {
	w.once.Do(func() {
		ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
		defer cancel()
		if err := w.shutdown(ctx); err != nil {
			w.err = fmt.Errorf("closing log: %w", err)
		}
		w.cancel()
	})
	return w.err
}

// Quiet keeps the storage library, which writes progress to standard error,
// from doing so, for the whole process: it has no other means than its own
// globals.
func Quiet() {
	klog.LogToStderr(false)
	klog.SetOutput(io.Discard)
}

// Paths of C2SP tlog-tiles.
const (
	checkpointPath = "/checkpoint"
	tilePath       = "/tile/"
	entriesPath    = "/tile/entries/"
)

// Read returns the part of the log that a request's path names (C2SP
// tlog-tiles), from whatever storage there is; fs.ErrNotExist where it names
// none.
func (w *Writer) Read(ctx context.Context, path string) ([]byte, error) {
	if path == checkpointPath {
		return w.reader.ReadCheckpoint(ctx)
	}
	if at, ok := strings.CutPrefix(path, entriesPath); ok {
		index, partial, err := layout.ParseTileIndexPartial(at)
		if err != nil {
			return nil, fs.ErrNotExist
		}
		return w.reader.ReadEntryBundle(ctx, index, partial)
	}
	at, ok := strings.CutPrefix(path, tilePath)
	level, index, _ := strings.Cut(at, "/")
	l, i, partial, err := layout.ParseTileLevelIndexPartial(level, index)
	if !ok || err != nil {
		return nil, fs.ErrNotExist
	}
	return w.reader.ReadTile(ctx, l, i, partial)
}

package verity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"runtime"
	"sync"
)

// StreamOptions of Stream. Both functions may be called at the same time from
// several goroutines, and keep nothing of what they are given.
type StreamOptions struct {
	// Workers hash at the same time; 0: one for each processor.
	Workers int
	// Data gets the data, by the device's offset; nil: nobody.
	Data func(offset int64, p []byte) error
	// Tree gets every hash block, by the device's offset; nil: nobody.
	Tree func(offset int64, block []byte) error
}

// chunk is the data below one hash block of level 1.
const chunk = fanout * BlockSize

// Stream reads blocks*BlockSize bytes of data once and returns the root of
// their hash tree, whose blocks it hands out as they are ready: a device of any
// size is hashed in the memory of its upper levels, a 16384th of the data.
func Stream(data io.Reader, blocks uint64, salt []byte, o StreamOptions) (root [HashSize]byte, err error) {
	if err := check(blocks, salt); err != nil {
		return root, fmt.Errorf("building a hash tree: %w", err)
	}
	s := &stream{o: o, salt: salt, blocks: blocks, sizes: levels(blocks)}
	if s.o.Workers <= 0 {
		s.o.Workers = runtime.GOMAXPROCS(0)
	}
	// Where each level begins: the top one comes first, behind the data.
	s.offsets = make([]uint64, len(s.sizes))
	at := blocks
	for l := len(s.sizes) - 1; l >= 0; l-- {
		s.offsets[l] = at
		at += s.sizes[l]
	}
	if root, err = s.run(data); err != nil {
		return root, fmt.Errorf("building a hash tree: %w", err)
	}
	return root, nil
}

type stream struct {
	o       StreamOptions
	salt    []byte
	blocks  uint64
	sizes   []uint64
	offsets []uint64
	above   []byte // digests of the chunks: entries of level 2, or the root
}

// piece is a chunk on its way to a worker.
type piece struct {
	index uint64
	data  []byte
}

func (s *stream) run(data io.Reader) (root [HashSize]byte, err error) {
	chunks := (s.blocks + fanout - 1) / fanout
	s.above = make([]byte, chunks*HashSize)
	work := make(chan piece)
	free := make(chan []byte, 2*s.o.Workers)
	for range cap(free) {
		free <- make([]byte, chunk)
	}
	failed := make(chan error, s.o.Workers)
	var wg sync.WaitGroup
	for range s.o.Workers {
		wg.Go(func() {
			w := &worker{s: s, h: sha256.New(), block: make([]byte, BlockSize)}
			broken := false
			for p := range work {
				// After a failure the rest is only taken off the channel.
				if !broken {
					if err := w.chunk(p); err != nil {
						failed <- err
						broken = true
					}
				}
				free <- p.data[:chunk]
			}
		})
	}
	readErr := s.read(data, chunks, work, free, failed)
	close(work)
	wg.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	if err := errors.Join(append(errs, readErr)...); err != nil {
		return root, err
	}
	return s.top()
}

// read hands the data out, in order, until all of it is read or a worker
// failed.
func (s *stream) read(data io.Reader, chunks uint64, work chan<- piece, free <-chan []byte, failed <-chan error) error {
	for i := range chunks {
		if len(failed) > 0 {
			return nil
		}
		buf := <-free
		n := min(s.blocks-i*fanout, fanout) * BlockSize
		if got, err := io.ReadFull(data, buf[:n]); err != nil {
			return fmt.Errorf("reading data block %d: %w", i*fanout+uint64(got)/BlockSize, err)
		}
		work <- piece{i, buf[:n]}
	}
	return nil
}

// worker hashes chunks.
type worker struct {
	s     *stream
	h     hash.Hash
	block []byte
}

func (w *worker) digest(dst, block []byte) {
	w.h.Reset()
	w.h.Write(w.s.salt)
	w.h.Write(block)
	w.h.Sum(dst[:0])
}

func (w *worker) chunk(p piece) error {
	if w.s.o.Data != nil {
		if err := w.s.o.Data(int64(p.index)*chunk, p.data); err != nil {
			return err
		}
	}
	out := w.s.above[p.index*HashSize:][:HashSize:HashSize]
	if w.s.blocks == 1 {
		w.digest(out, p.data)
		return nil
	}
	clear(w.block)
	for i := 0; i*BlockSize < len(p.data); i++ {
		w.digest(w.block[i*HashSize:][:HashSize:HashSize], p.data[i*BlockSize:][:BlockSize])
	}
	if err := w.s.put(0, p.index, w.block); err != nil {
		return err
	}
	w.digest(out, w.block)
	return nil
}

func (s *stream) put(level int, index uint64, block []byte) error {
	if s.o.Tree == nil {
		return nil
	}
	return s.o.Tree(int64((s.offsets[level]+index)*BlockSize), block)
}

// top hashes the levels above the first.
func (s *stream) top() (root [HashSize]byte, err error) {
	w := &worker{s: s, h: sha256.New(), block: make([]byte, BlockSize)}
	below := s.above
	for l := 1; l < len(s.sizes); l++ {
		above := make([]byte, s.sizes[l]*HashSize)
		for i := range s.sizes[l] {
			clear(w.block)
			copy(w.block, below[i*BlockSize:])
			if err := s.put(l, i, w.block); err != nil {
				return root, err
			}
			w.digest(above[i*HashSize:][:HashSize:HashSize], w.block)
		}
		below = above
	}
	copy(root[:], below)
	return root, nil
}

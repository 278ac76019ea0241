package verity

import (
	"bytes"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/iotest"
)

// The stream makes what Build makes, whose tree the kernel's own tools accept,
// for every shape of tree and any number of workers.
func TestStreamMakesTheTreeThatBuildMakes(t *testing.T) {
	salt := []byte("salt")
	for _, blocks := range []uint64{1, 2, 127, 128, 129, 1000, 128 * 128, 128*128 + 1} {
		data := make([]byte, blocks*BlockSize)
		for i := range data {
			data[i] = byte(i>>12) ^ byte(i)
		}
		tree, root, err := Build(bytes.NewReader(data), blocks, salt)
		if err != nil {
			t.Fatal(err)
		}
		want := append(bytes.Clone(data), tree...)
		for _, workers := range []int{1, 3} {
			got := make([]byte, len(want))
			var mu sync.Mutex
			put := func(offset int64, p []byte) error {
				mu.Lock()
				defer mu.Unlock()
				copy(got[offset:], p)
				return nil
			}
			r, err := Stream(iotest.HalfReader(bytes.NewReader(data)), blocks, salt, StreamOptions{Workers: workers, Data: put, Tree: put})
			if err != nil || r != root || !bytes.Equal(got, want) {
				t.Errorf("%d blocks, %d workers: root %x, want %x; same bytes %v; %v", blocks, workers, r, root, bytes.Equal(got, want), err)
			}
		}
		if r, err := Stream(bytes.NewReader(data), blocks, salt, StreamOptions{}); err != nil || r != root {
			t.Errorf("%d blocks without takers: %x, %v", blocks, r, err)
		}
	}
}

func TestStreamEndsAtTheFirstFailure(t *testing.T) {
	cause := errors.New("disk full")
	data := make([]byte, 1000*BlockSize)
	fail := func(int64, []byte) error { return cause }
	if _, err := Stream(bytes.NewReader(data), 1000, nil, StreamOptions{Data: fail}); !errors.Is(err, cause) {
		t.Errorf("data: got %v", err)
	}
	if _, err := Stream(bytes.NewReader(data), 1000, nil, StreamOptions{Tree: fail, Workers: 1}); !errors.Is(err, cause) {
		t.Errorf("tree: got %v", err)
	}
	if _, err := Stream(bytes.NewReader(data[1:]), 1000, nil, StreamOptions{}); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("short data: got %v", err)
	}
	if _, err := Stream(bytes.NewReader(nil), 0, nil, StreamOptions{}); err == nil {
		t.Error("no blocks were hashed")
	}
}

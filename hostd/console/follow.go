package console

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// pollEvery is how often Follow looks for new bytes. Polling works the same
// on every file system and costs one stat.
const pollEvery = 100 * time.Millisecond

// Follow copies the log at path to w, the rotated part first. With more set,
// it goes on with what is appended, across rotations, until ctx ends or more
// returns false and everything is copied. A log that is not there yet counts
// as empty.
func Follow(ctx context.Context, path string, w io.Writer, more func() bool) error {
	if err := copyFile(path+".1", w); err != nil {
		return err
	}
	var f *os.File
	defer func() {
		if f != nil {
			f.Close()
		}
	}()
	for {
		// Asked before the copy, so that what is written before the end shows.
		goOn := more != nil && more()
		next, err := drain(f, path, w)
		if err != nil {
			return err
		}
		if next != f {
			f = next
			continue
		}
		if !goOn {
			return nil
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pollEvery):
		}
	}
}

// drain copies what is new in f; when path names another file by now, it
// returns that, opened.
func drain(f *os.File, path string, w io.Writer) (*os.File, error) {
	var old os.FileInfo
	if f != nil {
		if _, err := io.Copy(w, f); err != nil {
			return f, fmt.Errorf("copying log: %w", err)
		}
		var err error
		if old, err = f.Stat(); err != nil {
			return f, fmt.Errorf("copying log: %w", err)
		}
	}
	fi, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("following log: %w", err)
	}
	if old != nil && os.SameFile(old, fi) {
		return f, nil
	}
	if f != nil {
		// What came between the copy above and the rotation.
		if _, err := io.Copy(w, f); err != nil {
			return f, fmt.Errorf("copying log: %w", err)
		}
	}
	n, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return f, fmt.Errorf("following log: %w", err)
	}
	if f != nil {
		f.Close()
	}
	return n, nil
}

func copyFile(path string, w io.Writer) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("copying log: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("copying log: %w", err)
	}
	return nil
}

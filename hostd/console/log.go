// Package console keeps what a guest writes, within bounds: its serial
// console as text and its status port as JSON lines. Both are untrusted bytes
// from the VM: they are stored and shown, and decide nothing.
package console

import (
	"fmt"
	"os"
	"sync"
)

// Log is a file that never grows beyond its limit: when it would, it becomes
// PATH.1 (replacing an older one) and a new one begins. At most twice the
// limit is on disk. It is safe for concurrent use.
type Log struct {
	mu    sync.Mutex
	path  string
	limit int64
	f     *os.File
	size  int64
}

// Open starts or continues the log at path, limit bytes a file.
func Open(path string, limit int64) (*Log, error) {
	l := &Log{path: path, limit: limit}
	if err := l.open(); err != nil {
		return nil, err
	}
	return l, nil
}

func (l *Log) open() error {
	f, err := os.OpenFile(l.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("opening log: %w", err)
	}
	fi, err := f.Stat()
	if err != nil {
		f.Close()
		return fmt.Errorf("opening log: %w", err)
	}
	l.f, l.size = f, fi.Size()
	return nil
}

// Write appends b whole to one file; a b longer than the limit is cut to it.
func (l *Log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := len(b)
	if int64(n) > l.limit {
		b = b[:l.limit]
	}
	if l.size > 0 && l.size+int64(len(b)) > l.limit {
		if err := l.rotate(); err != nil {
			return 0, err
		}
	}
	w, err := l.f.Write(b)
	l.size += int64(w)
	if err != nil {
		return w, fmt.Errorf("writing log: %w", err)
	}
	return n, nil
}

func (l *Log) rotate() error {
	if err := l.f.Close(); err != nil {
		return fmt.Errorf("rotating log: %w", err)
	}
	if err := os.Rename(l.path, l.path+".1"); err != nil {
		return fmt.Errorf("rotating log: %w", err)
	}
	return l.open()
}

// Close closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.f.Close()
}

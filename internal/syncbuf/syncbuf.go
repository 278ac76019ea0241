// Package syncbuf has a buffer for what a program or a logger says while a test
// reads it.
package syncbuf

import (
	"bytes"
	"sync"
)

// Buffer collects what is written. It is safe for concurrent use; the zero value
// is empty.
type Buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

// Write implements io.Writer.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

// String returns what was written so far.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

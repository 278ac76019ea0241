package demo

import (
	"bytes"
	"io"
)

// indent writes whole lines to w, indented like the notes of a step.
type indent struct {
	w    io.Writer
	rest []byte
}

// Write implements io.Writer.
func (i *indent) Write(p []byte) (int, error) {
	i.rest = append(i.rest, p...)
	for {
		n := bytes.IndexByte(i.rest, '\n')
		if n < 0 {
			return len(p), nil
		}
		if _, err := i.w.Write(append([]byte("    "), i.rest[:n+1]...)); err != nil {
			return 0, err
		}
		i.rest = i.rest[n+1:]
	}
}

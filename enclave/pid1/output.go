package pid1

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
)

// ErrOutput is returned for a program that writes more than it may.
var ErrOutput = errors.New("output is too long")

// Output runs a service to its end with stdin as its input, and returns what
// it wrote to its standard output, at most limit bytes. Its standard error goes
// to the log. When ctx ends it is killed.
func Output(ctx context.Context, r *Reaper, self string, s Service, stdin []byte, limit int, log *slog.Logger) ([]byte, error) {
	out := &bounded{limit: limit}
	c, err := start(r, self, s, bytes.NewReader(stdin), out, &lineLog{log: log.With("service", s.Name)})
	if err != nil {
		return nil, err
	}
	select {
	case <-c.Done:
	case <-ctx.Done():
		_ = c.cmd.Process.Kill()
		// A process that the kernel does not let go of, such as one in a driver,
		// must not hold up whoever asks: it is left to the reaper.
		return nil, fmt.Errorf("running %s: %w", s.Name, ctx.Err())
	}
	switch {
	case out.over:
		return nil, fmt.Errorf("running %s: %w: over %d bytes", s.Name, ErrOutput, limit)
	case c.Err() != nil:
		return nil, fmt.Errorf("running %s: %w", s.Name, c.Err())
	}
	return out.buf.Bytes(), nil
}

// bounded keeps the first bytes; the pipe writes to it from one goroutine at a
// time, and no more once the child is done.
type bounded struct {
	buf   bytes.Buffer
	limit int
	over  bool
}

// Write takes everything and keeps what is within the limit, so that a program
// that writes on does not wait for ever.
func (b *bounded) Write(p []byte) (int, error) {
	if n := b.limit - b.buf.Len(); len(p) > n {
		b.over = true
		b.buf.Write(p[:n])
	} else {
		b.buf.Write(p)
	}
	return len(p), nil
}

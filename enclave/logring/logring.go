// Package logring keeps the newest lines of the supervisor's log in memory, in
// bounded space. They are shown in the status document and go to the host when
// the machine halts. What is logged is written by the supervisor and by the
// programs that it starts, never by an engine: no word of a prompt or an answer
// comes near it.
package logring

import (
	"bytes"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"
)

// Bounds of a Ring.
const (
	MaxLines = 256
	MaxLine  = 512 // bytes of a line; what is longer is cut
)

// Ring is an io.Writer for a log. The zero value is ready.
type Ring struct {
	mu    sync.Mutex
	lines [MaxLines]string
	n     int // lines ever written
	part  []byte
}

// Write takes text, in which newlines end lines. It never fails.
func (r *Ring) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for rest := p; len(rest) > 0; {
		text, after, whole := bytes.Cut(rest, []byte("\n"))
		if room := MaxLine - len(r.part); room > 0 {
			r.part = append(r.part, text[:min(room, len(text))]...)
		}
		if whole {
			r.lines[r.n%MaxLines] = clean(r.part)
			r.n++
			r.part = r.part[:0]
		}
		rest = after
	}
	return len(p), nil
}

// clean makes a line one of printable text: a reader's terminal obeys no
// program in the guest.
func clean(b []byte) string {
	return strings.Map(func(c rune) rune {
		if c == utf8.RuneError || !unicode.IsPrint(c) && c != '\t' {
			return '?'
		}
		return c
	}, string(b))
}

// Lines returns the newest whole lines, the oldest of them first.
func (r *Ring) Lines() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]string, 0, min(r.n, MaxLines))
	for i := max(0, r.n-MaxLines); i < r.n; i++ {
		out = append(out, r.lines[i%MaxLines])
	}
	return out
}

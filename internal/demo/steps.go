// Package demo runs the whole job on one machine (DESIGN section 1) on the
// real programs: image, measurements, verifier, host, supervisor, inference,
// and the refusals. It leaves everything that was shown in one directory, from
// which Verify checks all of it again.
package demo

import (
	"fmt"
	"io"
	"strings"
	"time"
)

// steps prints progress and keeps the time that each step took.
type steps struct {
	out     io.Writer
	clock   func() time.Time
	start   time.Time
	name    string
	last    string // of the step begun last
	began   time.Time
	seconds map[string]float64
	n       int
}

func newSteps(out io.Writer, clock func() time.Time) *steps {
	return &steps{out: out, clock: clock, start: clock(), seconds: map[string]float64{}}
}

// begin ends the step under way and starts another.
func (s *steps) begin(name, what string) {
	s.end()
	s.n++
	s.name, s.last, s.began = name, name, s.clock()
	fmt.Fprintf(s.out, "\n[%d] %s: %s\n", s.n, name, what)
}

// note prints one line of what is happening.
func (s *steps) note(format string, args ...any) {
	fmt.Fprintf(s.out, "    "+format+"\n", args...)
}

func (s *steps) end() {
	if s.name == "" {
		return
	}
	d := s.clock().Sub(s.began).Seconds()
	s.seconds[s.name] += d
	fmt.Fprintf(s.out, "    done in %.1f s\n", d)
	s.name = ""
}

// table prints rows with aligned columns.
func table(out io.Writer, rows [][]string) {
	var width []int
	for _, r := range rows {
		for i, c := range r {
			if i == len(width) {
				width = append(width, 0)
			}
			width[i] = max(width[i], len(c))
		}
	}
	for _, r := range rows {
		var b strings.Builder
		for i, c := range r {
			if i == len(r)-1 {
				b.WriteString(c)
			} else {
				fmt.Fprintf(&b, "%-*s  ", width[i], c)
			}
		}
		fmt.Fprintf(out, "    %s\n", strings.TrimRight(b.String(), " "))
	}
}

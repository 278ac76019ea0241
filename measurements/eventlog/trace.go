package eventlog

import (
	"bytes"
	"fmt"
	"slices"
)

// Step is one extension of a register.
type Step struct {
	Event int    // index in the log
	Value []byte // of the register after it
}

// Trace says how a register came to its value.
type Trace struct {
	Register int
	Start    []byte // all zero, but for PCR 0 after a startup locality
	Steps    []Step // in order
	Value    []byte // after the last step
}

// Traces returns, for each register that Replay has, the events that made
// it, by register number.
func (l *Log) Traces(a Algorithm) ([]Trace, error) {
	h := newHash(a)
	if h == nil || !l.Has(a) {
		return nil, fmt.Errorf("replaying event log with algorithm %#04x: %w", uint16(a), ErrAlgorithm)
	}
	by := map[int]*Trace{}
	get := func(r int) *Trace {
		if by[r] == nil {
			zero := make([]byte, h.Size())
			by[r] = &Trace{Register: r, Start: zero, Value: zero}
		}
		return by[r]
	}
	if l.StartupLocality != 0 {
		t := get(0)
		t.Start = append(make([]byte, h.Size()-1), l.StartupLocality)
		t.Value = t.Start
	}
	for i := range l.Events {
		e := &l.Events[i]
		if e.Type == NoAction {
			continue
		}
		t := get(int(e.Register))
		h.Reset()
		h.Write(t.Value)
		h.Write(e.Digest(a))
		t.Value = h.Sum(nil)
		t.Steps = append(t.Steps, Step{i, t.Value})
	}
	out := make([]Trace, 0, len(by))
	for _, t := range by {
		out = append(out, *t)
	}
	slices.SortFunc(out, func(x, y Trace) int { return x.Register - y.Register })
	return out, nil
}

// RegisterName returns the name that people know a register by: "pcr4",
// "rtmr1".
func (l *Log) RegisterName(register int) string {
	if l.Kind == KindTPM {
		return fmt.Sprintf("pcr%d", register)
	}
	return fmt.Sprintf("rtmr%d", register-1)
}

// Difference is the first event at which a register leaves a reference.
type Difference struct {
	Register  int
	Event     int    // index in this log, -1 where this log has no more events of the register
	Reference int    // index in the reference, -1 where that has no more
	Got, Want []byte // the digests, nil where there is no event
}

// Diff compares the log with a reference of the same kind, say that of a boot
// which is known to be good, and returns the first difference of each
// register that differs, by register number.
func (l *Log) Diff(reference *Log, a Algorithm) ([]Difference, error) {
	if (l.Kind == KindTPM) != (reference.Kind == KindTPM) {
		return nil, fmt.Errorf("comparing a log of kind %s with one of kind %s: registers are not the same", l.Kind, reference.Kind)
	}
	mine, err := l.Traces(a)
	if err != nil {
		return nil, err
	}
	theirs, err := reference.Traces(a)
	if err != nil {
		return nil, fmt.Errorf("reading reference: %w", err)
	}
	steps := func(ts []Trace, r int) []Step {
		for _, t := range ts {
			if t.Register == r {
				return t.Steps
			}
		}
		return nil
	}
	var out []Difference
	for r := range 24 {
		x, y := steps(mine, r), steps(theirs, r)
		for i := range max(len(x), len(y)) {
			d := Difference{Register: r, Event: -1, Reference: -1}
			if i < len(x) {
				d.Event, d.Got = x[i].Event, l.Events[x[i].Event].Digest(a)
			}
			if i < len(y) {
				d.Reference, d.Want = y[i].Event, reference.Events[y[i].Event].Digest(a)
			}
			if !bytes.Equal(d.Got, d.Want) {
				out = append(out, d)
				break
			}
		}
	}
	return out, nil
}

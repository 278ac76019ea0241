package boot

import (
	"bytes"
	"encoding/hex"
	"fmt"

	"cocoon/measurements/eventlog"
)

// How an event of a log is explained.
const (
	Explained   = "explained"   // its digest is that of a component
	FromHost    = "host"        // a component that depends on the host stands here: its digest is for a policy to judge
	Unexplained = "unexplained" // no component gives this digest
)

// Kind is the sort of a log: which register file its events extend.
type Kind string

// Kinds of logs.
const (
	KindTPM Kind = "tpm" // registers are PCRs
	KindTD  Kind = "tdx" // registers are RTMRs: the CCEL's index less one
)

// LogEvent is an event of a log and the component that explains it.
type LogEvent struct {
	Index     int    `json:"index"`    // in the log
	Register  int    `json:"register"` // PCR or RTMR
	Type      string `json:"type"`
	Label     string `json:"label,omitempty"` // what the event says of itself; nobody signed it
	Digest    string `json:"digest"`
	Status    string `json:"status"`
	Component string `json:"component,omitempty"`  // that explains it
	Source    string `json:"source,omitempty"`     // where that comes from
	InsteadOf string `json:"instead_of,omitempty"` // of an unexplained event: the component that was expected at its place
}

// Explanation says of every event of a log what it is, and of every component
// that did not occur that it is missing.
type Explanation struct {
	Kind    Kind       `json:"kind"`
	Events  []LogEvent `json:"events"`
	Missing []Event    `json:"missing"` // predicted, but not in the log
}

// Unexplained returns the events that no component explains.
func (x *Explanation) Unexplained() []LogEvent {
	var out []LogEvent
	for _, e := range x.Events {
		if e.Status == Unexplained {
			out = append(out, e)
		}
	}
	return out
}

// OK reports whether registers hold what is predicted: no event of theirs is
// unexplained, none is missing. Without registers all count.
func (x *Explanation) OK(registers ...int) bool {
	counts := func(n int) bool {
		for _, r := range registers {
			if r == n {
				return true
			}
		}
		return len(registers) == 0
	}
	for _, e := range x.Events {
		if e.Status == Unexplained && counts(e.Register) {
			return false
		}
	}
	for i := range x.Missing {
		if counts(register(&x.Missing[i], x.Kind)) {
			return false
		}
	}
	return true
}

// Explain holds a log against predicted events, register by register and in
// order. The log must have been replayed against a quote before: this says what
// its digests stand for, not that they are true. An event whose component
// depends on the host and has no digest is matched by its type alone.
func Explain(l *eventlog.Log, kind Kind, predicted []Event) (*Explanation, error) {
	alg := eventlog.SHA256
	if kind == KindTD || !l.Has(alg) {
		alg = eventlog.SHA384
	}
	if kind != KindTD && kind != KindTPM {
		return nil, fmt.Errorf("explaining event log: kind %.16q is unknown", kind)
	}
	if !l.Has(alg) {
		return nil, fmt.Errorf("explaining event log: %w", eventlog.ErrAlgorithm)
	}
	queues := map[int][]Event{}
	for _, e := range predicted {
		if n := register(&e, kind); n != NoRegister {
			queues[n] = append(queues[n], e)
		}
	}
	x := &Explanation{Kind: kind, Events: []LogEvent{}, Missing: []Event{}}
	for i := range l.Events {
		e := &l.Events[i]
		if e.Type == eventlog.NoAction {
			continue
		}
		n := int(e.Register)
		if kind == KindTD {
			n--
		}
		out := LogEvent{Index: i, Register: n, Type: e.Type.String(), Label: e.Label(), Digest: hex.EncodeToString(e.Digest(alg)), Status: Unexplained}
		q := queues[n]
		if at := match(q, e, alg); at >= 0 {
			x.Missing = append(x.Missing, q[:at]...)
			out.Status, out.Component, out.Source = Explained, q[at].Component, q[at].Source
			if q[at].Digests == nil {
				out.Status = FromHost
			}
			queues[n] = q[at+1:]
		} else if len(q) > 0 && q[0].Type == e.Type && !occurs(l, i, &q[0], alg) {
			// Something else stands where this component was expected; it is named
			// here and not as missing too.
			out.InsteadOf = q[0].Component
			queues[n] = q[1:]
		}
		x.Events = append(x.Events, out)
	}
	for n := range 24 {
		x.Missing = append(x.Missing, queues[n]...)
	}
	return x, nil
}

func register(e *Event, kind Kind) int {
	if kind == KindTD {
		return e.RTMR
	}
	return e.PCR
}

// match returns the first of the events that are still expected which explains
// e: by its digest, else the next one if it depends on the host and has e's
// type.
func match(q []Event, e *eventlog.Event, alg eventlog.Algorithm) int {
	for i := range q {
		if q[i].is(e, alg) {
			return i
		}
	}
	for i := range q {
		if q[i].Digests != nil {
			return -1
		}
		if q[i].Type == e.Type {
			return i
		}
	}
	return -1
}

func (p *Event) is(e *eventlog.Event, alg eventlog.Algorithm) bool {
	if p.Digests == nil {
		return false
	}
	if alg == eventlog.SHA384 {
		return bytes.Equal(p.Digests.SHA384[:], e.Digest(alg))
	}
	return bytes.Equal(p.Digests.SHA256[:], e.Digest(alg))
}

// occurs reports whether a component comes later in the log.
func occurs(l *eventlog.Log, after int, p *Event, alg eventlog.Algorithm) bool {
	for i := after + 1; i < len(l.Events); i++ {
		if p.is(&l.Events[i], alg) && l.Events[i].Register == l.Events[after].Register {
			return true
		}
	}
	return false
}

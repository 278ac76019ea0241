package idle

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Limits of a trace.
const (
	MaxTraceLine = 4 << 10
	MaxTrace     = 1_000_000 // observations
)

// Summary is what a replay comes to.
type Summary struct {
	Observations int           `json:"observations"`
	Starts       int           `json:"starts"`
	Served       time.Duration `json:"served_ns"`
	Cut          int           `json:"cut"` // VMs whose time ran out
	// LongestYield is the longest time from the owner's return to the VM's end.
	LongestYield time.Duration `json:"longest_yield_ns"`
}

// Simulate replays a trace, one observation as JSON a line, and calls each for
// every decision that changes something: the mode or an order. The trace is of
// the machine alone: whether the VM runs follows from the orders, a VM that
// was told to stop is gone at the next line, and "requests" counts while it
// runs.
func Simulate(p *Policy, r io.Reader, each func(Decision)) (*Summary, error) {
	e := &Engine{Policy: p}
	sum := &Summary{}
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, MaxTraceLine), MaxTraceLine)
	running, mode := false, ""
	var last, back time.Time
	for sc.Scan() {
		if len(sc.Bytes()) == 0 {
			continue
		}
		var o Observation
		if err := jcs.Decode(sc.Bytes(), MaxTraceLine, &o); err != nil {
			return nil, traceFault(sum.Observations, err)
		}
		if sum.Observations > 0 && !o.Time.After(last) || o.Time.IsZero() {
			return nil, traceFault(sum.Observations, fmt.Errorf("its time is not after the one before"))
		}
		if sum.Observations++; sum.Observations > MaxTrace {
			return nil, traceFault(sum.Observations, fmt.Errorf("more than %d observations", MaxTrace))
		}
		if running && !last.IsZero() {
			sum.Served += o.Time.Sub(last)
		}
		if o.Running = running; !running {
			o.Requests = 0
		}
		d := e.Step(&o)
		switch d.Order {
		case Start:
			running = true
			sum.Starts++
		case Drain:
			back = o.Time
		case Stop, PowerOff:
			if back.IsZero() {
				back = o.Time
			}
			running = false
			if d.Order == PowerOff {
				sum.Cut++
			}
		}
		if mode != Away && d.Mode == Away && !back.IsZero() {
			sum.LongestYield = max(sum.LongestYield, o.Time.Sub(back))
			back = time.Time{}
		}
		if d.Order != None || d.Mode != mode {
			each(d)
		}
		mode, last = d.Mode, o.Time
	}
	if err := sc.Err(); err != nil {
		return nil, traceFault(sum.Observations, err)
	}
	return sum, nil
}

func traceFault(n int, err error) error {
	return fault.New(fault.ExitParse, "idle.trace.malformed", "give one observation as JSON a line, in order of time: docs/operators.md", "reading trace, observation %d: %w", n+1, err)
}

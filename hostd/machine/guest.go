package machine

import (
	"bytes"
	"encoding/json"
	"io"
	"strings"
	"sync"
	"time"

	"cocoon/contracts/receipt"
	"cocoon/hostd/console"
	"cocoon/hostd/vouchers"
)

// panicMark begins the kernel's line about its own end.
const panicMark = "Kernel panic - not syncing"

// pumpConsole keeps the console and looks for a panic. It never stops
// reading: a full log or a slow reader must not block the guest.
func (m *Machine) pumpConsole(r io.Reader, log io.Writer) {
	buf := make([]byte, 32<<10)
	var line []byte
	warned := false
	for {
		n, err := r.Read(buf)
		if n > 0 {
			if _, werr := log.Write(buf[:n]); werr != nil && !warned {
				warned = true
				m.o.Logger.Error("keeping console", "vm", m.o.Spec.Name, "err", werr)
			}
			if m.o.Console != nil {
				// A terminal that went away is no reason to stop.
				_, _ = m.o.Console.Write(buf[:n])
			}
			line = m.scan(line, buf[:n])
		}
		if err != nil {
			return
		}
	}
}

// scan looks for complete lines in line+b and returns the unfinished one.
func (m *Machine) scan(line, b []byte) []byte {
	line = append(line, b...)
	for {
		i := bytes.IndexByte(line, '\n')
		if i < 0 {
			break
		}
		if j := bytes.Index(line[:i], []byte(panicMark)); j >= 0 {
			text := strings.TrimSpace(strings.ToValidUTF8(string(line[j:i]), "?"))
			m.note(func(s *State) {
				if s.Guest.Panic == "" {
					s.Guest.Panic = text[:min(len(text), 256)]
				}
			})
		}
		line = line[i+1:]
	}
	if len(line) > 8<<10 {
		line = line[len(line)-1024:]
	}
	return append([]byte(nil), line...)
}

// line keeps one status line and what it says about the boot.
func (m *Machine) line(l *console.Line, log io.Writer) {
	if l.Type == "voucher" {
		// It comes with every answer, and has a file of its own.
		if err := m.keepVoucher(l.Voucher); err != nil {
			m.badLine(err)
		}
		if m.o.OnLine != nil {
			m.o.OnLine(l)
		}
		return
	}
	if _, err := log.Write(append(append([]byte(nil), l.Raw...), '\n')); err != nil {
		m.o.Logger.Error("keeping status", "vm", m.o.Spec.Name, "err", err)
	}
	switch l.Type {
	case "stage":
		m.note(func(s *State) { s.addStage(l, m.o.Clock()) })
	case "metrics":
		if v := console.Metrics(l.Raw); v != nil {
			m.note(func(s *State) { s.Guest.Metrics = v })
		}
	case "drain":
		m.noteDrain(l)
	case "state":
		m.note(func(s *State) { s.Guest.State, s.Guest.Faults = l.State, l.Faults })
	}
	if m.o.OnLine != nil {
		m.o.OnLine(l)
	}
}

// keepVoucher puts a voucher where it outlives the machine. Only what has a
// voucher's exact form is kept, at most one file a job and vouchers.MaxJobs of
// them; whether it is worth anything, the chain decides. It blocks the guest's
// status port: a guest that sends many waits for the host's disk.
func (m *Machine) keepVoucher(doc []byte) error {
	v, err := receipt.ParseVoucher(doc)
	if err != nil {
		return err
	}
	_, err = vouchers.Book{Dir: m.o.Vouchers}.Keep(v)
	return err
}

// badLine counts a status line that is of no use. The guest decides how many
// there are: only the first are told.
func (m *Machine) badLine(err error) {
	m.mu.Lock()
	m.state.BadLines++
	n := m.state.BadLines
	m.mu.Unlock()
	if n <= 8 {
		m.o.Logger.Warn("unusable status line", "vm", m.o.Spec.Name, "err", err)
	}
}

func (s *State) addStage(l *console.Line, now time.Time) {
	st := Stage{Name: l.Stage, Status: l.Status, MS: l.MS, UptimeMS: l.Uptime,
		HostMS: now.Sub(s.Started).Milliseconds(), Faults: l.Faults}
	for i := range s.Guest.Stages {
		if s.Guest.Stages[i].Name == l.Stage {
			s.Guest.Stages[i] = st
			return
		}
	}
	if len(s.Guest.Stages) < maxStages {
		s.Guest.Stages = append(s.Guest.Stages, st)
	}
}

func shutdownReason(data json.RawMessage) string {
	var d struct {
		Reason string `json:"reason"`
	}
	if err := json.Unmarshal(data, &d); err != nil || d.Reason == "" {
		return "unknown"
	}
	return d.Reason
}

// stderrTail keeps the end of what QEMU writes about itself.
type stderrTail struct {
	mu sync.Mutex
	b  []byte
}

// Write implements io.Writer.
func (t *stderrTail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, b...)
	if n := len(t.b) - 4096; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(b), nil
}

// String implements fmt.Stringer.
func (t *stderrTail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.ToValidUTF8(string(t.b), "?")
}

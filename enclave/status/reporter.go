package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"
)

// Reporter writes lines to the console, to the status port once it is there,
// and keeps a status document for readers inside the VM.
type Reporter struct {
	clock   func() time.Time
	uptime  func() time.Duration
	console io.Writer
	path    string // status document, or empty
	log     func() []string

	mu     sync.Mutex
	queue  [][]byte // lines before the port came
	port   chan []byte
	done   chan struct{}
	stages []Line
	state  string
	// vouchers has each job's newest one that is not written yet; kick says
	// that there are some.
	vouchers map[string][]byte
	kick     chan struct{}
}

// maxQueue bounds the lines kept for a port that has not come or does not
// read. A host that stops reading must not stop the guest.
const maxQueue = 256

// Options of a Reporter.
type Options struct {
	Clock   func() time.Time     // now
	Uptime  func() time.Duration // since the kernel started
	Console io.Writer            // text lines
	Path    string               // status document, written by rename; empty for none
	Log     func() []string      // newest lines of the log, for the document; nil for none
}

// New returns a Reporter that has no port yet.
func New(o Options) *Reporter {
	if o.Log == nil {
		o.Log = func() []string { return nil }
	}
	return &Reporter{clock: o.Clock, uptime: o.Uptime, console: o.Console, path: o.Path, log: o.Log, state: Booting,
		vouchers: map[string][]byte{}, kick: make(chan struct{}, 1)}
}

// Attach starts writing lines to the port, those already reported first. It
// is called once.
func (r *Reporter) Attach(port io.Writer) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.port = make(chan []byte, 2*maxQueue)
	r.done = make(chan struct{})
	for _, b := range r.queue {
		r.port <- b
	}
	r.queue = nil
	go r.write(port, r.port, r.done)
}

// write copies lines and vouchers to the port until lines is closed. A port
// that fails is a host that looks away; the console still has the lines.
func (r *Reporter) write(port io.Writer, lines <-chan []byte, done chan<- struct{}) {
	defer close(done)
	for open := true; open; {
		select {
		case b, ok := <-lines:
			if open = ok; ok {
				_, _ = port.Write(b)
			}
		case <-r.kick:
		}
		for _, b := range r.takeVouchers() {
			_, _ = port.Write(b)
		}
	}
	drain(port)
}

// Voucher has the host keep a job's newest voucher, which pays after this
// machine is gone. A host that does not read in time gets the newest of each
// job later; none is dropped. The caller bounds the jobs.
func (r *Reporter) Voucher(job string, doc []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l := Line{Time: r.clock().UTC(), UptimeMS: r.uptime().Milliseconds(), Type: TypeVoucher, Voucher: doc}
	b, err := l.Marshal()
	if err != nil {
		_, _ = fmt.Fprintf(r.console, "cocoon: status line dropped: %v\n", err)
		return
	}
	r.vouchers[job] = b
	select {
	case r.kick <- struct{}{}:
	default: // it is said already
	}
}

func (r *Reporter) takeVouchers() [][]byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := slices.Collect(maps.Values(r.vouchers))
	clear(r.vouchers)
	return out
}

// drain ends a port that is a connection and waits for the host to end it,
// too: then the host has read everything.
func drain(port io.Writer) {
	c, ok := port.(interface {
		io.Reader
		CloseWrite() error
	})
	if !ok || c.CloseWrite() != nil {
		return
	}
	// What the host says is dropped; Flush bounds the wait.
	_, _ = io.Copy(io.Discard, c)
}

// Report stamps and writes one line.
func (r *Reporter) Report(l Line) {
	r.mu.Lock()
	defer r.mu.Unlock()
	l.Time, l.UptimeMS = r.clock().UTC(), r.uptime().Milliseconds()
	if text := l.Console(); text != "" {
		// The console is best effort for the same reason as the port.
		_, _ = fmt.Fprintln(r.console, text)
	}
	r.keep(l)
	b, err := l.Marshal()
	if err != nil {
		_, _ = fmt.Fprintf(r.console, "cocoon: status line dropped: %v\n", err)
		return
	}
	switch {
	case r.port == nil && len(r.queue) < maxQueue:
		r.queue = append(r.queue, b)
	case r.port != nil:
		select {
		case r.port <- b:
		default: // the host does not read
		}
	}
}

// Stage reports a stage.
func (r *Reporter) Stage(name, status string, took time.Duration, err error) {
	r.Report(Line{Type: TypeStage, Stage: name, Status: status, MS: took.Milliseconds(), Faults: Faults(err)})
}

// Stages returns the stages that were reported until now, in order, each with
// its newest status.
func (r *Reporter) Stages() []Line {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stages)
}

// State reports a change of the machine's state; err says why, if there is a
// reason.
func (r *Reporter) State(state string, err error) {
	r.Report(Line{Type: TypeState, State: state, Faults: Faults(err)})
}

// Log reports the newest lines of the log, for a machine that halts.
func (r *Reporter) Log() {
	if lines := r.log(); len(lines) > 0 {
		r.Report(Line{Type: TypeLog, Log: lines})
	}
}

// Flush closes the port's queue and waits until it is written or the time is
// over.
func (r *Reporter) Flush(timeout time.Duration) {
	r.mu.Lock()
	port, done := r.port, r.done
	r.port = nil
	r.mu.Unlock()
	if port == nil {
		return
	}
	close(port)
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-done:
	case <-t.C:
	}
}

// Document is the status document.
type Document struct {
	State  string   `json:"state"`
	Stages []Line   `json:"stages"`
	Log    []string `json:"log,omitempty"` // newest lines, the oldest of them first
}

func (r *Reporter) keep(l Line) {
	switch l.Type {
	case TypeState:
		r.state = l.State
	case TypeStage:
		if n := len(r.stages); n > 0 && r.stages[n-1].Stage == l.Stage {
			r.stages[n-1] = l
		} else if n < maxQueue {
			r.stages = append(r.stages, l)
		}
	default:
		return
	}
	if r.path == "" {
		return
	}
	// Before the mounts stage there is no directory to write to.
	if err := writeFile(r.path, Document{State: r.state, Stages: r.stages, Log: r.log()}); err != nil && !errors.Is(err, fs.ErrNotExist) {
		_, _ = fmt.Fprintf(r.console, "cocoon: status file: %v\n", err)
	}
}

// writeFile replaces path in one step, so that a reader sees a whole document.
func writeFile(path string, doc any) error {
	b, err := json.Marshal(doc)
	if err != nil {
		return fmt.Errorf("encoding status document: %w", err)
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".status-*")
	if err != nil {
		return fmt.Errorf("writing status document: %w", err)
	}
	defer os.Remove(f.Name())
	if _, err := f.Write(append(b, '\n')); err != nil {
		f.Close()
		return fmt.Errorf("writing status document: %w", err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing status document: %w", err)
	}
	return os.Rename(f.Name(), path)
}

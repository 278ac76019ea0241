package e2e

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"cocoon/hostd/console"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
	"cocoon/internal/syncbuf"
)

// lineCount counts the lines of the guest by type.
type lineCount struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *lineCount) see(l *console.Line) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[l.Type]++
}

// verifier is one that knows nobody, at the address of the guest's; its first
// question comes on the channel.
func verifier(t *testing.T, s *spec.Spec) <-chan string {
	t.Helper()
	asked := make(chan string, 1)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Method + " " + r.URL.Path:
		default:
		}
		http.Error(w, "no", http.StatusTeapot)
	}))
	t.Cleanup(srv.Close)
	s.Forwards = []spec.Forward{{Guest: "10.0.2.100:80", Target: srv.Listener.Addr().String()}}
	return asked
}

// talk checks all ways over vsock: the status came from the guest, the host
// dials the guest, and the guest's connection to its verifier arrives at the
// target.
func talk(t *testing.T, m *machine.Machine, con *syncbuf.Buffer, asked <-chan string) {
	t.Helper()
	st := m.State()
	if st.Transport != vsock.User || st.TransportWhy == "" || st.BadLines != 0 {
		t.Errorf("transport %s (%s), %d bad lines", st.Transport, st.TransportWhy, st.BadLines)
	}
	ctx, cancel := context.WithTimeout(t.Context(), engineLimit)
	defer cancel()
	doc, err := m.Document(ctx)
	if err != nil {
		t.Fatalf("dialling the guest: %v\n%s", err, con)
	}
	var d struct {
		State string   `json:"state"`
		Log   []string `json:"log"`
	}
	if err := json.Unmarshal(doc, &d); err != nil || d.State != "booting" || len(d.Log) == 0 {
		t.Errorf("document %q, %v", doc, err)
	}
	select {
	case got := <-asked:
		t.Logf("the guest asked: %s", got)
	case <-m.Done():
		t.Fatalf("it ended:\n%s", con)
	case <-time.After(engineLimit):
		t.Fatalf("no connection came from the guest\n%s", con)
	}
}

// lastWords checks that what the guest said last came over vsock as well.
func lastWords(t *testing.T, m *machine.Machine, lines *lineCount) {
	t.Helper()
	if st := m.State(); st.Guest.State != "halted" || st.Phase != machine.Stopped {
		t.Errorf("the last state did not arrive: %s, %+v", st.Reason, st.Guest)
	}
	lines.mu.Lock()
	defer lines.mu.Unlock()
	if lines.n["stage"] < 10 || lines.n["worker"] != 1 {
		t.Errorf("lines %v", lines.n)
	}
}

package e2e

import (
	"context"
	"encoding/json"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"cocoon/hostd/console"
	"cocoon/hostd/machine"
	"cocoon/hostd/spec"
	"cocoon/hostd/vsock"
	"cocoon/internal/imagetest"
)

// TestGuestAndHostTalkOverVsock boots with the user-space vsock device and no
// network device: the status comes from the guest, the host dials the guest,
// and the guest's connection to its verifier arrives at the target.
func TestGuestAndHostTalkOverVsock(t *testing.T) {
	b := imagetest.Find(t)
	s := worker(t, b)
	asked := make(chan string, 1)
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case asked <- r.Method + " " + r.URL.Path:
		default:
		}
		http.Error(w, "no", http.StatusTeapot)
	}))
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv.Listener = l
	srv.Start()
	defer srv.Close()
	s.Forwards = []spec.Forward{{Guest: "10.0.2.100:80", Target: l.Addr().String()}}
	var con lockedBuffer
	var mu sync.Mutex
	lines := map[string]int{}
	m := startWith(t, b, b.Tools, s, &con, func(l *console.Line) { mu.Lock(); lines[l.Type]++; mu.Unlock() }, vsock.User)
	until(t, m, &con, "measure")
	st := m.State()
	if st.Transport != vsock.User || st.TransportWhy == "" || st.BadLines != 0 {
		t.Errorf("transport %s (%s), %d bad lines", st.Transport, st.TransportWhy, st.BadLines)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	doc, err := m.Document(ctx)
	if err != nil {
		t.Fatalf("dialling the guest: %v\n%s", err, &con)
	}
	var d struct {
		State string `json:"state"`
	}
	if err := json.Unmarshal(doc, &d); err != nil || d.State != "booting" {
		t.Errorf("document %q, %v", doc, err)
	}
	select {
	case got := <-asked:
		t.Logf("the guest asked: %s", got)
	case <-m.Done():
		t.Fatalf("it ended:\n%s", &con)
	case <-time.After(engineLimit):
		t.Fatalf("no connection came from the guest\n%s", &con)
	}
	m.Stop(t.Context(), engineLimit)
	// The guest's last words come over vsock as well.
	if st := m.State(); st.Guest.State != "halted" || st.Phase != machine.Stopped || st.Reason != "stopped" {
		t.Errorf("the last state did not arrive: %s, %+v", st.Reason, st.Guest)
	}
	mu.Lock()
	defer mu.Unlock()
	if lines["stage"] < 10 || lines["worker"] != 1 {
		t.Errorf("lines %v", lines)
	}
	for _, g := range m.State().Guest.Stages {
		t.Logf("%6.1fs %s %s %d ms", float64(g.HostMS)/1000, g.Name, g.Status, g.MS)
	}
}

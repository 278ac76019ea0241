package worker

import (
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cocoon/enclave/status"
	"cocoon/internal/hostorder"
)

// TestOrdersComeOverTheStatusChannel: what is no order is skipped, what is one
// is answered on the same channel.
func TestOrdersComeOverTheStatusChannel(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker()
		guest, host := net.Pipe()
		defer host.Close()
		w.rep.Attach(guest)
		w.listen(t.Context(), guest)
		order, err := (&hostorder.Order{Type: hostorder.Drain, ID: "o-1", DeadlineMS: 1000}).Marshal()
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			_, _ = host.Write(append([]byte("nonsense\n"+strings.Repeat("x", 5000)+"\n"), order...))
		}()
		b := make([]byte, status.MaxLine)
		n, err := host.Read(b)
		if err != nil {
			t.Fatal(err)
		}
		l, err := status.Parse(b[:n])
		if err != nil || l.Type != status.TypeDrain || *l.Drain != (status.Drain{Order: "o-1", Phase: status.Drained}) {
			t.Errorf("the answer is %s, %v", b[:n], err)
		}
		if phase := w.drainer.Phase(); phase != status.Drained {
			t.Errorf("the worker is %s", phase)
		}
		host.Close()
		w.rep.Flush(time.Minute)
	})
}

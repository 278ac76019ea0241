package worker

import (
	"context"
	"crypto/rand"
	"net"
	"testing"
	"time"

	"cocoon/enclave/keys"
	"cocoon/gateway"
	"cocoon/internal/hostorder"
	"cocoon/verifier/evidence"
)

// TestGatewaysHearOfADrain: on the tunnel that is open, on the one that comes
// after a cut, and when the worker takes requests again.
func TestGatewaysHearOfADrain(t *testing.T) {
	w := newWorker()
	k, err := keys.New(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	w.keys, w.config = k, &evidence.Config{Model: evidence.ConfigModel{Name: "m"}}
	cert, err := gateway.SelfSigned(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	g := gateway.New(gateway.Options{Certificate: cert})
	served := make(chan error, 1)
	go func() { served <- g.Serve(ctx, ln) }()
	defer func() {
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	}()
	await := func(what string, ok func([]gateway.Worker) bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !ok(g.Workers()); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%s: the gateway has %+v", what, g.Workers())
			}
		}
	}
	is := func(draining bool) func([]gateway.Worker) bool {
		return func(l []gateway.Worker) bool { return len(l) == 1 && l[0].Draining == draining }
	}
	dial := func() net.Listener {
		t.Helper()
		tun, err := w.dial(ctx, ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return tun
	}

	first := dial()
	await("before the drain", is(false))
	w.drainer.Order(&hostorder.Order{Type: hostorder.Drain, ID: "1", DeadlineMS: 1000})
	await("draining", is(true))
	first.Close()
	await("cut off", func(l []gateway.Worker) bool { return len(l) == 0 })
	second := dial()
	defer second.Close()
	await("back, and still draining", is(true))
	w.drainer.Order(&hostorder.Order{Type: hostorder.Resume, ID: "2"})
	await("resumed", is(false))
	w.drainer.Order(&hostorder.Order{Type: hostorder.Drain, ID: "1", DeadlineMS: 1000})
	w.drainer.Order(&hostorder.Order{Type: hostorder.Drain, ID: "3", DeadlineMS: 1000})
	await("draining again", is(true))
}

package handover_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"cocoon/contracts/registry"
	"cocoon/enclave/handover"
	"cocoon/internal/fault"
)

// TestTheHostCarriesAnExchange runs both enclaves on connections of their own,
// with the host between them.
func TestTheHostCarriesAnExchange(t *testing.T) {
	run := func(w *world) ([]byte, error) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		defer wg.Wait()
		defer cancel()
		dial := func(serve func(net.Conn)) {
			c, err := net.Dial("tcp4", l.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			stop := context.AfterFunc(ctx, func() { c.Close() })
			wg.Go(func() {
				defer stop()
				defer c.Close()
				serve(c)
			})
		}
		seal := func(key []byte) ([]byte, error) { return append([]byte("ticket "), key[:4]...), nil }
		dial(func(c net.Conn) { _, _ = c.Write([]byte("GET / HTTP/1.1\r\n\r\n")) }) // nobody of ours
		dial(func(c net.Conn) { _ = w.taker.Serve(ctx, c, seal) })
		dial(func(c net.Conn) { _ = w.giver.Serve(ctx, c) })
		return handover.Carry(ctx, l, handover.Material{Own: w.from.envelope, Peer: w.to.envelope}, func(string) {})
	}
	ticket, err := run(newWorld(t))
	if want := append([]byte("ticket "), diskKey[:4]...); err != nil || !bytes.Equal(ticket, want) {
		t.Errorf("got %q, %v", ticket, err)
	}
	// Each side's refusal reaches whoever runs the upgrade, with its code.
	w := newWorld(t)
	w.reg.Manifests[w.to.hash] = registry.Manifest{State: registry.Revoked}
	if ticket, err := run(w); !fault.Has(err, handover.CodeManifest) || ticket != nil || fault.All(err)[0].Remedy == "" {
		t.Errorf("the giver's refusal: %q, %v", ticket, err)
	}
	w = newWorld(t)
	w.taker.Payout = "EQother"
	if ticket, err := run(w); !fault.Has(err, handover.CodeOwner) || ticket != nil {
		t.Errorf("the taker's refusal: %q, %v", ticket, err)
	}
}

func TestAHandoverWithoutItsMachines(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	defer wg.Wait()
	c, err := net.Dial("tcp4", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	wg.Go(func() { _ = newWorld(t).giver.Serve(ctx, c) })
	// One of two has come when the time is over.
	if _, err := handover.Carry(ctx, l, handover.Material{}, func(string) { cancel() }); err == nil {
		t.Error("an exchange with itself")
	}
}

func FuzzServe(f *testing.F) {
	for _, s := range []string{`{"call":"offer"}`, `{"call":"grant","material":{"own":"","peer":""}}`, `{"call":"hello"}`} {
		f.Add(append(binary.BigEndian.AppendUint32(nil, uint32(len(s))), s...))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g := &handover.Giver{Key: func() ([]byte, error) { return nil, errors.New("no key") }}
		k := &handover.Taker{}
		for _, serve := range []func(io.ReadWriter) error{
			func(c io.ReadWriter) error { return g.Serve(context.Background(), c) },
			func(c io.ReadWriter) error {
				return k.Serve(context.Background(), c, func([]byte) ([]byte, error) { t.Error("a key from nowhere"); return nil, nil })
			},
		} {
			if err := serve(struct {
				io.Reader
				io.Writer
			}{bytes.NewReader(b), io.Discard}); err == nil {
				t.Error("it ended well")
			}
		}
	})
}

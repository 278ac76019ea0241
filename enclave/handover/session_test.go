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
	run := func(w *world, m handover.Material) ([]byte, error) {
		gh, ge := net.Pipe()
		th, te := net.Pipe()
		var wg sync.WaitGroup
		ctx, cancel := context.WithCancel(t.Context())
		defer wg.Wait()
		defer cancel()
		defer gh.Close()
		defer th.Close()
		wg.Go(func() { _ = w.giver.Serve(ctx, ge) }) // ends with its connection
		taken := make(chan error, 1)
		wg.Go(func() {
			taken <- w.taker.Serve(ctx, te, func(key []byte) ([]byte, error) { return append([]byte("ticket "), key[:4]...), nil })
		})
		ticket, err := handover.Relay(gh, th, m)
		if err == nil {
			if terr := <-taken; terr != nil {
				t.Errorf("the taker ends with %v", terr)
			}
		}
		return ticket, err
	}
	w := newWorld(t)
	m := handover.Material{Own: w.from.envelope, Peer: w.to.envelope}
	ticket, err := run(w, m)
	if want := append([]byte("ticket "), diskKey[:4]...); err != nil || !bytes.Equal(ticket, want) {
		t.Errorf("got %q, %v", ticket, err)
	}
	// Each side's refusal reaches whoever runs the upgrade, with its code.
	w = newWorld(t)
	w.reg.Manifests[w.to.hash] = registry.Manifest{State: registry.Revoked}
	if ticket, err := run(w, m); !fault.Has(err, handover.CodeManifest) || ticket != nil || fault.All(err)[0].Remedy == "" {
		t.Errorf("revoked: %q, %v", ticket, err)
	}
	w = newWorld(t)
	w.taker.Payout = "EQother"
	if ticket, err := run(w, handover.Material{Own: w.from.envelope, Peer: w.to.envelope}); !fault.Has(err, handover.CodeOwner) || ticket != nil {
		t.Errorf("the taker's refusal: %q, %v", ticket, err)
	}
	// Connections that are swapped, and a host that calls what there is not.
	a, b := net.Pipe()
	c, d := net.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() { _ = w.taker.Serve(t.Context(), b, nil) })
	wg.Go(func() { _ = w.giver.Serve(t.Context(), d) })
	if _, err := handover.Relay(a, c, handover.Material{}); !fault.Has(err, handover.CodeMessage) {
		t.Errorf("swapped: %v", err)
	}
	a.Close()
	c.Close()
	wg.Wait()
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

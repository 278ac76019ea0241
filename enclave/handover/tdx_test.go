package handover_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"testing"

	"cocoon/enclave/attest"
	"cocoon/enclave/handover"
	"cocoon/enclave/keys"
	"cocoon/enclave/platform"
	"cocoon/enclave/teetest"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// td is a simulated TD that has measured its config, and its half of a
// hand-over.
func (w *world) td() (handover.Party, json.RawMessage) {
	w.t.Helper()
	m, err := teetest.NewTD(w.fleet, w.now)
	if err != nil {
		w.t.Fatal(err)
	}
	c := m.Config
	c.NetworkID, c.Registry, c.InitBlock = network, registry0, &initBlock
	if err := m.Launch(c); err != nil {
		w.t.Fatal(err)
	}
	p, err := platform.Open(platform.TDX, m.Sources())
	if err != nil {
		w.t.Fatal(err)
	}
	events, err := evidence.RuntimeEvents(&c)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := p.Measure(events...); err != nil {
		w.t.Fatal(err)
	}
	k, err := keys.New(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	col := &attest.Collector{Identity: attest.Identity{Config: &c, SPKI: k.SPKI, ReceiptKey: k.ReceiptPublic(), Payout: payout},
		Provider: p, GPUs: attest.NoGPUs{}, Queue: &attest.Queue{}}
	party := w.giver.Party
	party.Config, party.Receipt = &c, k.Receipt
	party.Evidence = func(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
		ev, err := col.Collect(ctx, []digest.SHA256{challenge})
		if err != nil {
			return nil, err
		}
		return ev.Marshal()
	}
	return party, m.Collateral
}

// TestAKeyIsHandedFromTDToTD: a quote is nothing without Intel's collateral,
// which the host brings. Both manifests have the same TDX section here, under
// two versions.
func TestAKeyIsHandedFromTDToTD(t *testing.T) {
	w := newWorld(t)
	var collateral json.RawMessage
	w.giver.Party, collateral = w.td()
	w.taker.Party, _ = w.td()
	if _, err := w.run(nil); !fault.Has(err, handover.CodeSelf) {
		t.Errorf("without collateral: %v", err)
	}
	for _, m := range []*handover.Material{&w.give, &w.take} {
		m.OwnCollateral, m.PeerCollateral = collateral, collateral
	}
	key, err := w.run(nil)
	if err != nil || !bytes.Equal(key, diskKey) {
		t.Errorf("got %x, %v", key, err)
	}
	w.take.PeerCollateral = nil
	if _, err := w.run(nil); !fault.Has(err, handover.CodeEvidence) {
		t.Errorf("without the giver's collateral: %v", err)
	}
}

package client

import (
	"context"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"cocoon/contracts/registry"
	"cocoon/internal/fault"
	"cocoon/internal/toncell"
	"cocoon/internal/verdictcell"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// verdictWorld is a worker with evidence, a registry with two verifiers of
// which both must sign, and a verdict that is good.
type verdictWorld struct {
	peer   *Peer
	common verdictcell.Common
	state  *registry.State
	rule   *Verifiers
	now    time.Time
	from   time.Time
	signer []ed25519.PrivateKey
}

func newVerdictWorld(t *testing.T) *verdictWorld {
	t.Helper()
	w := &verdictWorld{now: time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)}
	w.from = w.now.Add(-10 * time.Minute)
	hash := func(s string) digest.SHA256 { return digest.Sum256([]byte("verdict world " + s)) }
	at, payout := toncell.Address{Hash: hash("registry")}, toncell.Address{Hash: hash("payout")}
	ev := &evidence.Evidence{
		Claims: evidence.Claims{ReceiptKey: hash("receipt key"), Payout: payout.String(), Model: evidence.Model{Name: "m", VerityRoot: hash("model")}},
		CPU:    evidence.CPU{Type: evidence.TypeTPM},
	}
	w.peer = &Peer{Evidence: ev, Document: []byte("the evidence's bytes")}
	w.common = verdictcell.Common{
		GlobalID: -239, Registry: at, TrustClass: verdictcell.VTPM, ReceiptKey: ev.Claims.ReceiptKey, Payout: payout,
		Manifest: hash("manifest"), ModelRoot: hash("model"), PolicyHash: hash("policy"), EvidenceSHA256: digest.Sum256(w.peer.Document),
	}
	w.state = registry.New(registry.NewOwners(1, ed25519.PublicKey(make([]byte, 32))), true)
	w.state.Threshold = 2
	w.state.Manifests[hash("manifest")] = registry.Manifest{State: registry.Active}
	w.state.Models[hash("model")] = registry.Model{Active: true}
	w.state.Policies[hash("policy")] = w.from
	for _, name := range []string{"one", "two"} {
		seed := hash(name)
		key := ed25519.NewKeyFromSeed(seed[:])
		w.signer = append(w.signer, key)
		w.state.AddVerifier(key.Public().(ed25519.PublicKey), w.from)
	}
	w.rule = &Verifiers{Registry: at, NetworkID: -239, Clock: func() time.Time { return w.now },
		State: func(context.Context) (*registry.State, error) { return w.state, nil }}
	return w
}

// sign makes the peer's verdict out of what the world says now.
func (w *verdictWorld) sign(t *testing.T) {
	t.Helper()
	hash, err := w.common.Hash()
	if err != nil {
		t.Fatal(err)
	}
	var sigs []verdictcell.Signature
	for _, key := range w.signer {
		s, err := verdictcell.Sign(key, hash, uint64(w.from.Unix()), uint64(w.from.Add(time.Hour).Unix()))
		if err != nil {
			t.Fatal(err)
		}
		sigs = append(sigs, s)
	}
	v, err := verdictcell.New(w.common, sigs...)
	if err != nil {
		t.Fatal(err)
	}
	text, err := v.MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	w.peer.VerdictCell = string(text)
}

func TestAVerdictCountsUnderTheRegistrysKeysOnly(t *testing.T) {
	stranger := ed25519.NewKeyFromSeed(make([]byte, 32))
	for name, c := range map[string]struct {
		change func(*verdictWorld) // before the verdict is signed
		after  func(*verdictWorld)
		want   []string // codes; none: it is accepted
	}{
		"good":                       {},
		"none is shown":              {after: func(w *verdictWorld) { w.peer.VerdictCell = "" }, want: []string{"verdict.absent"}},
		"no verdict at all":          {after: func(w *verdictWorld) { w.peer.VerdictCell = "AAAA" }, want: []string{"verdict.malformed"}},
		"over other evidence":        {after: func(w *verdictWorld) { w.peer.Document = []byte("other bytes") }, want: []string{"verdict.foreign"}},
		"for another receipt key":    {change: func(w *verdictWorld) { w.common.ReceiptKey[0]++ }, want: []string{"verdict.foreign"}},
		"for another payout":         {change: func(w *verdictWorld) { w.common.Payout.Hash[0]++ }, want: []string{"verdict.foreign"}},
		"for another model":          {change: func(w *verdictWorld) { w.common.ModelRoot[0]++ }, want: []string{"verdict.foreign", "contract.model_unknown"}},
		"of another class":           {change: func(w *verdictWorld) { w.common.TrustClass = verdictcell.TDX }, want: []string{"verdict.foreign"}},
		"under an unlisted manifest": {change: func(w *verdictWorld) { w.common.Manifest[0]++ }, want: []string{"contract.manifest_unknown"}},
		"for another registry":       {change: func(w *verdictWorld) { w.common.Registry.Hash[0]++ }, want: []string{"contract.verdict_registry"}},
		"by a stranger":              {change: func(w *verdictWorld) { w.signer[1] = stranger }, want: []string{"contract.verifier_unknown"}},
		"by one of two":              {change: func(w *verdictWorld) { w.signer = w.signer[:1] }, want: []string{"contract.signatures_too_few"}},
		"expired":                    {after: func(w *verdictWorld) { w.now = w.from.Add(time.Hour) }, want: []string{"contract.verdict_expired"}},
		"by a key that is struck":    {after: func(w *verdictWorld) { delete(w.state.Verifiers, w.state.VerifierIDs()[0]) }, want: []string{"contract.verifier_unknown"}},
		"under a manifest since revoked": {after: func(w *verdictWorld) {
			w.state.Manifests[w.common.Manifest] = registry.Manifest{State: registry.Revoked}
		}, want: []string{"contract.manifest_revoked"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newVerdictWorld(t)
			if c.change != nil {
				c.change(w)
			}
			w.sign(t)
			if c.after != nil {
				c.after(w)
			}
			err := w.rule.Check(context.Background(), w.peer)
			if (err == nil) != (len(c.want) == 0) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			for _, code := range c.want {
				if !fault.Has(err, code) {
					t.Errorf("no fault %s in %v", code, err)
				}
			}
		})
	}
}

func TestARegistryThatCannotBeReadAcceptsNothing(t *testing.T) {
	w := newVerdictWorld(t)
	w.sign(t)
	away := errors.New("no lite-server answers")
	w.rule.State = func(context.Context) (*registry.State, error) { return nil, away }
	if err := w.rule.Check(context.Background(), w.peer); !errors.Is(err, away) {
		t.Errorf("got %v", err)
	}
}

// TestNoConnectionOutlivesARefusedVerdict dials a worker whose evidence passes
// and whose verdict does not.
func TestNoConnectionOutlivesARefusedVerdict(t *testing.T) {
	w := newWorld(t, nil)
	refused := fault.New(fault.ExitRefused, "verdict.absent", "", "checking the worker's verdict: it shows none")
	asked := 0
	c, err := New(Options{Gateway: w.gwAddr, Worker: w.key, Appraise: func(*evidence.Evidence, digest.SHA256) error { return nil },
		Verdict: func(_ context.Context, p *Peer) error {
			asked++
			if string(p.Document) != string(w.doc) {
				t.Errorf("the rule saw %q", p.Document)
			}
			return refused
		}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Connect(context.Background()); !fault.Has(err, "verdict.absent") || asked != 1 || c.Peer() != nil {
		t.Errorf("got %v, peer %v, asked %d times", err, c.Peer(), asked)
	}
}

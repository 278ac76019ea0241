package handover_test

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/registry"
	"cocoon/enclave/handover"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/ratls/envelope"
	"cocoon/verifier/evidence"
)

func TestAKeyIsHandedToTheNextVersion(t *testing.T) {
	w := newWorld(t)
	key, err := w.run(nil)
	if err != nil || !bytes.Equal(key, diskKey) {
		t.Fatalf("got %x, %v", key, err)
	}
	// The old image may be in grace by then.
	w = newWorld(t)
	w.reg.Manifests[w.from.hash] = registry.Manifest{State: registry.Grace, GraceUntil: w.now.Add(time.Hour)}
	if _, err := w.run(nil); err != nil {
		t.Errorf("from an image in grace: %v", err)
	}
}

func TestWhatIsNotHandedOver(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		code   string
	}{
		"to a revoked image": {func(w *world) { w.reg.Manifests[w.to.hash] = registry.Manifest{State: registry.Revoked} }, handover.CodeManifest},
		"to an image in grace": {func(w *world) {
			w.reg.Manifests[w.to.hash] = registry.Manifest{State: registry.Grace, GraceUntil: w.now.Add(time.Hour)}
		}, handover.CodeManifest},
		"to an image that is not listed": {func(w *world) { delete(w.reg.Manifests, w.to.hash) }, handover.CodeManifest},
		"from a revoked image":           {func(w *world) { w.reg.Manifests[w.from.hash] = registry.Manifest{State: registry.Revoked} }, handover.CodeSelf},
		"to the same version":            {func(w *world) { w.upgrade(2, nil) }, handover.CodeVersion},
		"to a lower version":             {func(w *world) { w.upgrade(1, nil) }, handover.CodeVersion},
		"to another image":               {func(w *world) { w.upgrade(3, func(m *manifest.Manifest) { m.Image.Name = "other" }) }, handover.CodeVersion},
		"under an old state":             {func(w *world) { w.at.Utime -= 300 }, handover.CodeStale},
		"under a state of the future":    {func(w *world) { w.at.Utime += 300 }, handover.CodeStale},
		"under another network's state":  {func(w *world) { w.at.GlobalID = -239 }, handover.CodeNetwork},
		"without a registry":             {func(w *world) { w.old.config.Registry = "" }, handover.CodeNoLedger},
		"on a chain of the host's choice": {func(w *world) {
			for _, e := range []*enclave{w.old, w.new} {
				c := e.config
				c.InitBlock = nil
				w.launch(e, c)
			}
		}, handover.CodeNoChain},
		"on a chain that no manifest names": {func(w *world) {
			for _, e := range []*enclave{w.old, w.new} {
				c := e.config
				c.InitBlock = &evidence.MasterBlock{Seqno: 8, RootHash: initBlock.RootHash, FileHash: initBlock.FileHash}
				w.launch(e, c)
			}
		}, handover.CodeSelf},
		"of a model that is retired": {func(w *world) { w.reg.Models = nil }, handover.CodeSelf},
		"to another owner":           {func(w *world) { w.new.payout = "EQother" }, handover.CodeOwner},
		"to another config": {func(w *world) {
			c := w.new.config
			c.Engine.Args = []string{"--ctx-size", "1024"}
			w.launch(w.new, c)
		}, handover.CodeConfig},
		"to a machine under debug":             {func(w *world) { w.new.guest.Policy |= 1 << 19 }, handover.CodeEvidence},
		"from a machine under debug":           {func(w *world) { w.old.guest.Policy |= 1 << 19 }, handover.CodeSelf},
		"to a machine that runs another image": {func(w *world) { w.new.guest.Measurement[0] ^= 1 }, handover.CodeEvidence},
		"with a manifest that this machine does not run": {func(w *world) {
			other := newImage(w.t, w.fleet, 1, nil)
			w.reg.Manifests[other.hash] = registry.Manifest{State: registry.Active}
			w.give.Own = other.envelope
		}, handover.CodeSelf},
		"with a manifest that is none": {func(w *world) { w.give.Peer = []byte("{}") }, handover.CodeMessage},
		"where the disk's key is not released": {func(w *world) {
			w.giver.Key = func() ([]byte, error) { return nil, fault.New(fault.ExitRefused, "seal.x", "", "no") }
		}, "seal.x"},
		"where the ledger is away": {func(w *world) {
			w.giver.Registry = func(context.Context) (*registry.State, *chain.State, error) {
				return nil, nil, fault.New(fault.ExitNetwork, "chain.away", "", "no")
			}
		}, "chain.away"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c.change(w)
			if key, err := w.run(nil); !fault.Has(err, c.code) || key != nil {
				t.Errorf("got %x, %v, want %s", key, err, c.code)
			}
		})
	}
}

// TestAHostThatGivesAKeyOfItsOwn plays the giver as well as it can.
func TestAHostThatGivesAKeyOfItsOwn(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		code   string
	}{
		"from a revoked image":       {func(w *world) { w.reg.Manifests[w.from.hash] = registry.Manifest{State: registry.Revoked} }, handover.CodeEvidence},
		"from a machine under debug": {func(w *world) { w.old.guest.Policy |= 1 << 19 }, handover.CodeEvidence},
		"from another image":         {func(w *world) { w.old.guest.Measurement[0] ^= 1 }, handover.CodeEvidence},
		"from another owner":         {func(w *world) { w.old.payout = "EQother" }, handover.CodeOwner},
		"from another config": {func(w *world) {
			c := w.old.config
			c.Engine.Args = []string{"--ctx-size", "1024"}
			w.launch(w.old, c)
		}, handover.CodeConfig},
		"under an old state":   {func(w *world) { w.at.Utime -= 300 }, handover.CodeStale},
		"from a later version": {func(w *world) { w.take.Own, w.take.Peer = w.take.Peer, w.take.Own }, handover.CodeVersion},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			// Between grant and take the world turns bad.
			key, err := w.run(func(which string, msg []byte) []byte {
				if which == "grant" {
					c.change(w)
					return w.resign(msg)
				}
				return msg
			})
			if !fault.Has(err, c.code) || key != nil {
				t.Errorf("got %x, %v, want %s", key, err, c.code)
			}
		})
	}
}

// TestAHostInTheMiddle changes, swaps and replays messages.
func TestAHostInTheMiddle(t *testing.T) {
	var kept []byte
	for name, c := range map[string]struct {
		which  string
		change func(*testing.T, []byte) []byte
		code   string
	}{
		"another disk offered":          {"offer", func(t *testing.T, m []byte) []byte { return change(t, m, "disk", digest.SHA256{9}) }, handover.CodeDisk},
		"another challenge offered":     {"offer", func(t *testing.T, m []byte) []byte { return change(t, m, "challenge", digest.SHA256{9}) }, handover.CodeChallenge},
		"the taker's challenge swapped": {"hello", func(t *testing.T, m []byte) []byte { return change(t, m, "challenge", digest.SHA256{9}) }, ""},
		"another disk asked for":        {"ask", func(t *testing.T, m []byte) []byte { return change(t, m, "disk", digest.SHA256{9}) }, handover.CodeDisk},
		"another taker in the ask":      {"ask", func(t *testing.T, m []byte) []byte { return change(t, m, "taker", digest.SHA256{9}) }, handover.CodeEvidence},
		"an unknown field":              {"ask", func(t *testing.T, m []byte) []byte { return change(t, m, "x", 1) }, handover.CodeMessage},
		"another format":                {"hello", func(t *testing.T, m []byte) []byte { return change(t, m, "format", "x") }, handover.CodeMessage},
		"no request":                    {"ask", func(t *testing.T, m []byte) []byte { return change(t, m, "request", []byte{}) }, envelope.CodeRequest},
		"no evidence":                   {"ask", func(t *testing.T, m []byte) []byte { return change(t, m, "evidence", []byte{}) }, handover.CodeMessage},
		"an envelope of its own":        {"grant", func(t *testing.T, m []byte) []byte { return change(t, m, "envelope", make([]byte, 1300)) }, handover.CodeSignature},
		"no signature":                  {"grant", func(t *testing.T, m []byte) []byte { return change(t, m, "signature", []byte{}) }, handover.CodeSignature},
		"not a message":                 {"grant", func(*testing.T, []byte) []byte { return []byte("x") }, handover.CodeMessage},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			key, err := w.run(func(which string, msg []byte) []byte {
				if which == c.which {
					return c.change(t, msg)
				}
				return msg
			})
			if c.code == "" { // the hello only opens: the ask carries the challenge
				if err != nil {
					t.Error(err)
				}
				return
			}
			if !fault.Has(err, c.code) || key != nil {
				t.Errorf("got %x, %v, want %s", key, err, c.code)
			}
		})
	}
	t.Run("an ask replayed", func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.run(func(which string, msg []byte) []byte {
			if which == "ask" {
				kept = slices.Clone(msg)
			}
			return msg
		}); err != nil {
			t.Fatal(err)
		}
		if g, err := w.giver.Grant(t.Context(), kept, w.give); !fault.Has(err, handover.CodeChallenge) || g != nil {
			t.Errorf("again: %v", err)
		}
	})
	t.Run("an ask of a refused exchange", func(t *testing.T) {
		w := newWorld(t)
		w.at.Utime -= 300
		_, err := w.run(func(which string, msg []byte) []byte {
			if which == "ask" {
				kept = slices.Clone(msg)
			}
			return msg
		})
		w.at.Utime += 300
		if !fault.Has(err, handover.CodeStale) {
			t.Fatal(err)
		}
		if _, err := w.giver.Grant(t.Context(), kept, w.give); !fault.Has(err, handover.CodeChallenge) {
			t.Errorf("again: %v", err)
		}
	})
	t.Run("an ask that comes late", func(t *testing.T) {
		w := newWorld(t)
		_, err := w.run(func(which string, msg []byte) []byte {
			if which == "ask" {
				w.now = w.now.Add(handover.ChallengeLife)
				w.at.Utime += uint32(handover.ChallengeLife / time.Second)
			}
			return msg
		})
		if !fault.Has(err, handover.CodeChallenge) {
			t.Errorf("got %v", err)
		}
	})
	t.Run("an old grant", func(t *testing.T) {
		w := newWorld(t)
		if _, err := w.run(func(which string, msg []byte) []byte {
			if which == "grant" {
				kept = slices.Clone(msg)
			}
			return msg
		}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.taker.Take(t.Context(), kept, w.take); !fault.Has(err, handover.CodeMessage) {
			t.Errorf("in the same exchange: %v", err)
		}
		_, err := w.run(func(which string, msg []byte) []byte {
			if which == "grant" {
				return kept
			}
			return msg
		})
		if !fault.Has(err, handover.CodeEvidence) { // it answers another challenge
			t.Errorf("in the next: %v", err)
		}
	})
}

func TestOpenChallengesAreBounded(t *testing.T) {
	w := newWorld(t)
	hello, err := w.taker.Hello()
	if err != nil {
		t.Fatal(err)
	}
	for range handover.MaxChallenges {
		if _, err := w.giver.Offer(hello); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.giver.Offer(hello); !fault.Has(err, handover.CodeChallenge) {
		t.Errorf("one more: %v", err)
	}
	w.now = w.now.Add(handover.ChallengeLife)
	if _, err := w.giver.Offer(hello); err != nil {
		t.Errorf("after their time: %v", err)
	}
}

func FuzzMessages(f *testing.F) {
	for _, s := range []string{`{"challenge":"00","format":"cocoon-handover/1"}`, `{"format":"cocoon-handover/1"}`} {
		f.Add([]byte(s))
	}
	g := &handover.Giver{Key: func() ([]byte, error) { return nil, errors.New("no key") }}
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, err := g.Offer(b); err == nil {
			t.Error("an offer without a key")
		}
		if _, err := g.Grant(context.Background(), b, handover.Material{}); err == nil {
			t.Error("a grant without a key")
		}
		k := &handover.Taker{}
		if _, err := k.Take(context.Background(), b, handover.Material{}); err == nil {
			t.Error("a key from nowhere")
		}
	})
}

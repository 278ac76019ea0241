package handover_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"cocoon/contracts/chain"
	"cocoon/contracts/registry"
	"cocoon/enclave/attest"
	"cocoon/enclave/handover"
	"cocoon/enclave/keys"
	"cocoon/enclave/platform"
	"cocoon/enclave/teetest"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/snp"
	"cocoon/ratls/envelope"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	verify "cocoon/verifier/snp"
	"cocoon/verifier/snptest"
	"cocoon/verifier/testfleet"
)

const (
	network   = -777
	registry0 = "0:1111111111111111111111111111111111111111111111111111111111111111"
	payout    = "EQowner"
)

var (
	initBlock = evidence.MasterBlock{Seqno: 7, RootHash: digest.Sum256([]byte("root")), FileHash: digest.Sum256([]byte("file"))}

	diskKey = bytes.Repeat([]byte{0xd1}, 96)
	made    = sync.OnceValues(func() (*testfleet.Fleet, error) { return testfleet.New("handover") })
	// template is a guest to copy: its certificate takes time to make.
	template = sync.OnceValues(func() (*teetest.Guest, error) {
		f, err := made()
		if err != nil {
			return nil, err
		}
		return teetest.NewGuest(f, snptest.Now)
	})
)

// image is one version of an image: its manifest, and what launching it gives.
type image struct {
	envelope []byte
	hash     digest.SHA256
	digest   [48]byte
}

func newImage(t *testing.T, f *testfleet.Fleet, version uint64, change func(*manifest.Manifest)) image {
	t.Helper()
	env, err := f.Envelope()
	if err != nil {
		t.Fatal(err)
	}
	v, err := manifest.Read(env, nil)
	if err != nil {
		t.Fatal(err)
	}
	m := v.Manifest
	m.Image.Version = version
	m.Config.NetworkIDs, m.Config.Registries = []int32{network}, []string{registry0}
	m.Config.InitBlocks = []manifest.MasterBlock{manifest.MasterBlock(initBlock)}
	m.SNP.Components.Kernel = digest.Sum256([]byte{byte(version)})
	if change != nil {
		change(m)
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if env, err = manifest.Sign(m, key); err != nil {
		t.Fatal(err)
	}
	if v, err = manifest.Read(env, nil); err != nil {
		t.Fatal(err)
	}
	d, err := snp.Measure(m.SNP.Firmwares[0].Firmware, &m.SNP.Components, snp.Shape{VMM: snp.QEMU, VCPUs: 4, VCPUType: "EPYC-Milan", Features: snp.DefaultFeatures})
	if err != nil {
		t.Fatal(err)
	}
	return image{env, v.SHA256, d}
}

// enclave is one machine, simulated, that runs an image.
type enclave struct {
	guest  *teetest.Guest
	keys   *keys.Keys
	payout string
	config evidence.Config
}

func (e *enclave) evidence(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
	p, err := platform.Open(platform.SNP, e.guest.Sources())
	if err != nil {
		return nil, err
	}
	c := &attest.Collector{Identity: attest.Identity{Config: &e.config, SPKI: e.keys.SPKI, ReceiptKey: e.keys.ReceiptPublic(), Payout: e.payout},
		Provider: p, GPUs: attest.NoGPUs{}, Queue: &attest.Queue{}}
	ev, err := c.Collect(ctx, []digest.SHA256{challenge})
	if err != nil {
		return nil, err
	}
	return ev.Marshal()
}

// world is an upgrade from one version to the next, with everything good.
type world struct {
	t        *testing.T
	fleet    *testfleet.Fleet
	old, new *enclave
	from, to image
	reg      *registry.State
	at       chain.State
	now      time.Time
	giver    *handover.Giver
	taker    *handover.Taker
	give     handover.Material
	take     handover.Material
}

func newWorld(t *testing.T) *world {
	t.Helper()
	f, err := made()
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, fleet: f, now: snptest.Now}
	w.from, w.to = newImage(t, f, 2, nil), newImage(t, f, 3, nil)
	w.old, w.new = w.enclave(w.from), w.enclave(w.to)
	w.reg = &registry.State{Manifests: map[[32]byte]registry.Manifest{w.from.hash: {State: registry.Active}, w.to.hash: {State: registry.Active}},
		Models: map[[32]byte]registry.Model{w.old.config.Model.Verity.Root: {Active: true}}}
	w.at.GlobalID, w.at.Utime = network, uint32(w.now.Add(-10*time.Second).Unix())
	w.giver = &handover.Giver{Party: w.party(w.old), Key: func() ([]byte, error) { return bytes.Clone(diskKey), nil }}
	w.taker = &handover.Taker{Party: w.party(w.new)}
	w.give = handover.Material{Own: w.from.envelope, Peer: w.to.envelope}
	w.take = handover.Material{Own: w.to.envelope, Peer: w.from.envelope}
	return w
}

func (w *world) enclave(i image) *enclave {
	w.t.Helper()
	launched, err := template()
	if err != nil {
		w.t.Fatal(err)
	}
	g := new(teetest.Guest)
	*g = *launched
	g.Measurement = i.digest
	c := g.Config
	c.NetworkID, c.Registry, c.InitBlock = network, registry0, &initBlock
	k, err := keys.New(rand.Reader)
	if err != nil {
		w.t.Fatal(err)
	}
	e := &enclave{guest: g, keys: k, payout: payout}
	w.launch(e, c)
	return e
}

func (w *world) launch(e *enclave, c evidence.Config) {
	w.t.Helper()
	e.config = c
	if err := e.guest.Launch(c); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) party(e *enclave) handover.Party {
	return handover.Party{Config: &e.config, Payout: payout, Receipt: e.keys.Receipt, Evidence: e.evidence, Policy: w.fleet.Policy(),
		Registry: func(context.Context) (*registry.State, *chain.State, error) { at := w.at; return w.reg, &at, nil },
		CPUs:     tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: w.fleet.TDXPKI().Roots()}, SNP: verify.Options{Roots: w.fleet.SNPPKI().Roots()}}),
		Clock:    func() time.Time { return w.now }}
}

// run makes an exchange; host sees and may change each message on its way.
func (w *world) run(host func(name string, msg []byte) []byte) ([]byte, error) {
	if host == nil {
		host = func(_ string, msg []byte) []byte { return msg }
	}
	ctx := w.t.Context()
	hello, err := w.taker.Hello()
	if err != nil {
		return nil, err
	}
	offer, err := w.giver.Offer(host("hello", hello))
	if err != nil {
		return nil, err
	}
	ask, err := w.taker.Ask(ctx, host("offer", offer))
	if err != nil {
		return nil, err
	}
	grant, err := w.giver.Grant(ctx, host("ask", ask), w.give)
	if err != nil {
		return nil, err
	}
	if bytes.Contains(grant, diskKey[:16]) {
		w.t.Error("the grant shows the key")
	}
	return w.taker.Take(ctx, host("grant", grant), w.take)
}

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

// upgrade makes the new machine run another image.
func (w *world) upgrade(version uint64, change func(*manifest.Manifest)) {
	w.to = newImage(w.t, w.fleet, version, func(m *manifest.Manifest) {
		m.SNP.Components.Kernel = digest.Sum256([]byte("another"))
		if change != nil {
			change(m)
		}
	})
	w.reg.Manifests[w.to.hash] = registry.Manifest{State: registry.Active}
	w.new.guest.Measurement = w.to.digest
	w.give.Peer, w.take.Own = w.to.envelope, w.to.envelope
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

// resign makes a grant anew with evidence of the old machine as it is now.
func (w *world) resign(msg []byte) []byte {
	w.t.Helper()
	var g map[string][]byte
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(msg, &fields); err != nil {
		w.t.Fatal(err)
	}
	delete(fields, "format")
	b, err := json.Marshal(fields)
	if err == nil {
		err = json.Unmarshal(b, &g)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	ev, err := evidence.Parse(g["evidence"])
	if err != nil {
		w.t.Fatal(err)
	}
	doc, err := w.old.evidence(w.t.Context(), ev.NonceInputs[0])
	if err != nil {
		w.t.Fatal(err)
	}
	g["evidence"] = doc
	return change(w.t, msg, "evidence", doc)
}

// change changes a field of a message.
func change(t *testing.T, msg []byte, field string, v any) []byte {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(msg, &m); err != nil {
		t.Fatal(err)
	}
	m[field] = v
	out, err := json.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return out
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

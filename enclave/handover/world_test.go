package handover_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/json"
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
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/snp"
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

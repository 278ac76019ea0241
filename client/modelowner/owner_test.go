package modelowner_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/client"
	"cocoon/client/modelowner"
	"cocoon/enclave/attest"
	"cocoon/enclave/keys"
	"cocoon/enclave/platform"
	"cocoon/enclave/teetest"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/measurements/modelpack"
	"cocoon/ratls/envelope"
	"cocoon/ratls/modelkey"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/policy/rules"
	verify "cocoon/verifier/snp"
	"cocoon/verifier/snptest"
	"cocoon/verifier/testfleet"
	"cocoon/verifier/wire"
)

var (
	made = sync.OnceValues(func() (*testfleet.Fleet, error) { return testfleet.New("modelowner") })
	// template is a guest to copy: its certificate takes time to make.
	template = sync.OnceValues(func() (*teetest.Guest, error) {
		f, err := made()
		if err != nil {
			return nil, err
		}
		return teetest.NewGuest(f, snptest.Now)
	})
)

// world is an owner's service and an enclave that asks it, with everything
// good.
type world struct {
	t      *testing.T
	trust  *client.Trust
	held   modelowner.Held
	owner  *modelowner.Owner
	log    string // path of the journal
	guest  *teetest.Guest
	keys   *keys.Keys
	payout string
	config evidence.Config
	asker  *modelkey.Asker
	// host sees each message on its way and may change it: to is a path, or
	// "answer " and a path.
	host func(to string, b []byte) []byte
	// evidence replaces what the enclave shows.
	evidence func(ctx context.Context, challenge digest.SHA256) ([]byte, error)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	f, err := made()
	ok(t, err)
	env, err := f.Envelope()
	ok(t, err)
	w := &world{t: t, payout: "EQowner", log: filepath.Join(t.TempDir(), "releases"), host: func(_ string, b []byte) []byte { return b },
		trust: &client.Trust{Policy: f.Policy(), Manifests: []manifest.Published{{Envelope: env}}, Clock: func() time.Time { return snptest.Now },
			CPUs: tee.CPUs(tee.Options{DCAP: dcap.Options{Roots: f.TDXPKI().Roots()}, SNP: verify.Options{Roots: f.SNPPKI().Roots()}})}}
	launched, err := template()
	ok(t, err)
	w.guest = new(teetest.Guest)
	*w.guest = *launched
	w.keys, err = keys.New(rand.Reader)
	ok(t, err)
	w.held.Key = modelpack.NewKey()
	c := w.guest.Config
	id := w.held.Key.ID()
	c.Model.KeySHA256 = &id
	w.held.Pack = fmt.Sprintf("chat@1:%s", c.Model.Verity.Root)
	w.launch(c)
	w.serve()
	return w
}

func ok(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (w *world) launch(c evidence.Config) {
	w.t.Helper()
	w.config = c
	ok(w.t, w.guest.Launch(c))
}

// serve starts the owner's service, again after a test has changed what it
// holds.
func (w *world) serve() {
	w.t.Helper()
	j, err := modelowner.OpenJournal(w.log)
	ok(w.t, err)
	w.t.Cleanup(func() { j.Close() })
	w.owner, err = modelowner.New(modelowner.Options{Keys: []modelowner.Held{w.held}, Appraise: w.trust.Fresh, Journal: j,
		Clock: func() time.Time { return snptest.Now }, Log: slog.New(slog.DiscardHandler)})
	ok(w.t, err)
	srv := httptest.NewServer(w.owner.Handler())
	w.t.Cleanup(srv.Close)
	hash, err := w.config.Hash()
	ok(w.t, err)
	w.asker = &modelkey.Asker{URL: srv.URL + "/", HTTP: &http.Client{Transport: w}, Receipt: w.keys.Receipt, Config: hash,
		Evidence: func(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
			if w.evidence != nil {
				return w.evidence(ctx, challenge)
			}
			return w.show(ctx, challenge)
		}}
}

// RoundTrip is the host's network.
func (w *world) RoundTrip(r *http.Request) (*http.Response, error) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	b = w.host(r.URL.Path, b)
	r = r.Clone(r.Context())
	r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(b)), int64(len(b))
	rsp, err := http.DefaultTransport.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer rsp.Body.Close()
	if b, err = io.ReadAll(rsp.Body); err != nil {
		return nil, err
	}
	if bytes.Contains(b, w.held.Key[:16]) {
		w.t.Error("an answer shows the key")
	}
	rsp.Body = io.NopCloser(bytes.NewReader(w.host("answer "+r.URL.Path, b)))
	return rsp, nil
}

// show is the enclave's evidence.
func (w *world) show(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
	return w.showFor(ctx, challenge, w.config.Model)
}

func (w *world) showFor(ctx context.Context, challenge digest.SHA256, m evidence.ConfigModel) ([]byte, error) {
	p, err := platform.Open(platform.SNP, w.guest.Sources())
	if err != nil {
		return nil, err
	}
	c := &attest.Collector{Identity: attest.Identity{Config: &w.config, SPKI: w.keys.SPKI, ReceiptKey: w.keys.ReceiptPublic(), Payout: w.payout},
		Provider: p, GPUs: attest.NoGPUs{}, Queue: &attest.Queue{}}
	ev, err := c.For(m).Collect(ctx, []digest.SHA256{challenge})
	if err != nil {
		return nil, err
	}
	return ev.Marshal()
}

func (w *world) ask() (*modelpack.Key, error) {
	return w.asker.Ask(w.t.Context(), w.config.Model.Verity.Root, *w.config.Model.KeySHA256)
}

// released reads the journal.
func (w *world) released() []modelowner.Release {
	w.t.Helper()
	b, err := os.ReadFile(w.log)
	ok(w.t, err)
	out, err := modelowner.ReadLog(bytes.NewReader(b))
	ok(w.t, err)
	return out
}

func TestAKeyIsReleasedToAnAcceptedEnclave(t *testing.T) {
	w := newWorld(t)
	var doc []byte
	w.evidence = func(ctx context.Context, c digest.SHA256) (b []byte, err error) {
		doc, err = w.show(ctx, c)
		return doc, err
	}
	key, err := w.ask()
	if err != nil || *key != w.held.Key {
		t.Fatalf("got %v, %v", key, err)
	}
	log := w.released()
	if len(log) != 1 {
		t.Fatalf("%d releases in the log", len(log))
	}
	env, err := manifest.Read(w.trust.Manifests[0].Envelope, nil)
	ok(t, err)
	config, err := w.config.Hash()
	ok(t, err)
	pol, err := w.trust.Policy.Hash()
	ok(t, err)
	want := modelowner.Release{Seq: 1, Time: snptest.Now.UTC().Format(time.RFC3339), Pack: w.held.Pack, KeySHA256: w.held.Key.ID(),
		Manifest: env.SHA256, Image: env.Manifest.Image.Name, Version: env.Manifest.Image.Version, TrustClass: policy.ClassTest,
		Policy: pol, Evidence: digest.Sum256(doc), Config: config, ReceiptKey: w.keys.ReceiptPublic(), Payout: "EQowner", From: "127.0.0.1"}
	if log[0] != want {
		t.Errorf("logged %+v, want %+v", log[0], want)
	}
	// A service that was started again goes on with its log.
	w.owner = nil
	w.log += ".2"
	w.serve()
	if _, err := w.ask(); err != nil || len(w.released()) != 1 {
		t.Errorf("after a restart: %v", err)
	}
}

// TestAKeyIsReleasedForOneOfSeveralModels, whose name the claims have. An owner who
// wants no other model beside its own says so in its policy.
func TestAKeyIsReleasedForOneOfSeveralModels(t *testing.T) {
	w := newWorld(t)
	ours := w.config.Model
	other := evidence.ConfigModel{Name: "first", Verity: evidence.Verity{Root: digest.Sum256([]byte("first")), DataBlocks: 1}}
	w.config.Model, w.config.Models = other, []evidence.ConfigModel{ours}
	w.launch(w.config)
	w.listed(other)
	w.log += ".2"
	w.serve()
	w.evidence = func(ctx context.Context, c digest.SHA256) ([]byte, error) { return w.showFor(ctx, c, ours) }
	key, err := w.asker.Ask(t.Context(), ours.Verity.Root, *ours.KeySHA256)
	if err != nil || *key != w.held.Key {
		t.Fatalf("got %v, %v", key, err)
	}
	w.trust.Policy.Rules = append(w.trust.Policy.Rules, rules.Rule{ID: "ours.alone", Expression: "!has(config.models)", Reason: "another model beside ours"})
	if key, err := w.asker.Ask(t.Context(), ours.Verity.Root, *ours.KeySHA256); key != nil || !fault.Has(err, modelkey.CodeRefused) || !fault.Has(err, "policy.rule.ours.alone") {
		t.Errorf("beside another model: %v, %v", key, err)
	}
}

func TestEnclavesThatGetNoKey(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*world)
		code   string // that the owner gives
	}{
		"a machine under debug":            {func(w *world) { w.guest.Policy |= 1 << 19 }, modelkey.CodeRefused},
		"another image":                    {func(w *world) { w.guest.Measurement[0] ^= 1 }, modelkey.CodeRefused},
		"a config that was not launched":   {func(w *world) { w.guest.HostData[0] ^= 1 }, modelkey.CodeRefused},
		"a revoked manifest":               {func(w *world) { w.revoke() }, modelkey.CodeRefused},
		"a manifest that is not listed":    {func(w *world) { w.registry(nil) }, modelkey.CodeRefused},
		"a model that is retired":          {func(w *world) { w.registry(func(r *appraise.Registry) { clear(r.Models) }) }, modelkey.CodeRefused},
		"a trust class that is too low":    {func(w *world) { w.trust.Policy.TrustClasses = []string{policy.ClassVTPM} }, modelkey.CodeRefused},
		"evidence for another challenge":   {func(w *world) { w.stale() }, modelkey.CodeRefused},
		"evidence with others' receipts":   {func(w *world) { w.evidence = w.other }, envelope.CodeSignedBy},
		"a config with another key's name": {func(w *world) { w.name(digest.SHA256{1}) }, modelkey.CodeConfig},
		"a config that says it is plain": {func(w *world) {
			w.config.Model.KeySHA256 = nil
			w.launch(w.config)
		}, modelkey.CodeConfig},
		"a config with another model": {func(w *world) {
			w.config.Model.Verity.Root[0] ^= 1
			w.launch(w.config)
		}, modelkey.CodeRefused},
		"a payout address beyond bounds": {func(w *world) { w.payout = strings.Repeat("E", 300) }, modelkey.CodeMessage},
		"a key that the owner has not": {func(w *world) {
			w.held.Key = modelpack.NewKey()
			w.log += ".2"
			w.serve()
		}, modelkey.CodeUnknown},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			root, id := w.config.Model.Verity.Root, *w.config.Model.KeySHA256
			c.change(w)
			key, err := w.asker.Ask(t.Context(), root, id)
			if key != nil || !fault.Has(err, c.code) || !fault.Has(err, modelkey.CodeRefused) {
				t.Errorf("got %v, %v, want %s", key, err, c.code)
			}
			if code := fault.ExitCode(err); code != fault.ExitRefused {
				t.Errorf("exit code %d, want %d: it would ask again", code, fault.ExitRefused)
			}
			for _, f := range fault.All(err) {
				if f.Remedy == "" {
					t.Errorf("no remedy: %v", f)
				}
			}
			if n := len(w.released()); n != 0 {
				t.Errorf("%d releases in the log", n)
			}
		})
	}
}

// registry has the policy name a registry, and the manifest active there, until
// change changes it.
func (w *world) registry(change func(*appraise.Registry)) {
	p := *w.trust.Policy
	p.Manifests.Registry = &policy.Registry{Address: "0:11", NetworkID: -777, MaxAgeSeconds: 60}
	w.trust.Policy = &p
	w.trust.Registry = func(context.Context) (*appraise.Registry, error) {
		r := &appraise.Registry{Address: "0:11", NetworkID: -777, Time: snptest.Now,
			Manifests: map[digest.SHA256]appraise.ManifestState{}, Models: map[digest.SHA256]bool{w.config.Model.Verity.Root: true}}
		if change != nil {
			env, err := manifest.Read(w.trust.Manifests[0].Envelope, nil)
			if err != nil {
				return nil, err
			}
			r.Manifests[env.SHA256] = appraise.ManifestState{Listed: true}
			change(r)
		}
		return r, nil
	}
}

func (w *world) revoke() {
	w.t.Helper()
	env, err := manifest.Read(w.trust.Manifests[0].Envelope, nil)
	ok(w.t, err)
	p := *w.trust.Policy
	p.Manifests.Revoked = []digest.SHA256{env.SHA256}
	w.trust.Policy = &p
}

// listed publishes a manifest that names one more model.
func (w *world) listed(more evidence.ConfigModel) {
	w.t.Helper()
	env, err := manifest.Read(w.trust.Manifests[0].Envelope, nil)
	ok(w.t, err)
	m := *env.Manifest
	m.Models = append(slices.Clone(m.Models), manifest.Model{Name: more.Name, VerityRoot: more.Verity.Root})
	public, key, err := ed25519.GenerateKey(nil)
	ok(w.t, err)
	w.trust.Manifests[0].Envelope, err = manifest.Sign(&m, key)
	ok(w.t, err)
	p := *w.trust.Policy
	p.Manifests.Keys = []digest.SHA256{digest.SHA256(public)}
	w.trust.Policy = &p
}

func (w *world) stale() {
	w.evidence = func(ctx context.Context, _ digest.SHA256) ([]byte, error) {
		return w.show(ctx, digest.Sum256([]byte("of yesterday")))
	}
}

// other is good evidence of another boot, whose receipt key this enclave has
// not.
func (w *world) other(ctx context.Context, challenge digest.SHA256) ([]byte, error) {
	k, err := keys.New(rand.Reader)
	if err != nil {
		return nil, err
	}
	mine := w.keys
	w.keys = k
	defer func() { w.keys = mine }()
	return w.show(ctx, challenge)
}

func (w *world) name(id digest.SHA256) {
	w.config.Model.KeySHA256 = &id
	w.launch(w.config)
}

// serveAs answers requests for one key with the key that is held.
func (w *world) serveAs(id digest.SHA256) {
	w.host = func(to string, b []byte) []byte {
		if to != modelkey.PathRelease {
			return b
		}
		ask, err := modelkey.ParseAsk(b)
		ok(w.t, err)
		ev, hash, err := evidence.ParseHashed(ask.Evidence)
		ok(w.t, err)
		req, err := envelope.ParseRequest(ask.Request)
		ok(w.t, err)
		res, err := w.trust.Fresh(w.t.Context(), ev, hash, req.Challenge)
		ok(w.t, err)
		h := envelope.Holder{Purpose: envelope.PurposeModelKey, Challenge: req.Challenge, Result: res, Now: snptest.Now}
		sealed, err := h.Seal(ask.Request, w.held.Key[:], ask.Bound(res.Claims.ConfigSHA256))
		ok(w.t, err)
		grant, err := modelkey.Encode(&modelkey.Grant{Format: modelkey.Format, Envelope: sealed})
		ok(w.t, err)
		before := w.host
		w.host = func(to string, b []byte) []byte {
			if to == "answer "+modelkey.PathRelease {
				return grant
			}
			return before(to, b)
		}
		return b
	}
	w.asker.HTTP = &http.Client{Transport: always200{w}}
}

// always200 says of every answer that it is good.
type always200 struct{ *world }

func (a always200) RoundTrip(r *http.Request) (*http.Response, error) {
	rsp, err := a.world.RoundTrip(r)
	if err == nil {
		rsp.StatusCode = http.StatusOK
	}
	return rsp, err
}

func TestNothingIsReleasedThatIsNotLogged(t *testing.T) {
	w := newWorld(t)
	j, err := modelowner.OpenJournal(w.log + ".closed")
	ok(t, err)
	ok(t, j.Close())
	w.owner, err = modelowner.New(modelowner.Options{Keys: []modelowner.Held{w.held}, Appraise: w.trust.Fresh, Journal: j,
		Clock: func() time.Time { return snptest.Now }, Log: slog.New(slog.DiscardHandler)})
	ok(t, err)
	srv := httptest.NewServer(w.owner.Handler())
	defer srv.Close()
	w.asker.URL = srv.URL
	key, err := w.ask()
	if key != nil || !fault.Has(err, modelowner.CodeLog) || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("got %v, %v", key, err)
	}
}

func TestWhatIsNoRequestIsAProblemDocument(t *testing.T) {
	w := newWorld(t)
	h := w.owner.Handler()
	for name, c := range map[string]struct {
		method, path, body string
		status             int
		code               string
	}{
		"no message":       {"POST", modelkey.PathChallenge, "x", 400, modelkey.CodeMessage},
		"too much":         {"POST", modelkey.PathChallenge, strings.Repeat("x", modelkey.MaxHello+1), 400, modelkey.CodeMessage},
		"another method":   {"GET", modelkey.PathRelease, "", 405, ""},
		"another path":     {"POST", "/v1/key", "", 404, ""},
		"an empty request": {"POST", modelkey.PathRelease, "{}", 400, modelkey.CodeMessage},
	} {
		t.Run(name, func(t *testing.T) {
			rec := httptest.NewRecorder()
			h.ServeHTTP(rec, httptest.NewRequest(c.method, c.path, strings.NewReader(c.body)))
			if rec.Code != c.status {
				t.Errorf("status %d, want %d", rec.Code, c.status)
			}
			if c.code == "" {
				return
			}
			var p wire.Problem
			if err := jcs.Decode(rec.Body.Bytes(), 1<<20, &p); err != nil || p.Code != c.code || len(p.Faults) == 0 || rec.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("problem %s, %v, want %s", rec.Body, err, c.code)
			}
		})
	}
}

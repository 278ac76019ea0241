package services_test

import (
	"bytes"
	"context"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rim"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/nvgpu/services"
)

const driverID = "NV_GPU_DRIVER_GH100_550.90.07"

// world is a service with one driver manifest, and a clock to turn.
type world struct {
	t      *testing.T
	pki    *rimtest.PKI
	signer *rimtest.Authority
	server *rimtest.Server
	url    string
	roots  *rim.Roots
	mu     sync.Mutex
	now    time.Time
}

func (w *world) clock() time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now
}

func (w *world) pass(d time.Duration) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now = w.now.Add(d)
}

func must[T any](t testing.TB, v T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func newWorld(t *testing.T) *world {
	t.Helper()
	pki, err := rimtest.NewPKI()
	must(t, pki, err)
	w := &world{t: t, pki: pki, server: rimtest.NewServer(), now: rimtest.Now}
	w.roots, err = rim.ParseRoots(pki.RootPEM())
	must(t, w.roots, err)
	w.signer, err = rimtest.Issue(pki.L3, rimtest.Profile{Name: "signer"})
	must(t, w.signer, err)
	w.server.Put(driverID, w.mint("550.90.07", w.signer))
	w.server.Issued(w.signer, pki.L3)
	w.server.Issued(pki.L3, pki.CA)
	w.server.Issued(pki.CA, pki.Root)
	ts := httptest.NewServer(w.server)
	t.Cleanup(ts.Close)
	w.url = ts.URL
	return w
}

func (w *world) mint(version string, signer *rimtest.Authority) []byte {
	b, err := w.pki.Mint(rimtest.RIM{Version: version, Values: rimtest.One(4, version, 1, 2), Signer: signer})
	return must(w.t, b, err)
}

func (w *world) client(change func(*services.Options)) *services.Client {
	w.t.Helper()
	o := services.Options{RIMURL: w.url, Roots: w.roots, Clock: w.clock, Attempts: 2, Rand: func() float64 { return 0 },
		Sleep: func(context.Context, time.Duration) error { return nil }}
	if change != nil {
		change(&o)
	}
	c, err := services.New(o)
	must(w.t, c, err)
	w.t.Cleanup(c.Close)
	return c
}

func TestManifestsAreKept(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	onDisk := func(o *services.Options) { o.CacheDir = dir }
	c := w.client(onDisk)
	for range 3 {
		r, err := c.RIM(t.Context(), driverID)
		if err != nil || r.Stale || r.Doc.Version != "550.90.07" || !r.Fetched.Equal(rimtest.Now) {
			t.Fatalf("got %+v, %v", r, err)
		}
	}
	if _, err := w.client(onDisk).RIM(t.Context(), driverID); err != nil {
		t.Fatal(err)
	}
	path := "/v1/rim/" + driverID
	if n := w.server.Requests(path); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	// After its time it is asked for again; while the service is down it is
	// returned as stale, to a limit.
	w.pass(services.DefaultTTL)
	if r, err := c.RIM(t.Context(), driverID); err != nil || r.Stale || w.server.Requests(path) != 2 {
		t.Errorf("after the TTL: %v, %d requests", err, w.server.Requests(path))
	}
	w.server.Misbehave(http.StatusBadGateway, nil, nil)
	w.pass(services.DefaultTTL)
	if r, err := c.RIM(t.Context(), driverID); err != nil || !r.Stale {
		t.Errorf("with the service down: %+v, %v", r, err)
	}
	w.pass(services.DefaultMaxStale)
	if r, err := c.RIM(t.Context(), driverID); !fault.Has(err, "rim.service.server") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("after the limit: %+v, %v", r, err)
	}
	// What the service has no more is not returned, however fresh.
	w.server.Misbehave(0, nil, nil)
	w.pass(time.Hour)
	if _, err := c.RIM(t.Context(), driverID); err != nil {
		t.Fatal(err)
	}
	w.server.Put(driverID, nil)
	w.pass(services.DefaultTTL)
	if r, err := c.RIM(t.Context(), driverID); !services.IsNotFound(err) {
		t.Errorf("withdrawn: %+v, %v", r, err)
	}
}

func TestAnswersThatDoNotHoldAreRefused(t *testing.T) {
	w := newWorld(t)
	stranger, err := rimtest.NewPKI()
	must(t, stranger, err)
	foreign, err := stranger.Mint(rimtest.RIM{Version: "550.90.07", Values: rimtest.One(1, "x")})
	must(t, foreign, err)
	for name, c := range map[string]struct {
		status int
		doc    []byte
		edit   func(map[string]any)
		want   string
	}{
		"another id":          {0, nil, func(a map[string]any) { a["id"] = "NV_GPU_DRIVER_GH100_1" }, "rim.service.id"},
		"another hash":        {0, nil, func(a map[string]any) { a["sha256"] = "00" }, "rim.service.sha256"},
		"no hash":             {0, nil, func(a map[string]any) { delete(a, "sha256") }, "rim.service.sha256"},
		"CoRIM":               {0, nil, func(a map[string]any) { a["rim_format"] = "CORIM" }, "rim.service.format"},
		"no base64":           {0, nil, func(a map[string]any) { a["rim"] = "%%" }, "rim.service.format"},
		"a huge document":     {0, bytes.Repeat([]byte("x"), 600<<10), nil, "rim.service.too_large"},
		"another version":     {0, w.mint("550.90.08", w.signer), nil, "rim.service.version"},
		"a changed document":  {0, bytes.Replace(w.mint("550.90.07", w.signer), []byte("False"), []byte("True"), 1), nil, rim.CheckDigest},
		"a foreign signature": {0, foreign, nil, rim.CheckChain},
		"no document":         {0, []byte("x"), nil, rim.CheckParse},
		"too many requests":   {http.StatusTooManyRequests, nil, nil, "rim.service.rate_limited"},
		"no key":              {http.StatusForbidden, nil, nil, "rim.service.unauthorized"},
		"another 404":         {http.StatusNotFound, nil, nil, "rim.service.status"},
	} {
		t.Run(name, func(t *testing.T) {
			doc := c.doc
			if doc == nil {
				doc = w.mint("550.90.07", w.signer)
			}
			w.server.Put(driverID, doc)
			w.server.Misbehave(c.status, c.edit, nil)
			if r, err := w.client(nil).RIM(t.Context(), driverID); r != nil || !fault.Has(err, c.want) {
				t.Errorf("got %v, want %s", err, c.want)
			}
		})
	}
	w.server.Misbehave(0, nil, nil)
	c := w.client(nil)
	_, err = c.RIM(t.Context(), "NV_GPU_DRIVER_GH100_999")
	if !services.IsNotFound(err) || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("an id that is not there: %v", err)
	}
	if _, err := c.RIM(t.Context(), "../../x"); !fault.Has(err, "rim.service.request") {
		t.Errorf("an id that is none: %v", err)
	}
	for _, u := range []string{"ftp://x", "nonsense", "http://a/?q=1", "http://user@a/"} {
		if _, err := services.New(services.Options{RIMURL: u}); !fault.Has(err, "rim.service.url") {
			t.Errorf("address %q: %v", u, err)
		}
	}
}

func TestTheNewerSignatureIsKept(t *testing.T) {
	w := newWorld(t)
	old, err := rimtest.Issue(w.pki.L3, rimtest.Profile{Name: "old signer", From: rimtest.Now.AddDate(-2, 0, 0)})
	must(t, old, err)
	c := w.client(nil)
	if _, err := c.RIM(t.Context(), driverID); err != nil {
		t.Fatal(err)
	}
	w.server.Put(driverID, w.mint("550.90.07", old))
	w.pass(services.DefaultTTL)
	if r, err := c.RIM(t.Context(), driverID); err != nil || r.Doc.Signer != "signer" {
		t.Errorf("after an older signature: %+v, %v", r, err)
	}
	young, err := rimtest.Issue(w.pki.L3, rimtest.Profile{Name: "new signer", From: rimtest.Now})
	must(t, young, err)
	w.server.Put(driverID, w.mint("550.90.07", young))
	w.pass(services.DefaultTTL)
	if r, err := c.RIM(t.Context(), driverID); err != nil || r.Doc.Signer != "new signer" {
		t.Errorf("after a newer signature: %+v, %v", r, err)
	}
}

func TestABundleDoesNotReplaceANewerSignature(t *testing.T) {
	w := newWorld(t)
	old, err := rimtest.Issue(w.pki.L3, rimtest.Profile{Name: "old signer", From: rimtest.Now.AddDate(-2, 0, 0)})
	must(t, old, err)
	w.server.Issued(old, w.pki.L3)
	dir := t.TempDir()
	if _, err := w.client(func(o *services.Options) { o.CacheDir = dir }).RIM(t.Context(), driverID); err != nil {
		t.Fatal(err)
	}
	w.server.Put(driverID, w.mint("550.90.07", old))
	w.pass(time.Hour)
	b, err := w.client(nil).Export(t.Context(), []string{driverID}, nil)
	must(t, b, err)
	raw, err := b.Marshal()
	must(t, raw, err)
	b, err = services.ParseBundle(raw)
	must(t, b, err)
	c := w.client(func(o *services.Options) { o.CacheDir, o.Bundle = dir, b })
	if r, err := c.RIM(t.Context(), driverID); err != nil || r.Doc.Signer != "signer" {
		t.Errorf("cache with a newer signer, bundle fetched later: %+v, %v", r, err)
	}
	c = w.client(func(o *services.Options) { o.Offline, o.Bundle = true, b })
	if r, err := c.RIM(t.Context(), driverID); err != nil || r.Doc.Signer != "old signer" {
		t.Errorf("bundle alone: %+v, %v", r, err)
	}
}

func TestOneRequestServesAllThatWait(t *testing.T) {
	w := newWorld(t)
	hold := make(chan struct{})
	w.server.Misbehave(0, nil, hold)
	c := w.client(nil)
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	started := make(chan struct{}, 8)
	for range 8 {
		wg.Go(func() {
			started <- struct{}{}
			if _, err := c.RIM(t.Context(), driverID); err != nil {
				t.Error(err)
			}
		})
	}
	for range 8 {
		<-started
	}
	cancel()
	if _, err := c.RIM(ctx, driverID); !fault.Has(err, "rim.service.cancelled") {
		t.Errorf("a caller that gave up: %v", err)
	}
	close(hold)
	wg.Wait()
	if n := w.server.Requests("/v1/rim/" + driverID); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
	// A service that fails is left alone for a while.
	w.server.Misbehave(http.StatusInternalServerError, nil, nil)
	w.pass(services.DefaultTTL + services.DefaultMaxStale)
	for range 5 {
		if _, err := c.RIM(t.Context(), driverID); err == nil {
			t.Error("no error from a service that fails")
		}
	}
	if n := w.server.Requests("/v1/rim/" + driverID); n != 3 {
		t.Errorf("%d requests, want 3: one good, two attempts", n)
	}
}

func TestRevocationIsAskedFor(t *testing.T) {
	w := newWorld(t)
	c := w.client(nil)
	cert, issuer := w.signer.Cert, w.pki.L3.Cert
	nonce := bytes.Repeat([]byte{5}, 32)
	for range 2 {
		if r, err := c.OCSP(t.Context(), cert, issuer, nonce); err != nil || r.Status != ocsp.Good || !bytes.Equal(r.Nonce, nonce) {
			t.Fatalf("with a nonce: %+v, %v", r, err)
		}
	}
	if n := w.server.Requests("ocsp"); n != 2 {
		t.Errorf("%d requests with a nonce, want 2", n)
	}
	for range 3 {
		if r, err := c.OCSP(t.Context(), cert, issuer, nil); err != nil || r.Status != ocsp.Good {
			t.Fatalf("without: %+v, %v", r, err)
		}
	}
	if n := w.server.Requests("ocsp"); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
	w.pass(services.DefaultOCSPTTL)
	w.server.Answer(w.signer, rimtest.Answer{Status: "revoked", This: w.clock()})
	if r, err := c.OCSP(t.Context(), cert, issuer, nil); err != nil || r.Status != ocsp.Revoked {
		t.Errorf("after the TTL: %+v, %v", r, err)
	}
	// An older answer does not take its place, and the responder's silence
	// leaves it in place until it expires.
	w.pass(services.DefaultOCSPTTL)
	w.server.Answer(w.signer, rimtest.Answer{This: rimtest.Now})
	if r, err := c.OCSP(t.Context(), cert, issuer, nil); err != nil || r.Status != ocsp.Revoked {
		t.Errorf("an older answer: %+v, %v", r, err)
	}
	w.server.Misbehave(http.StatusBadGateway, nil, nil)
	w.pass(services.DefaultOCSPTTL)
	if r, err := c.OCSP(t.Context(), cert, issuer, nil); err != nil || r.Status != ocsp.Revoked {
		t.Errorf("with the responder down: %+v, %v", r, err)
	}
	w.pass(24 * time.Hour)
	if r, err := c.OCSP(t.Context(), cert, issuer, nil); !fault.Has(err, "rim.service.server") {
		t.Errorf("after the answer's end: %+v, %v", r, err)
	}
	w.server.Misbehave(0, nil, nil)
	w.server.Answer(w.signer, rimtest.Answer{Nonce: nonce[:31]})
	if r, err := w.client(nil).OCSP(t.Context(), cert, issuer, nonce); !fault.Has(err, "ocsp.nonce") {
		t.Errorf("another nonce: %+v, %v", r, err)
	}
	unknown, err := rimtest.Issue(w.pki.L3, rimtest.Profile{Name: "unknown"})
	must(t, unknown, err)
	if _, err := c.OCSP(t.Context(), unknown.Cert, issuer, nil); !fault.Has(err, "ocsp.refused") {
		t.Errorf("a certificate that the responder does not answer for: %v", err)
	}
}

func TestABundleServesAMachineWithoutANetwork(t *testing.T) {
	w := newWorld(t)
	b, err := w.client(nil).Export(t.Context(), []string{driverID}, nil)
	must(t, b, err)
	raw, err := b.Marshal()
	must(t, raw, err)
	b, err = services.ParseBundle(raw)
	must(t, b, err)
	if len(b.Entries) != 5 { // ids, one manifest, three certificates
		t.Errorf("%d entries, want 5", len(b.Entries))
	}
	before := w.server.Requests("ocsp")
	c := w.client(func(o *services.Options) { o.Offline, o.Bundle = true, b })
	w.pass(time.Hour)
	r, err := c.RIM(t.Context(), driverID)
	if err != nil || r.Stale {
		t.Fatalf("got %+v, %v", r, err)
	}
	if ids, err := c.IDs(t.Context()); err != nil || len(ids.IDs) != 1 {
		t.Errorf("ids %+v, %v", ids, err)
	}
	for i := range 3 {
		if s, err := c.OCSP(t.Context(), r.Doc.Chain[i], r.Doc.Chain[i+1], nil); err != nil || s.Status != ocsp.Good {
			t.Errorf("certificate %d: %+v, %v", i, s, err)
		}
	}
	if w.server.Requests("ocsp") != before {
		t.Error("an offline client made a request")
	}
	if _, err := c.RIM(t.Context(), "NV_GPU_DRIVER_GH100_999"); !fault.Has(err, "rim.service.offline") {
		t.Errorf("an id that is not in it: %v", err)
	}
	w.pass(services.DefaultTTL)
	if r, err := c.RIM(t.Context(), driverID); err != nil || !r.Stale {
		t.Errorf("a day later: %+v, %v", r, err)
	}
	w.pass(services.DefaultMaxStale)
	if _, err := c.RIM(t.Context(), driverID); err == nil {
		t.Error("a bundle of more than a week is taken")
	}
	for name, bad := range map[string]string{"cut": string(raw[:len(raw)-1]), "another version": `{"created":"2026-01-01T00:00:00Z","entries":[],"version":2}`} {
		if _, err := services.ParseBundle([]byte(bad)); !fault.Has(err, "rim.bundle") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestTheCacheServesOthers(t *testing.T) {
	w := newWorld(t)
	proxy := httptest.NewServer(w.client(nil).Handler())
	defer proxy.Close()
	guest := func() *services.Client { return w.client(func(o *services.Options) { o.RIMURL = proxy.URL }) }
	for range 2 {
		if r, err := guest().RIM(t.Context(), driverID); err != nil || !r.Fetched.Equal(rimtest.Now) {
			t.Fatalf("got %+v, %v", r, err)
		}
		if ids, err := guest().IDs(t.Context()); err != nil || len(ids.IDs) != 1 {
			t.Errorf("ids %+v, %v", ids, err)
		}
		if s, err := guest().OCSP(t.Context(), w.signer.Cert, w.pki.L3.Cert, nil); err != nil || s.Status != ocsp.Good {
			t.Errorf("OCSP %+v, %v", s, err)
		}
	}
	if a, b, c := w.server.Requests("/v1/rim/"+driverID), w.server.Requests("/v1/rim/ids"), w.server.Requests("ocsp"); a != 1 || b != 1 || c != 1 {
		t.Errorf("requests %d %d %d, want one each", a, b, c)
	}
	nonce := bytes.Repeat([]byte{6}, 32)
	if s, err := guest().OCSP(t.Context(), w.signer.Cert, w.pki.L3.Cert, nonce); err != nil || !bytes.Equal(s.Nonce, nonce) {
		t.Errorf("with a nonce: %+v, %v", s, err)
	}
	if _, err := guest().RIM(t.Context(), "NV_GPU_DRIVER_GH100_999"); !services.IsNotFound(err) {
		t.Errorf("an id that is not there: %v", err)
	}
	// Age goes along: a cache behind a cache does not make a manifest younger.
	w.server.Misbehave(http.StatusBadGateway, nil, nil)
	w.pass(36 * time.Hour)
	if r, err := guest().RIM(t.Context(), driverID); err != nil || !r.Stale || !r.Fetched.Equal(rimtest.Now) {
		t.Errorf("a stale manifest through the proxy: %+v, %v", r, err)
	}
	if _, err := guest().RIM(t.Context(), "NV_GPU_DRIVER_GH100_998"); !fault.Has(err, "rim.service.server") {
		t.Errorf("with the service down: %v", err)
	}
	for _, c := range []struct {
		path, kind string
		body       []byte
		want       int
	}{{"/ocsp", "text/plain", []byte("x"), 415}, {"/ocsp", ocsp.RequestType, []byte("x"), 400}, {"/ocsp", ocsp.RequestType, make([]byte, 2000), 413}, {"/x", ocsp.RequestType, nil, 404}} {
		res, err := http.Post(proxy.URL+c.path, c.kind, bytes.NewReader(c.body))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != c.want {
			t.Errorf("POST %s %s of %d bytes: status %d, want %d", c.path, c.kind, len(c.body), res.StatusCode, c.want)
		}
	}
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte(`{"created":"2026-01-01T00:00:00Z","entries":[{"data":"AA==","fetched":"2026-01-01T00:00:00Z","key":"ids"}],"version":1}`))
	f.Fuzz(func(t *testing.T, in []byte) {
		if b, err := services.ParseBundle(in); (b == nil) == (err == nil) {
			t.Fatalf("%v, %v", b, err)
		}
	})
}

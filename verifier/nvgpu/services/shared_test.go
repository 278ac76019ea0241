package services_test

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/fetch"
	"cocoon/verifier/internal/fetch/fetchtest"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rimtest"
	"cocoon/verifier/nvgpu/services"
)

// replica is a client that shares a store.
func (w *world) replica(s *fetchtest.Store) *services.Client {
	return w.client(func(o *services.Options) { o.Shared, o.Attempts = fetchtest.Shared(s), 1 })
}

// asked is how often the manifest and the responder were asked for.
func (w *world) asked() int {
	return w.server.Requests("/v1/rim/"+driverID) + w.server.Requests("ocsp")
}

// both has the manifest and the status of its signer, as appraisers ask for it.
func (w *world) both(c *services.Client) (rim, status []byte, err error) {
	r, err := c.RIM(w.t.Context(), driverID)
	if err != nil {
		return nil, nil, err
	}
	status, _, err = c.RawOCSP(w.t.Context(), w.signer.Cert, w.pki.L3.Cert, nil)
	if err == nil {
		_, err = ocsp.Verify(status, w.signer.Cert, w.pki.L3.Cert, &ocsp.Options{Now: w.clock()})
	}
	return r.Raw, status, err
}

func TestOneReplicasFetchServesAnother(t *testing.T) {
	w, store := newWorld(t), &fetchtest.Store{}
	rim, status, err := w.both(w.replica(store))
	if err != nil {
		t.Fatal(err)
	}
	ttls := store.TTLs()
	if len(ttls) != 2 {
		t.Errorf("%d entries are shared", len(ttls))
	}
	for _, ttl := range ttls {
		if ttl <= 0 || ttl > fetch.SharedFor {
			t.Errorf("an entry is kept for %v", ttl)
		}
	}
	w.server.Misbehave(http.StatusServiceUnavailable, nil, nil)
	b := w.replica(store)
	for range 2 {
		if r, s, err := w.both(b); err != nil || !bytes.Equal(r, rim) || !bytes.Equal(s, status) {
			t.Errorf("from the other replica: %v", err)
		}
	}
	if n := w.asked(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
	w.server.Misbehave(0, nil, nil)
	for name, spoil := range fetchtest.Spoilers("data") {
		n := w.asked()
		if r, _, err := w.both(w.replica(store.Spoil(spoil))); err != nil || !bytes.Equal(r, rim) {
			t.Errorf("%s: %v", name, err)
		}
		if got := w.asked() - n; got != 2 {
			t.Errorf("%s: %d requests, want 2", name, got)
		}
		w.server.Misbehave(http.StatusServiceUnavailable, nil, nil)
		if _, _, err := w.both(w.replica(store.Spoil(spoil))); !fault.Has(err, "rim.service.server") {
			t.Errorf("%s, and the services are away: %v", name, err)
		}
		if raw, _, err := w.replica(store.Spoil(spoil)).RawOCSP(t.Context(), w.signer.Cert, w.pki.L3.Cert, nil); !fault.Has(err, "rim.service.server") {
			t.Errorf("%s, and the responder is away: %d bytes, %v", name, len(raw), err)
		}
		w.server.Misbehave(0, nil, nil)
	}
	store.Away(true)
	n := w.asked()
	c := w.replica(store)
	for range 2 {
		if _, _, err := w.both(c); err != nil || w.asked() != n+2 {
			t.Errorf("without the store: %v, %d requests", err, w.asked()-n)
		}
	}
}

// TestARefreshOfOneReplicaServesAnother lets both hold what is due; an answer
// that somebody wants anew is the responder's own, and nobody else's.
func TestARefreshOfOneReplicaServesAnother(t *testing.T) {
	w, store := newWorld(t), &fetchtest.Store{}
	w.server.Answer(w.signer, rimtest.Answer{Status: string(ocsp.Good), Next: w.clock().Add(72 * time.Hour)})
	list := []*services.Client{w.replica(store), w.replica(store)}
	for want := range 2 {
		for _, c := range list {
			if _, _, err := w.both(c); err != nil {
				t.Fatal(err)
			}
			if n := w.server.Requests("ocsp"); n != want+1 {
				t.Errorf("the responder was asked %d times, want %d", n, want+1)
			}
		}
		w.pass(services.DefaultOCSPTTL)
	}
	w.pass(services.DefaultTTL)
	for _, c := range list {
		if _, err := c.RIM(t.Context(), driverID); err != nil {
			t.Fatal(err)
		}
		if n := w.server.Requests("/v1/rim/" + driverID); n != 2 {
			t.Errorf("the manifest was asked for %d times, want 2", n)
		}
	}
	n := w.server.Requests("ocsp")
	for i, c := range list {
		if _, err := c.OCSP(t.Context(), w.signer.Cert, w.pki.L3.Cert, bytes.Repeat([]byte{byte(i)}, 32)); err != nil {
			t.Fatal(err)
		}
	}
	if got := w.server.Requests("ocsp") - n; got != 2 {
		t.Errorf("the responder was asked %d times for two nonces", got)
	}
}

// TestWhatARevocationReplacedStays has a store answer with what was before a
// revocation that the replica knows of.
func TestWhatARevocationReplacedStays(t *testing.T) {
	w, store := newWorld(t), &fetchtest.Store{}
	if _, _, err := w.both(w.replica(store)); err != nil {
		t.Fatal(err)
	}
	w.pass(services.DefaultOCSPTTL / 2)
	w.server.Answer(w.signer, rimtest.Answer{Status: string(ocsp.Revoked), This: w.clock(), Next: w.clock().Add(24 * time.Hour)})
	dir := t.TempDir()
	revoked := func(what string, change func(*services.Options)) {
		t.Helper()
		c := w.client(func(o *services.Options) { o.CacheDir, o.Attempts = dir, 1; change(o) })
		if r, err := c.OCSP(t.Context(), w.signer.Cert, w.pki.L3.Cert, nil); err != nil || r.Status != ocsp.Revoked {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
	}
	revoked("of the responder", func(*services.Options) {})
	w.pass(services.DefaultOCSPTTL / 4)
	w.server.Misbehave(http.StatusServiceUnavailable, nil, nil)
	// What it holds is due, and the store says that it has something new.
	at := func(t time.Time) []byte { return []byte(`"fetched":"` + t.UTC().Format(time.RFC3339) + `"`) }
	lying := store.Spoil(func(e, _ []byte) []byte {
		if !bytes.Contains(e, at(rimtest.Now)) {
			t.Fatalf("an entry of another form: %.200s", e)
		}
		return bytes.Replace(e, at(rimtest.Now), at(w.clock()), 1)
	})
	revoked("beside the store", func(o *services.Options) { o.Shared, o.OCSPTTL = fetchtest.Shared(lying), services.DefaultOCSPTTL/4 })
}

// TestACacheForOthersServesNothingUnverified: who asks it may not be able to ask
// elsewhere.
func TestACacheForOthersServesNothingUnverified(t *testing.T) {
	w, store := newWorld(t), &fetchtest.Store{}
	if _, _, err := w.both(w.replica(store)); err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(w.replica(store.Spoil(func(e, _ []byte) []byte { return fetchtest.Flip(e, "data") })).Handler())
	t.Cleanup(ts.Close)
	guest := w.client(func(o *services.Options) { o.RIMURL = ts.URL })
	if _, _, err := w.both(guest); err != nil {
		t.Error(err)
	}
}

// TestAStoreDoesNotSayWhenSomethingWasFetched has a signer revoked and a manifest
// withdrawn: who is due for the answer has it, whatever a store says of the age of
// the one before.
func TestAStoreDoesNotSayWhenSomethingWasFetched(t *testing.T) {
	w, store := newWorld(t), &fetchtest.Store{}
	w.server.Answer(w.signer, rimtest.Answer{Status: string(ocsp.Good), Next: w.clock().Add(72 * time.Hour)})
	dir := t.TempDir()
	if _, _, err := w.both(w.client(func(o *services.Options) { o.CacheDir, o.Shared = dir, fetchtest.Shared(store) })); err != nil {
		t.Fatal(err)
	}
	w.pass(services.DefaultTTL)
	w.server.Answer(w.signer, rimtest.Answer{Status: string(ocsp.Revoked), This: w.clock(), Next: w.clock().Add(24 * time.Hour)})
	w.server.Put(driverID, nil)
	forged := store.Forge(func(e []byte) []byte { return fetchtest.Fetched(e, w.clock()) })
	for what, c := range map[string]*services.Client{
		"held on disk":        w.client(func(o *services.Options) { o.CacheDir, o.Shared = dir, fetchtest.Shared(forged) }),
		"not held":            w.replica(forged),
		"not held, from then": w.replica(store.Forge(func(e []byte) []byte { return e })),
	} {
		if r, err := c.OCSP(t.Context(), w.signer.Cert, w.pki.L3.Cert, nil); err != nil || r.Status != ocsp.Revoked {
			t.Errorf("%s: %+v, %v", what, r, err)
		}
		if r, err := c.RIM(t.Context(), driverID); !services.IsNotFound(err) {
			t.Errorf("%s: a manifest that was withdrawn: %v, %v", what, r != nil, err)
		}
	}
}

// TestWhatAStoreHasDoesNotHideTheBundle has the other replica's answer be fetched
// later than the bundle's, and not hold.
func TestWhatAStoreHasDoesNotHideTheBundle(t *testing.T) {
	w, store := newWorld(t), &fetchtest.Store{}
	b, err := w.client(nil).Export(t.Context(), []string{driverID}, []services.Pair{{Cert: w.signer.Cert, Issuer: w.pki.L3.Cert}})
	must(t, b, err)
	raw, err := b.Marshal()
	must(t, raw, err)
	b, err = services.ParseBundle(raw)
	must(t, b, err)
	w.pass(services.DefaultOCSPTTL / 2)
	if _, _, err := w.both(w.replica(store)); err != nil {
		t.Fatal(err)
	}
	w.server.Misbehave(http.StatusServiceUnavailable, nil, nil)
	c := w.client(func(o *services.Options) {
		o.Attempts, o.Bundle = 1, b
		o.Shared = fetchtest.Shared(store.Spoil(func(e, _ []byte) []byte { return fetchtest.Flip(e, "data") }))
	})
	if r, err := c.OCSP(t.Context(), w.signer.Cert, w.pki.L3.Cert, nil); err != nil || r.Status != ocsp.Good {
		t.Errorf("%+v, %v", r, err)
	}
}

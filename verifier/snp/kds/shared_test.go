package kds_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/fetch"
	"cocoon/verifier/internal/fetch/fetchtest"
	"cocoon/verifier/snp/kds"
	"cocoon/verifier/snp/kdstest"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
	"cocoon/verifier/snptest"
)

// replica is a client without a disk that shares a store.
func (r *rig) replica(s *fetchtest.Store) *kds.Client {
	return r.client(func(o *kds.Options) { o.CacheDir, o.Shared, o.Attempts = "", fetchtest.Shared(s), 1 })
}

func (r *rig) down(down bool) {
	for _, kind := range []string{kdstest.VCEK, kdstest.CRL} {
		var f *kdstest.Fault
		if down {
			f = &kdstest.Fault{Status: 503}
		}
		r.server.Misbehave(kind, f)
	}
}

func (r *rig) asked() int { return r.server.Requests(kdstest.VCEK) + r.server.Requests(kdstest.CRL) }

// both returns a chip's certificate and its line's CRL.
func both(c *kds.Client, p *report.Report) (cert, crl []byte, from kds.Origin, err error) {
	if cert, from, err = c.LookupCertificate(context.Background(), p, nil); err == nil {
		crl, err = c.CRL(context.Background(), p.Product.Line())
	}
	return cert, crl, from, err
}

func TestOneReplicasFetchServesAnother(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	_, chip := r.report(5, report.Genoa)
	cert, crl, _, err := both(r.replica(store), chip)
	if err != nil {
		t.Fatal(err)
	}
	for _, ttl := range store.TTLs() {
		if ttl <= 0 || ttl > fetch.SharedFor {
			t.Errorf("an entry is kept for %v", ttl)
		}
	}
	r.down(true)
	c2, l2, from, err := both(r.replica(store), chip)
	if err != nil || !bytes.Equal(c2, cert) || !bytes.Equal(l2, crl) || !from.Held {
		t.Errorf("from the other replica: %v, %v", from, err)
	}
	if n := r.asked(); n != 2 {
		t.Errorf("%d requests, want 2", n)
	}
	r.down(false)
	for name, spoil := range fetchtest.Spoilers("body") {
		n := r.asked()
		if c2, l2, _, err := both(r.replica(store.Spoil(spoil)), chip); err != nil || l2 == nil {
			t.Errorf("%s: %v", name, err)
		} else if _, err := vek.Verify(c2, report.VCEK, r.pki.Roots()); err != nil { // signed anew each time
			t.Errorf("%s: %v", name, err)
		}
		if got := r.asked() - n; got != 2 {
			t.Errorf("%s: %d requests, want 2", name, got)
		}
		r.down(true)
		if _, _, _, err := both(r.replica(store.Spoil(spoil)), chip); !fault.Has(err, "snp.kds.status") {
			t.Errorf("%s, and the service is away: %v", name, err)
		}
		r.down(false)
	}
	store.Away(true)
	n := r.asked()
	c := r.replica(store)
	for range 2 {
		if _, _, _, err := both(c, chip); err != nil || r.asked() != n+2 {
			t.Errorf("without the store: %v, %d requests", err, r.asked()-n)
		}
	}
}

// TestARefreshOfOneReplicaServesAnother lets both hold a CRL that is due.
func TestARefreshOfOneReplicaServesAnother(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	_, chip := r.report(5, report.Genoa)
	list := []*kds.Client{r.replica(store), r.replica(store)}
	for want := range 2 {
		for _, c := range list {
			if _, _, _, err := both(c, chip); err != nil {
				t.Fatal(err)
			}
			if n := r.server.Requests(kdstest.CRL); n != want+1 {
				t.Errorf("%d requests for the list, want %d", n, want+1)
			}
		}
		r.advance(kds.DefaultRefreshAfter)
	}
}

// TestAStoreDoesNotSayWhenAListWasFetched has a list replaced by one that revokes:
// who is due for it has it, whatever a store says of the age of the one before.
func TestAStoreDoesNotSayWhenAListWasFetched(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	c := r.client(func(o *kds.Options) { o.Shared = fetchtest.Shared(store) })
	first, err := c.CRL(context.Background(), report.Milan)
	if err != nil {
		t.Fatal(err)
	}
	r.advance(kds.DefaultRefreshAfter)
	revoking := snptest.DefaultCRL(report.Milan)
	revoking.Number, revoking.Revoked = 9, []int64{snptest.SerialASK}
	r.server.SetCRL(revoking)
	forged := store.Forge(func(e []byte) []byte { return fetchtest.Fetched(e, r.clock()) })
	for what, c := range map[string]*kds.Client{
		"held on disk":       r.client(func(o *kds.Options) { o.CacheDir, o.Shared = r.copied(), fetchtest.Shared(forged) }),
		"not held":           r.replica(forged),
		"not held, from old": r.replica(store.Forge(func(e []byte) []byte { return e })),
	} {
		if got, err := c.CRL(context.Background(), report.Milan); err != nil || bytes.Equal(got, first) {
			t.Errorf("%s: the list that revokes nothing, %v", what, err)
		}
	}
}

// copied returns a copy of the cache's directory.
func (r *rig) copied() string {
	dir := filepath.Join(r.t.TempDir(), "cache")
	if err := os.CopyFS(dir, os.DirFS(r.dir)); err != nil {
		r.t.Fatal(err)
	}
	return dir
}

// TestMadeUpReportsFillNoStore has somebody ask for what no chip has signed: it is
// shared and on disk once a report comes that it did sign.
func TestMadeUpReportsFillNoStore(t *testing.T) {
	r, store := newRig(t), &fetchtest.Store{}
	raw, chip := r.report(5, report.Genoa)
	c := r.client(func(o *kds.Options) { o.Shared = fetchtest.Shared(store) })
	kept := func() int {
		files, err := os.ReadDir(r.dir)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		return len(files) + len(store.TTLs())
	}
	made := bytes.Clone(raw)
	made[0x50] ^= 1 // report data, which is signed
	forged, err := report.Parse(made)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, _, err := c.LookupCertificate(context.Background(), forged, made); err != nil || kept() != 0 {
			t.Errorf("of a report that is made up: %v, %d kept", err, kept())
		}
	}
	if _, from, err := c.LookupCertificate(context.Background(), chip, raw); err != nil || !from.Held || kept() != 2 {
		t.Errorf("of the chip's report: %v, %v, %d kept", from, err, kept())
	}
	if n := r.server.Requests(kdstest.VCEK); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}

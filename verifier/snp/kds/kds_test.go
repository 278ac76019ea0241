package kds_test

import (
	"bytes"
	"context"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/kds"
	"cocoon/verifier/snp/kdstest"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

var thePKI = sync.OnceValues(func() (*snptest.PKI, error) { return snptest.New("kds") })

// rig is a test service, and a clock that stands still until it is moved.
type rig struct {
	t      *testing.T
	pki    *snptest.PKI
	server *kdstest.Server
	url    string
	dir    string

	mu     sync.Mutex
	now    time.Time
	delays []time.Duration
}

func newRig(t *testing.T) *rig {
	t.Helper()
	pki, err := thePKI()
	if err != nil {
		t.Fatal(err)
	}
	server := kdstest.New(pki)
	ts := httptest.NewServer(server)
	t.Cleanup(ts.Close)
	return &rig{t: t, pki: pki, server: server, url: ts.URL, dir: filepath.Join(t.TempDir(), "cache"), now: snptest.Now}
}

func (r *rig) clock() time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now
}

func (r *rig) advance(d time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.now = r.now.Add(d)
}

func (r *rig) client(change func(*kds.Options)) *kds.Client {
	r.t.Helper()
	o := kds.Options{BaseURL: r.url, Roots: r.pki.Roots(), CacheDir: r.dir, Clock: r.clock, Rand: func() float64 { return 0 },
		Sleep: func(_ context.Context, d time.Duration) error {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.delays = append(r.delays, d)
			return nil
		}}
	if change != nil {
		change(&o)
	}
	c, err := kds.New(o)
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

// report makes a report of a chip that the service knows.
func (r *rig) report(version uint32, p report.Product) ([]byte, *report.Report) {
	r.t.Helper()
	s := snptest.Default(version, p, report.VCEK)
	r.server.Add(&s)
	raw, err := r.pki.Report(&s)
	if err != nil {
		r.t.Fatal(err)
	}
	parsed, err := report.Parse(raw)
	if err != nil {
		r.t.Fatal(err)
	}
	return raw, parsed
}

func TestWhatIsFetchedVerifiesTheReport(t *testing.T) {
	for _, k := range []struct {
		version uint32
		product report.Product
	}{{3, report.Milan}, {5, report.Genoa}, {5, report.Siena}, {3, report.Turin}, {2, report.Milan}, {2, report.Genoa}} {
		r := newRig(t)
		raw, parsed := r.report(k.version, k.product)
		b, err := r.client(nil).Bundle(context.Background(), parsed, nil)
		if err != nil {
			t.Fatalf("%v: %v", k, err)
		}
		doc, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if b, err = kds.ParseBundle(doc); err != nil {
			t.Fatal(err)
		}
		o := &snp.Options{Roots: r.pki.Roots(), Now: snptest.Now, Certificate: b.Certificate, Chain: b.Chain, CRL: b.CRL, RequireCRL: true}
		if res, err := snp.Verify(raw, o); err != nil || res.CRL == nil {
			t.Errorf("%v: %v", k, err)
		}
	}
}

func TestRequestsAreThoseOfTheSpecification(t *testing.T) {
	r := newRig(t)
	_, parsed := r.report(3, report.Turin)
	if _, err := r.client(nil).Bundle(context.Background(), parsed, nil); err != nil {
		t.Fatal(err)
	}
	want := "/vcek/v1/Turin/c1c1c1c1c1c1c1c1?fmcSPL=01&blSPL=04&teeSPL=02&snpSPL=24&ucodeSPL=219 /vcek/v1/Turin/cert_chain /vcek/v1/Turin/crl"
	if got := strings.Join(r.server.URLs(), " "); got != want {
		t.Errorf("asked for %s", got)
	}
}

func TestVLEKsAreNotAskedFor(t *testing.T) {
	r := newRig(t)
	s := snptest.Default(3, report.Milan, report.VLEK)
	raw, cert, err := r.pki.Make(&s)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := report.Parse(raw)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.client(nil).Bundle(context.Background(), parsed, nil); !fault.Has(err, "snp.kds.vlek") || len(r.server.URLs()) != 0 {
		t.Errorf("%v after %v", err, r.server.URLs())
	}
	b, err := r.client(nil).Bundle(context.Background(), parsed, cert)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := snp.Verify(raw, &snp.Options{Roots: r.pki.Roots(), Now: snptest.Now, Certificate: b.Certificate, Chain: b.Chain, CRL: b.CRL, RequireCRL: true}); err != nil {
		t.Error(err)
	}
}

func TestDocumentsAreKept(t *testing.T) {
	r := newRig(t)
	_, parsed := r.report(3, report.Milan)
	c := r.client(nil)
	for range 3 {
		if _, err := c.Bundle(context.Background(), parsed, nil); err != nil {
			t.Fatal(err)
		}
	}
	// A second process, offline.
	if _, err := r.client(func(o *kds.Options) { o.Offline = true }).Bundle(context.Background(), parsed, nil); err != nil {
		t.Error(err)
	}
	if n := len(r.server.URLs()); n != 3 {
		t.Errorf("%d requests, want 3: %v", n, r.server.URLs())
	}
	// The CRL is asked for again after a while, the others are not.
	r.advance(kds.DefaultRefreshAfter)
	if _, err := c.Bundle(context.Background(), parsed, nil); err != nil || r.server.Requests(kdstest.CRL) != 2 || len(r.server.URLs()) != 4 {
		t.Errorf("%v: %v", err, r.server.URLs())
	}
	_, err := r.client(func(o *kds.Options) { o.Offline, o.CacheDir = true, "" }).Bundle(context.Background(), parsed, nil)
	if !fault.Has(err, "snp.kds.offline") || fault.ExitCode(err) != fault.ExitNetwork {
		t.Errorf("offline without a cache: %v", err)
	}
}

func TestBadCacheFilesAreMisses(t *testing.T) {
	r := newRig(t)
	_, parsed := r.report(3, report.Milan)
	if _, err := r.client(nil).Bundle(context.Background(), parsed, nil); err != nil {
		t.Fatal(err)
	}
	files, err := filepath.Glob(filepath.Join(r.dir, "*.json"))
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	var goods [][]byte
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		goods = append(goods, b)
	}
	for i, f := range files {
		flipped := bytes.Clone(goods[i])
		at := bytes.Index(flipped, []byte(`"body":"`)) + 400
		flipped[at] ^= 1
		for name, bad := range map[string][]byte{"empty": nil, "cut": goods[i][:len(goods[i])/2], "another document": goods[(i+1)%3], "changed": flipped} {
			if err := os.WriteFile(f, bad, 0o600); err != nil {
				t.Fatal(err)
			}
			n := len(r.server.URLs())
			if _, err := r.client(nil).Bundle(context.Background(), parsed, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if len(r.server.URLs()) != n+1 {
				t.Errorf("%s: %d requests", name, len(r.server.URLs())-n)
			}
		}
	}
}

func TestFailuresHaveCodes(t *testing.T) {
	flip := func(b []byte) []byte { b[200] ^= 1; return b }
	for name, c := range map[string]struct {
		kind  string
		fault kdstest.Fault
		code  string
		tries int
	}{
		"rate limited":        {kdstest.VCEK, kdstest.Fault{Status: 429, RetryAfter: "30"}, "snp.kds.rate_limited", 4},
		"a server's error":    {kdstest.VCEK, kdstest.Fault{Status: 500}, "snp.kds.status", 4},
		"an unknown chip":     {kdstest.VCEK, kdstest.Fault{Status: 404}, "snp.kds.not_found", 1},
		"a redirect":          {kdstest.VCEK, kdstest.Fault{Redirect: "http://elsewhere.test.invalid/"}, "snp.kds.redirect", 1},
		"a tampered VCEK":     {kdstest.VCEK, kdstest.Fault{Body: flip}, "snp.kds.answer", 1},
		"a tampered chain":    {kdstest.Chain, kdstest.Fault{Body: flip}, "snp.kds.answer", 1},
		"an empty chain":      {kdstest.Chain, kdstest.Fault{Body: func([]byte) []byte { return nil }}, "snp.kds.answer", 1},
		"a tampered CRL":      {kdstest.CRL, kdstest.Fault{Body: flip}, "snp.kds.answer", 1},
		"garbage":             {kdstest.CRL, kdstest.Fault{Body: func([]byte) []byte { return []byte("<html>") }}, "snp.kds.answer", 1},
		"more than any takes": {kdstest.VCEK, kdstest.Fault{Body: func([]byte) []byte { return make([]byte, 4<<20) }}, "snp.kds.answer", 1},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t)
			_, parsed := r.report(3, report.Milan)
			r.server.Misbehave(c.kind, &c.fault)
			cl := r.client(nil)
			for range 5 { // the service is left alone after the first
				if _, err := cl.Bundle(context.Background(), parsed, nil); !fault.Has(err, c.code) || fault.ExitCode(err) != fault.ExitNetwork {
					t.Fatalf("no %s in %v", c.code, err)
				}
			}
			if n := r.server.Requests(c.kind); n != c.tries {
				t.Errorf("%d requests, want %d", n, c.tries)
			}
			if c.fault.RetryAfter != "" && (len(r.delays) != 3 || r.delays[0] < 30*time.Second) {
				t.Errorf("delays %v", r.delays)
			}
			r.server.Misbehave(c.kind, nil)
			r.advance(time.Minute)
			if _, err := cl.Bundle(context.Background(), parsed, nil); err != nil {
				t.Errorf("after a minute: %v", err)
			}
		})
	}
	r := newRig(t)
	_, parsed := r.report(3, report.Milan)
	r.server.Misbehave(kdstest.VCEK, &kdstest.Fault{Status: 429, Times: 2})
	if _, err := r.client(nil).Certificate(context.Background(), parsed); err != nil {
		t.Errorf("after two rate limits: %v", err)
	}
	if _, err := kds.New(kds.Options{BaseURL: "ftp://x"}); !fault.Has(err, "snp.kds.url") {
		t.Errorf("another scheme: %v", err)
	}
}

func TestCertificatesOfAnotherChipAreRefused(t *testing.T) {
	r := newRig(t)
	_, parsed := r.report(3, report.Milan)
	other := snptest.Default(3, report.Milan, report.VCEK)
	other.ChipID[0]++
	c := snptest.CertFor(&other)
	der, err := r.pki.Certificate(&c)
	if err != nil {
		t.Fatal(err)
	}
	r.server.Misbehave(kdstest.VCEK, &kdstest.Fault{Body: func([]byte) []byte { return der }})
	if _, err := r.client(nil).Certificate(context.Background(), parsed); !fault.Has(err, "snp.kds.answer") {
		t.Errorf("got %v", err)
	}
}

func TestCRLsAreNotRolledBack(t *testing.T) {
	r := newRig(t)
	revoking := snptest.DefaultCRL(report.Milan)
	revoking.Number, revoking.Revoked = 9, []int64{snptest.SerialASK}
	r.server.SetCRL(revoking)
	c := r.client(nil)
	first, err := c.CRL(context.Background(), report.Milan)
	if err != nil {
		t.Fatal(err)
	}
	r.server.SetCRL(snptest.DefaultCRL(report.Milan)) // number 7
	r.advance(kds.DefaultRefreshAfter)
	if got, err := c.CRL(context.Background(), report.Milan); err != nil || !bytes.Equal(got, first) {
		t.Errorf("the service rolled the CRL back: %v", err)
	}
	// A service that is down is no reason to do without the held one, until it
	// expires.
	r.server.Misbehave(kdstest.CRL, &kdstest.Fault{Status: 404})
	r.advance(kds.DefaultRefreshAfter)
	if got, err := c.CRL(context.Background(), report.Milan); err != nil || !bytes.Equal(got, first) {
		t.Errorf("the service is down: %v", err)
	}
	r.advance(40 * 24 * time.Hour)
	if _, err := c.CRL(context.Background(), report.Milan); !fault.Has(err, "snp.kds.not_found") {
		t.Errorf("the held CRL has expired: %v", err)
	}
	r.server.Misbehave(kdstest.CRL, nil)
	r.advance(time.Hour)
	if _, err := c.CRL(context.Background(), report.Milan); !fault.Has(err, "snp.kds.answer") {
		t.Errorf("the service's CRL has expired: %v", err)
	}
}

func TestOneFetchIsInFlight(t *testing.T) {
	r := newRig(t)
	_, parsed := r.report(3, report.Milan)
	hold := make(chan struct{})
	r.server.Misbehave(kdstest.VCEK, &kdstest.Fault{Hold: hold})
	c := r.client(nil)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, err := c.Certificate(context.Background(), parsed); err != nil {
				t.Error(err)
			}
		})
	}
	// One that gives up does not take the answer away from the others.
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := c.Certificate(ctx, parsed); !fault.Has(err, "snp.kds.cancelled") {
		t.Errorf("cancelled: %v", err)
	}
	close(hold)
	wg.Wait()
	if n := r.server.Requests(kdstest.VCEK); n != 1 {
		t.Errorf("%d requests", n)
	}
}

func FuzzParseBundle(f *testing.F) {
	f.Add([]byte(`{"certificate":"AAAA","crl":"AAAA"}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		b, err := kds.ParseBundle(doc)
		if err != nil {
			return
		}
		out, err := b.Marshal()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := kds.ParseBundle(out); err != nil {
			t.Fatalf("%s does not read back: %v", out, err)
		}
	})
}

package snp_test

import (
	"bytes"
	"runtime"
	"sync"
	"testing"

	"cocoon/internal/fault"
	"cocoon/internal/vectors"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// tamperCase is a good report with its certificate and, of the test PKI, its
// CRL.
type tamperCase struct {
	name string
	raw  []byte
	opts snp.Options
}

// tamperCases are a report of each version, product and signer of the test
// PKI, and the real ones where the vectors are there.
func tamperCases(t *testing.T) []tamperCase {
	t.Helper()
	p := newPKI(t)
	var out []tamperCase
	for name, r := range map[string]snptest.Report{
		"v2 Milan VCEK": snptest.Default(2, report.Milan, report.VCEK), "v3 Turin VCEK": snptest.Default(3, report.Turin, report.VCEK),
		"v4 Genoa VLEK": snptest.Default(4, report.Genoa, report.VLEK), "v5 Siena VCEK": snptest.Default(5, report.Siena, report.VCEK),
	} {
		raw, cert, err := p.Make(&r)
		if err != nil {
			t.Fatal(err)
		}
		l := snptest.DefaultCRL(r.Product)
		l.Revoked = []int64{4711}
		out = append(out, tamperCase{name, raw, snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: cert, CRL: must[[]byte](t)(p.CRL(&l))}})
	}
	if vectors.Find() == "" {
		t.Log("test vectors are absent: tampering with reports of the test PKI only")
		return out
	}
	_, all := loadVectors(t)
	seen := map[string]bool{}
	for _, v := range all {
		if v.Cert == "" || seen[v.Product+v.Signer+string(rune(v.Version))] {
			continue
		}
		seen[v.Product+v.Signer+string(rune(v.Version))] = true
		out = append(out, tamperCase{v.Name, v.raw, snp.Options{Now: v.at, Certificate: v.cert}})
	}
	return out
}

// TestTamperedBytesAreRefused changes each byte of each report, certificate
// and CRL, with a cache that the good ones filled: no tampered one may profit.
func TestTamperedBytesAreRefused(t *testing.T) {
	for _, c := range tamperCases(t) {
		t.Run(c.name, func(t *testing.T) {
			c.opts.Cache = snp.NewCache(snp.CacheOptions{})
			if _, err := verified(t, c.raw, &c.opts); err != nil {
				t.Fatalf("untampered: %v", err)
			}
			total := 0
			for _, part := range []struct {
				name string
				good []byte
				set  func(raw *[]byte, o *snp.Options, b []byte)
			}{
				{"report", c.raw, func(raw *[]byte, _ *snp.Options, b []byte) { *raw = b }},
				{"certificate", c.opts.Certificate, func(_ *[]byte, o *snp.Options, b []byte) { o.Certificate = b }},
				{"CRL", c.opts.CRL, func(_ *[]byte, o *snp.Options, b []byte) { o.CRL = b }},
			} {
				parallel(len(part.good), func(i int) {
					raw, o := c.raw, c.opts
					bad := bytes.Clone(part.good)
					bad[i] ^= 1 << (i % 8)
					part.set(&raw, &o, bad)
					res, err := verified(t, raw, &o)
					if exit := fault.ExitCode(err); (exit != fault.ExitRefused && exit != fault.ExitParse) || (res != nil && res.Genuine) {
						t.Errorf("%s: byte %d of %d changed: error %v", part.name, i, len(part.good), err)
					}
				})
				for _, n := range []int{0, 1, len(part.good) / 2, len(part.good) - 1} {
					raw, o := c.raw, c.opts
					if len(part.good) == 0 || (n == 0 && part.name == "CRL") { // no CRL at all is a matter of RequireCRL
						continue
					}
					part.set(&raw, &o, part.good[:n])
					if _, err := verified(t, raw, &o); err == nil {
						t.Errorf("%s cut to %d bytes: accepted", part.name, n)
					}
				}
				total += len(part.good)
			}
			t.Logf("%d bytes changed, 0 accepted", total)
		})
	}
}

// TestNoSignedBitIsMalleable changes every bit of the CPUID fields and their
// neighbours, which verifiers lose that put a report together again from what
// they read.
func TestNoSignedBitIsMalleable(t *testing.T) {
	for _, c := range tamperCases(t) {
		c.opts.Cache = snp.NewCache(snp.CacheOptions{})
		for bit := 0x188 * 8; bit < 0x18D*8; bit++ {
			bad := bytes.Clone(c.raw)
			bad[bit/8] ^= 1 << (bit % 8)
			if _, err := verified(t, bad, &c.opts); err == nil {
				t.Errorf("%s: bit %d of byte %#x changed: accepted", c.name, bit%8, bit/8)
			}
		}
	}
}

func TestTrailingBytesAreRefused(t *testing.T) {
	for _, c := range tamperCases(t) {
		if _, err := verified(t, append(bytes.Clone(c.raw), 1), &c.opts); !fault.Has(err, "snp.report.parse") {
			t.Errorf("%s with a byte after it: %v", c.name, err)
		}
		o := c.opts
		o.Certificate = append(bytes.Clone(o.Certificate), 0)
		if _, err := verified(t, c.raw, &o); err == nil {
			t.Errorf("%s with a byte after its certificate: accepted", c.name)
		}
	}
}

// parallel calls f for 0 to n-1 from as many goroutines as there are CPUs.
func parallel(n int, f func(i int)) {
	var wg sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for w := range workers {
		wg.Go(func() {
			for i := w; i < n; i += workers {
				f(i)
			}
		})
	}
	wg.Wait()
}

func TestVerificationsShareOptionsAndCache(t *testing.T) {
	p := newPKI(t)
	cache := snp.NewCache(snp.CacheOptions{Certificates: 3})
	type job struct {
		raw  []byte
		o    *snp.Options
		code string
	}
	var jobs []job
	for i, product := range []report.Product{report.Milan, report.Genoa, report.Siena, report.Turin} {
		for _, signer := range []report.Signer{report.VCEK, report.VLEK} {
			r := snptest.Default(3, product, signer)
			raw, cert, err := p.Make(&r)
			if err != nil {
				t.Fatal(err)
			}
			o := &snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: cert, Cache: cache}
			j := job{raw, o, ""}
			if i%2 == 1 {
				l := snptest.DefaultCRL(product)
				l.Revoked = []int64{snptest.SerialASK, snptest.SerialASVK}
				o.CRL, j.code = must[[]byte](t)(p.CRL(&l)), "snp.cert.revoked"
			}
			jobs = append(jobs, j)
		}
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 24 {
				j := jobs[(w+i)%len(jobs)]
				_, err := verified(t, j.raw, j.o)
				if (j.code == "" && err != nil) || (j.code != "" && !fault.Has(err, j.code)) {
					t.Errorf("want %q, got %v", j.code, err)
				}
			}
		})
	}
	wg.Wait()
	if n := cache.Len(); n != 3 {
		t.Errorf("cache has %d certificates, bound 3", n)
	}
}

func TestACachedCertificateIsBoundToWhatItWasVerifiedWith(t *testing.T) {
	p := newPKI(t)
	r := snptest.Default(3, report.Milan, report.VCEK)
	raw, cert, err := p.Make(&r)
	if err != nil {
		t.Fatal(err)
	}
	l := snptest.DefaultCRL(report.Milan)
	clear := must[[]byte](t)(p.CRL(&l))
	l.Revoked, l.Number = []int64{snptest.SerialASK}, 8
	revoking := must[[]byte](t)(p.CRL(&l))
	cache := snp.NewCache(snp.CacheOptions{})
	good := snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: cert, CRL: clear, Cache: cache}
	for range 2 {
		if _, err := verified(t, raw, &good); err != nil {
			t.Fatal(err)
		}
		for code, change := range map[string]func(*snp.Options){
			"snp.cert.revoked": func(o *snp.Options) { o.CRL = revoking },
			"snp.chain":        func(o *snp.Options) { o.Roots = nil },
			"snp.cert.expired": func(o *snp.Options) { o.Now = o.Now.AddDate(10, 0, 0) },
			"snp.crl.current":  func(o *snp.Options) { o.Now = o.Now.AddDate(0, 0, 30) },
			"snp.crl.missing":  func(o *snp.Options) { o.CRL, o.RequireCRL = nil, true },
		} {
			o := good
			change(&o)
			if _, err := verified(t, raw, &o); !fault.Has(err, code) {
				t.Errorf("no %s in %v", code, err)
			}
		}
	}
}

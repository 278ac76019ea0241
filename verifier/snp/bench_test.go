package snp_test

import (
	"crypto/ecdsa"
	"crypto/sha512"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/go-sev-guest/verify/trust"

	"cocoon/internal/vectors"
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// benchVector is the real report that all benchmarks verify: go-sev-guest
// accepts it too.
const benchVector = "snp-v3-milan-vcek-oak-810e"

// benchCase is what the benchmarks verify.
type benchCase struct {
	raw   []byte
	opts  snp.Options
	peer  func() error // nil: absent
	floor func() bool
}

func newBenchCase(b testing.TB) *benchCase {
	b.Helper()
	c := &benchCase{}
	if vectors.Find() != "" {
		_, all := loadVectors(b)
		i := slices.IndexFunc(all, func(v vectorReport) bool { return v.Name == benchVector })
		c.raw, c.opts = all[i].raw, snp.Options{Certificate: all[i].cert, Now: all[i].at}
		// Roots that are parsed beforehand: the peer at its best.
		pc := &trust.ProductCerts{}
		if err := pc.FromKDSCertBytes(trust.AskArkMilanVcekBytes); err != nil {
			b.Fatal(err)
		}
		roots := map[string][]*trust.AMDRootCerts{"Milan": {{Product: "Milan", ProductLine: "Milan", ProductCerts: pc}}}
		c.peer = peerVerify(b, c.raw, all[i].cert, all[i].at, roots)
		if err := c.peer(); err != nil {
			b.Fatalf("go-sev-guest refused: %v", err)
		}
	} else {
		b.Log("test vectors are absent: verifying a report of the test PKI, go-sev-guest is left out")
		p := newPKI(b)
		r := snptest.Default(3, report.Milan, report.VCEK)
		raw, cert, err := p.Make(&r)
		if err != nil {
			b.Fatal(err)
		}
		c.raw, c.opts = raw, snp.Options{Roots: p.Roots(), Certificate: cert, Now: snptest.Now}
	}
	x, err := x509.ParseCertificate(c.opts.Certificate)
	if err != nil {
		b.Fatal(err)
	}
	key := x.PublicKey.(*ecdsa.PublicKey)
	digest := sha512.Sum384(c.raw[:report.SignedSize])
	sig, err := abi.ReportToSignatureDER(c.raw)
	if err != nil {
		b.Fatal(err)
	}
	c.floor = func() bool { return ecdsa.VerifyASN1(key, digest[:], sig) }
	return c
}

func (c *benchCase) verify(b testing.TB, o *snp.Options) {
	if res, err := snp.Verify(c.raw, o); err != nil || !res.Genuine {
		b.Fatalf("refused: %v", err)
	}
}

func (c *benchCase) warm() *snp.Options {
	o := c.opts
	o.Cache = snp.NewCache(snp.CacheOptions{Keys: -1})
	return &o
}

// known returns options whose cache has seen the chip's key so often that there is
// a table of it.
func (c *benchCase) known(b testing.TB) *snp.Options {
	o := c.opts
	o.Cache = snp.NewCache(snp.CacheOptions{})
	for range 2 * ecsig.Uses {
		c.verify(b, &o)
	}
	return &o
}

// BenchmarkVerifyWarm has the certificate verified beforehand.
func BenchmarkVerifyWarm(b *testing.B) {
	c := newBenchCase(b)
	o := c.warm()
	c.verify(b, o)
	b.ReportAllocs()
	for b.Loop() {
		c.verify(b, o)
	}
}

// BenchmarkVerifyWarmKnownKey has a table of the key as well.
func BenchmarkVerifyWarmKnownKey(b *testing.B) {
	c := newBenchCase(b)
	o := c.known(b)
	b.ReportAllocs()
	for b.Loop() {
		c.verify(b, o)
	}
}

// BenchmarkVerifyCold verifies everything below AMD's pinned certificates.
func BenchmarkVerifyCold(b *testing.B) {
	c := newBenchCase(b)
	b.ReportAllocs()
	for b.Loop() {
		c.verify(b, &c.opts)
	}
}

// BenchmarkVerifyGoSEVGuest is go-sev-guest's verification, from memory.
func BenchmarkVerifyGoSEVGuest(b *testing.B) {
	c := newBenchCase(b)
	if c.peer == nil {
		b.Skip("test vectors are absent: go-sev-guest takes no reports under a test PKI")
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.peer(); err != nil {
			b.Fatalf("go-sev-guest refused: %v", err)
		}
	}
}

// BenchmarkVerifyFloor is the bare ECDSA P-384 verification of a report.
func BenchmarkVerifyFloor(b *testing.B) {
	c := newBenchCase(b)
	b.ReportAllocs()
	for b.Loop() {
		if !c.floor() {
			b.Fatal("refused")
		}
	}
}

// BenchmarkVerifyRatios takes all of the above in turns, so that a noisy
// machine slows all of them alike, and prints the ratios of the medians.
func BenchmarkVerifyRatios(b *testing.B) {
	c := newBenchCase(b)
	warm, known := c.warm(), c.known(b)
	c.verify(b, warm)
	runs := []struct {
		name string
		fn   func()
	}{
		{"peer", func() {
			if c.peer != nil {
				if err := c.peer(); err != nil {
					b.Fatalf("go-sev-guest refused: %v", err)
				}
			}
		}},
		{"cold", func() { c.verify(b, &c.opts) }},
		{"warm", func() { c.verify(b, warm) }},
		{"known", func() { c.verify(b, known) }},
		{"floor", func() {
			if !c.floor() {
				b.Fatal("refused")
			}
		}},
	}
	took := map[string][]float64{}
	for b.Loop() {
		for _, r := range runs {
			start := time.Now()
			r.fn()
			took[r.name] = append(took[r.name], float64(time.Since(start).Nanoseconds()))
		}
	}
	median := func(name string) float64 {
		s := slices.Sorted(slices.Values(took[name]))
		return s[len(s)/2]
	}
	allocs := testing.AllocsPerRun(100, func() { c.verify(b, warm) })
	b.ReportMetric(median("warm")/median("floor"), "warm/floor")
	b.ReportMetric(allocs, "warm-allocs")
	if c.peer == nil {
		return
	}
	b.ReportMetric(median("peer")/median("warm"), "x-warm")
	b.ReportMetric(median("peer")/median("known"), "x-known")
	b.ReportMetric(median("peer")/median("cold"), "x-cold")
	b.Logf("ours warm %.0f us, with a table of the known key %.0f us, cold %.0f us; go-sev-guest %.0f us: warm %.1fx, cold %.1fx; warm is %.2fx the bare P-384 verification (%.0f us) with %.0f allocations",
		median("warm")/1e3, median("known")/1e3, median("cold")/1e3, median("peer")/1e3, median("peer")/median("warm"), median("peer")/median("cold"),
		median("warm")/median("floor"), median("floor")/1e3, allocs)
}

func TestWarmVerificationHardlyAllocates(t *testing.T) {
	c := newBenchCase(t)
	for name, o := range map[string]*snp.Options{"warm": c.warm(), "with a table of the known key": c.known(t)} {
		c.verify(t, o)
		if n := testing.AllocsPerRun(20, func() { c.verify(t, o) }); n > 60 {
			t.Errorf("%s: %.0f allocations, limit 60", name, n)
		} else {
			t.Logf("%s: %.0f allocations", name, n)
		}
	}
}

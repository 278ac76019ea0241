package tdx_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"math/big"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/cryptobyte"
	"golang.org/x/crypto/cryptobyte/asn1"

	"cocoon/internal/vectors"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdx"
	"cocoon/verifier/tdxtest"
)

// benchVector is the real quote that all benchmarks verify: go-tdx-guest
// accepts it too.
const (
	benchVector = "tdx-v4-dcap-qvl-20a06f000000-9069"
	benchAt     = 1758093775
)

// benchCase is what the benchmarks verify. Without the vectors it is a quote
// of the test PKI, which go-tdx-guest does not take: it asks for Intel's names.
type benchCase struct {
	quote    []byte
	raw      *collateral.Raw
	set      *collateral.Set
	opts     dcap.Options
	peer     func() error // nil: absent
	floor    func() bool
	expected tcb.Status
}

func newBenchCase(b testing.TB) *benchCase {
	b.Helper()
	c := &benchCase{expected: tcb.UpToDate}
	if dir := vectors.Find(); dir != "" {
		c.quote = readFile(b, dir, "tdx", benchVector+".quote.bin")
		c.raw = readCollateral(b, filepath.Join(dir, "tdx", benchVector+".e17.collateral.json"))
		c.opts.Now = time.Unix(benchAt, 0)
		root := pck.IntelRoots().PEM()
		c.peer = peerVerifier(b, c.quote, c.raw, c.opts.Now, root)
	} else {
		p := newPKI(b)
		tc := tdxtest.StatusTDX(tcb.UpToDate)
		var err error
		if c.quote, c.raw, err = p.Make(&tc); err != nil {
			b.Fatal(err)
		}
		c.opts.Now, c.opts.Roots = tdxtest.Now, p.Roots()
		b.Log("test vectors are absent: verifying a quote of the test PKI, go-tdx-guest is left out")
	}
	var err error
	if c.set, err = collateral.Open(c.raw, c.opts.Roots); err != nil {
		b.Fatal(err)
	}
	c.floor = floor(b, c.quote)
	return c
}

// verify verifies the case and stops the benchmark where it is refused.
func (c *benchCase) verify(b testing.TB, o *dcap.Options) {
	res, err := tdx.Verify(c.quote, o)
	if err != nil || res.TCB.Status != c.expected {
		b.Fatalf("refused: %v", err)
	}
}

// warm returns options whose cache keeps QE reports, or tables of keys, where the
// two are not negative.
func (c *benchCase) warm(reports, keys int) *dcap.Options {
	o := c.opts
	o.Collateral = c.set
	o.Cache = dcap.NewCache(dcap.CacheOptions{Reports: reports, Keys: keys})
	return &o
}

// known returns options whose cache has seen the quote's keys so often that there
// are tables of them: a platform that many quotes came from.
func (c *benchCase) known(b testing.TB) *dcap.Options {
	o := c.warm(0, 0)
	for range 2 * ecsig.Uses {
		c.verify(b, o)
	}
	return o
}

func (c *benchCase) cold() *dcap.Options {
	o := c.opts
	o.RawCollateral = c.raw
	return &o
}

// floor returns the two ECDSA verifications that a quote needs at least, with
// everything else done beforehand.
func floor(b testing.TB, raw []byte) func() bool {
	b.Helper()
	q, err := quote.Parse(raw, quote.Options{AllowZeroPadding: true})
	if err != nil {
		b.Fatal(err)
	}
	block, _ := pem.Decode(q.Cert.PEM)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		b.Fatal(err)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), append([]byte{4}, q.AttestationKey...))
	if err != nil {
		b.Fatal(err)
	}
	pck := leaf.PublicKey.(*ecdsa.PublicKey)
	d1, d2 := sha256.Sum256(q.QEReport), sha256.Sum256(q.Signed)
	s1, s2 := derSignature(b, q.QEReportSignature), derSignature(b, q.Signature)
	return func() bool { return ecdsa.VerifyASN1(pck, d1[:], s1) && ecdsa.VerifyASN1(key, d2[:], s2) }
}

func derSignature(b testing.TB, sig []byte) []byte {
	var out cryptobyte.Builder
	out.AddASN1(asn1.SEQUENCE, func(c *cryptobyte.Builder) {
		c.AddASN1BigInt(new(big.Int).SetBytes(sig[:32]))
		c.AddASN1BigInt(new(big.Int).SetBytes(sig[32:]))
	})
	der, err := out.Bytes()
	if err != nil {
		b.Fatal(err)
	}
	return der
}

func benchmarkOptions(b *testing.B, c *benchCase, o *dcap.Options) {
	c.verify(b, o)
	b.ReportAllocs()
	for b.Loop() {
		c.verify(b, o)
	}
}

// BenchmarkVerifyWarm has PCK chain and collateral verified beforehand.
func BenchmarkVerifyWarm(b *testing.B) {
	c := newBenchCase(b)
	benchmarkOptions(b, c, c.warm(-1, -1))
}

// BenchmarkVerifyWarmQECache has the QE report verified beforehand too.
func BenchmarkVerifyWarmQECache(b *testing.B) {
	c := newBenchCase(b)
	benchmarkOptions(b, c, c.warm(0, -1))
}

// BenchmarkVerifyWarmKnownKeys has tables of the keys as well.
func BenchmarkVerifyWarmKnownKeys(b *testing.B) {
	c := newBenchCase(b)
	benchmarkOptions(b, c, c.known(b))
}

// BenchmarkVerifyCold verifies everything from bytes.
func BenchmarkVerifyCold(b *testing.B) {
	c := newBenchCase(b)
	benchmarkOptions(b, c, c.cold())
}

// BenchmarkVerifyGoTDXGuest is go-tdx-guest's full verification with CRLs.
func BenchmarkVerifyGoTDXGuest(b *testing.B) {
	c := newBenchCase(b)
	if c.peer == nil {
		b.Skip("test vectors are absent: go-tdx-guest takes no quotes under a test PKI")
	}
	b.ReportAllocs()
	for b.Loop() {
		if err := c.peer(); err != nil {
			b.Fatalf("go-tdx-guest refused: %v", err)
		}
	}
}

// BenchmarkVerifyFloor is the bare ECDSA verifications of a quote.
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
	warm, qe, known, cold := c.warm(-1, -1), c.warm(0, -1), c.known(b), c.cold()
	c.verify(b, warm)
	c.verify(b, qe)
	runs := []struct {
		name string
		n    int
		fn   func()
	}{
		{"peer", 1, func() {
			if c.peer != nil {
				if err := c.peer(); err != nil {
					b.Fatalf("go-tdx-guest refused: %v", err)
				}
			}
		}},
		{"cold", 2, func() { c.verify(b, cold) }},
		{"warm", 8, func() { c.verify(b, warm) }},
		{"floor", 8, func() {
			if !c.floor() {
				b.Fatal("refused")
			}
		}},
		{"qe", 8, func() { c.verify(b, qe) }},
		{"known", 8, func() { c.verify(b, known) }},
	}
	took := map[string][]float64{}
	for b.Loop() {
		for _, r := range runs {
			start := time.Now()
			for range r.n {
				r.fn()
			}
			took[r.name] = append(took[r.name], float64(time.Since(start).Nanoseconds())/float64(r.n))
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
	b.ReportMetric(median("peer")/median("qe"), "x-qecache")
	b.ReportMetric(median("peer")/median("known"), "x-known")
	b.ReportMetric(median("peer")/median("cold"), "x-cold")
	b.Logf("against go-tdx-guest: warm %.1fx, warm with QE cache %.1fx, with tables of known keys %.1fx, cold %.1fx; warm is %.2fx the bare ECDSA with %.0f allocations",
		median("peer")/median("warm"), median("peer")/median("qe"), median("peer")/median("known"), median("peer")/median("cold"), median("warm")/median("floor"), allocs)
}

func TestWarmVerificationHardlyAllocates(t *testing.T) {
	c := newBenchCase(t)
	for name, o := range map[string]*dcap.Options{"warm": c.warm(-1, -1), "warm with QE cache": c.warm(0, -1), "with tables of known keys": c.known(t)} {
		c.verify(t, o)
		if n := testing.AllocsPerRun(50, func() { c.verify(t, o) }); n > 40 {
			t.Errorf("%s: %.0f allocations, limit 40", name, n)
		} else {
			t.Logf("%s: %.0f allocations", name, n)
		}
	}
}

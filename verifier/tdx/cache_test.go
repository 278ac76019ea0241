package tdx_test

import (
	"bytes"
	"os"
	"runtime"
	"strconv"
	"sync"
	"testing"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/quote"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdx"
	"cocoon/verifier/tdxtest"
)

func openCollateral(t testing.TB, p *tdxtest.PKI, c *tdxtest.Collateral) *collateral.Set {
	t.Helper()
	raw, err := p.Collateral(c)
	if err != nil {
		t.Fatal(err)
	}
	set, err := collateral.Open(raw, p.Roots())
	if err != nil {
		t.Fatal(err)
	}
	return set
}

func TestNewCollateralDropsWhatIsCached(t *testing.T) {
	p := newPKI(t)
	c := tdxtest.StatusTDX(tcb.UpToDate)
	raw, err := p.Quote(&c.Quote)
	if err != nil {
		t.Fatal(err)
	}
	good := openCollateral(t, p, &c.Collateral)
	c.Collateral.PCKCRL.Revoked = []int64{tdxtest.SerialPCK}
	c.Collateral.PCKCRL.Number++
	revoking := openCollateral(t, p, &c.Collateral)
	c = tdxtest.StatusTDX(tcb.UpToDate)
	c.Collateral.QE.MRSigner[0]++
	otherQE := openCollateral(t, p, &c.Collateral)

	o := &tdx.Options{Roots: p.Roots(), Now: tdxtest.Now, Cache: dcap.NewCache(dcap.CacheOptions{})}
	for range 2 {
		o.Collateral = good
		if _, err := verified(t, raw, o); err != nil {
			t.Fatalf("with the first collateral: %v", err)
		}
		o.Collateral = revoking
		if _, err := verified(t, raw, o); !fault.Has(err, "dcap.pck.revoked") {
			t.Errorf("with a CRL that names the PCK: %v", err)
		}
		o.Collateral = otherQE
		if _, err := verified(t, raw, o); !fault.Has(err, "tdx.qe.identity") {
			t.Errorf("with another QE identity: %v", err)
		}
	}
	o.Collateral, o.Now = good, tdxtest.Now.AddDate(0, 0, 30)
	if _, err := verified(t, raw, o); !fault.Has(err, "dcap.collateral.expired") {
		t.Errorf("after the collateral's end: %v", err)
	}
	o.Roots, o.Now = nil, tdxtest.Now
	if _, err := verified(t, raw, o); !fault.Has(err, "dcap.collateral.root") || !fault.Has(err, "dcap.pck.root") {
		t.Errorf("under other roots: %v", err)
	}
}

func TestCachedQEReportDoesNotVouchForAnotherKey(t *testing.T) {
	p := newPKI(t)
	c := tdxtest.StatusTDX(tcb.UpToDate)
	a, err := p.Quote(&c.Quote)
	if err != nil {
		t.Fatal(err)
	}
	c.Quote.KeyName = "another"
	b, err := p.Quote(&c.Quote)
	if err != nil {
		t.Fatal(err)
	}
	o := &tdx.Options{Roots: p.Roots(), Now: tdxtest.Now, Collateral: openCollateral(t, p, &c.Collateral), Cache: dcap.NewCache(dcap.CacheOptions{})}
	for _, q := range [][]byte{a, b, a, b} {
		if _, err := verified(t, q, o); err != nil {
			t.Fatal(err)
		}
	}
	if chains, reports := o.Cache.Len(); chains != 1 || reports != 2 {
		t.Errorf("cache has %d chains and %d reports, not 1 and 2", chains, reports)
	}
	// Quote a with the signature and key of quote b, under a's QE report.
	const sig = 48 + 584 + 4
	mixed := bytes.Clone(a)
	copy(mixed[sig:sig+128], b[sig:sig+128])
	if _, err := verified(t, mixed, o); !fault.Has(err, "tdx.qe.binding") {
		t.Errorf("with another attestation key: %v", err)
	}
}

func TestVerificationsShareOptions(t *testing.T) {
	p := newPKI(t)
	cache := dcap.NewCache(dcap.CacheOptions{Chains: 2, Reports: 3})
	type job struct {
		quote []byte
		kind  string
		o     *dcap.Options
		want  tcb.Status
	}
	var jobs []job
	for i, status := range []tcb.Status{tcb.UpToDate, tcb.OutOfDate, tcb.Revoked, tcb.TDRelaunchAdvised, tcb.SWHardeningNeeded} {
		c := tdxtest.StatusTDX(status)
		c.Quote.KeyName, c.Quote.Platform.Serial = strconv.Itoa(i), int64(2000+i)
		raw, coll, err := p.Make(&c)
		if err != nil {
			t.Fatal(err)
		}
		o := &dcap.Options{Roots: p.Roots(), Now: tdxtest.Now, Collateral: openCollateral(t, p, &c.Collateral), Cache: cache}
		if i%2 == 1 {
			o.Collateral, o.RawCollateral = nil, coll
		}
		jobs = append(jobs, job{raw, "tdx", o, status})
	}
	c := tdxtest.StatusSGX(tcb.ConfigurationNeeded)
	raw, _, err := p.Make(&c)
	if err != nil {
		t.Fatal(err)
	}
	jobs = append(jobs, job{raw, "sgx", &dcap.Options{Roots: p.Roots(), Now: tdxtest.Now, Collateral: openCollateral(t, p, &c.Collateral), Cache: cache}, tcb.ConfigurationNeeded})
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			for i := range 24 {
				j := jobs[(w+i)%len(jobs)]
				res, _ := verifyKind(t, j.kind, j.quote, j.o)
				if res == nil || res.TCB.Status != j.want {
					t.Errorf("result is %+v, not %s", res, j.want)
				}
			}
		})
	}
	wg.Wait()
	if chains, reports := cache.Len(); chains > 2 || reports > 3 {
		t.Errorf("cache has %d chains and %d reports, bounds 2 and 3", chains, reports)
	}
}

// TestMemoryStaysFlat verifies many different quotes: most are refused, as
// those of an attacker are, some are good ones of ever new platforms with ever
// new keys. COCOON_SOAK=1 makes it a million.
func TestMemoryStaysFlat(t *testing.T) {
	total := 20_000
	if os.Getenv("COCOON_SOAK") != "" {
		total = 1_000_000
	}
	p := newPKI(t)
	c := tdxtest.StatusTDX(tcb.UpToDate)
	base, err := p.Quote(&c.Quote)
	if err != nil {
		t.Fatal(err)
	}
	o := &tdx.Options{Roots: p.Roots(), Now: tdxtest.Now, Collateral: openCollateral(t, p, &c.Collateral),
		Cache: dcap.NewCache(dcap.CacheOptions{Chains: 64, Reports: 256})}
	heap := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	round := func(from, to int) {
		parallel(to-from, func(i int) {
			n := from + i
			if n%16 == 0 {
				q := tdxtest.DefaultTDX(4, quote.BodyTD10)
				q.Platform.Serial, q.KeyName = int64(10_000+n), strconv.Itoa(n)
				raw, err := p.Quote(&q)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := verified(t, raw, o); err != nil {
					t.Errorf("quote %d: %v", n, err)
				}
				return
			}
			bad := bytes.Clone(base)
			bad[600+n%32] ^= byte(1 + n%255) // report data
			bad[48+136+n%48] ^= byte(n >> 8) // MRTD
			if _, err := verified(t, bad, o); err == nil {
				t.Errorf("quote %d: accepted although it was changed", n)
			}
		})
	}
	round(0, total/4)
	before := heap()
	round(total/4, total)
	after := heap()
	chains, reports := o.Cache.Len()
	t.Logf("%d quotes, heap %d KiB after a quarter, %d KiB at the end, cache %d chains and %d reports", total, before>>10, after>>10, chains, reports)
	if after > before+1<<20 {
		t.Errorf("heap grew from %d to %d bytes", before, after)
	}
	if chains != 64 || reports > 256 {
		t.Errorf("cache has %d chains and %d reports", chains, reports)
	}
}

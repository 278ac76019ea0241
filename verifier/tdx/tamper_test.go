package tdx_test

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/tdxtest"
)

// tamperCase is a good quote with its collateral.
type tamperCase struct {
	name, kind string
	quote      []byte
	raw        *collateral.Raw
	opts       dcap.Options
}

// tamperCases are five real quotes, or as many of the test PKI where the
// vectors are absent.
func tamperCases(t *testing.T) []tamperCase {
	t.Helper()
	if os.Getenv("COCOON_VECTORS_REQUIRED") == "" && !haveVectors() {
		t.Log("test vectors are absent: tampering with quotes of the test PKI")
		return testPKICases(t)
	}
	dir, quotes := loadVectors(t)
	want := map[string]int{
		"tdx-v4-dcap-qvl-20a06f000000-9069":    17,
		"tdx-v4-trustee-50806f000000-12b4":     15,
		"tdx-v5-openenclave-90c06f000000-d21a": 17,
		"sgx-v3-dcap-qvl-00a067110000-f8b8":    17,
		"sgx-v3-attestation-00906ed50000-0b5b": 17,
	}
	var out []tamperCase
	for _, q := range quotes {
		for _, c := range q.Cases {
			if want[q.Name] != c.TCBEval {
				continue
			}
			out = append(out, tamperCase{name: q.Name, kind: q.Kind, quote: readFile(t, dir, q.Quote),
				raw: readCollateral(t, dir, c.Collateral), opts: dcap.Options{Now: time.Unix(c.VerifyAt, 0)}})
		}
	}
	if len(out) != len(want) {
		t.Fatalf("%d of %d quotes are in the vectors", len(out), len(want))
	}
	return out
}

func testPKICases(t *testing.T) []tamperCase {
	p := newPKI(t)
	var out []tamperCase
	for name, q := range map[string]tdxtest.Quote{
		"tdx v4": tdxtest.DefaultTDX(4, 2), "tdx v5 1.5": tdxtest.DefaultTDX(5, 3), "tdx v5 1.5 service-TD": tdxtest.DefaultTDX(5, 4),
		"sgx v3": tdxtest.DefaultSGX(3), "sgx v4": tdxtest.DefaultSGX(4),
	} {
		c := tdxtest.Case{Quote: q, Collateral: tdxtest.DefaultCollateral(q.TEE)}
		raw, coll, err := p.Make(&c)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, tamperCase{name, name[:3], raw, coll, dcap.Options{Roots: p.Roots(), Now: tdxtest.Now}})
	}
	return out
}

// TestTamperedQuotesAreRefused flips each byte of each quote once, PCK chain
// and certification data included. Nothing is taken from a cache but the
// collateral, which is opened once: it is not what is tampered with.
func TestTamperedQuotesAreRefused(t *testing.T) {
	for _, c := range tamperCases(t) {
		t.Run(c.name, func(t *testing.T) {
			o := c.opts
			set, err := collateral.Open(c.raw, o.Roots)
			if err != nil {
				t.Fatal(err)
			}
			o.Collateral = set
			if _, err := verifyKind(t, c.kind, c.quote, &o); err != nil {
				t.Fatalf("untampered: %v", err)
			}
			// The bytes of a good quote fill the cache: no tampered one may profit.
			o.Cache = dcap.NewCache(dcap.CacheOptions{})
			if _, err := verifyKind(t, c.kind, c.quote, &o); err != nil {
				t.Fatalf("untampered: %v", err)
			}
			parallel(len(c.quote), func(i int) {
				bad := bytes.Clone(c.quote)
				bad[i] ^= 1 << (i % 8)
				res, err := verifyKind(t, c.kind, bad, &o)
				exit := fault.ExitCode(err)
				if err == nil || (exit != fault.ExitRefused && exit != fault.ExitParse) || (res != nil && res.Genuine) {
					t.Errorf("byte %d flipped: error %v", i, err)
				}
			})
			t.Logf("%d bytes", len(c.quote))
		})
	}
}

// TestTamperedCollateralIsRefused flips each byte of each part once. Parts
// that several quotes share are tampered with once.
func TestTamperedCollateralIsRefused(t *testing.T) {
	seen := map[string]bool{}
	for _, c := range tamperCases(t) {
		t.Run(c.name, func(t *testing.T) {
			total := 0
			for i, part := range partsOf(c.raw) {
				key := fmt.Sprint(i, string(*part.data))
				if seen[key] {
					continue
				}
				seen[key] = true
				good := *part.data
				parallel(len(good), func(j int) {
					raw := *c.raw
					bad := bytes.Clone(good)
					bad[j] ^= 1 << (j % 8)
					*partsOf(&raw)[i].data = bad
					_, err := collateral.Open(&raw, c.opts.Roots)
					exit := fault.ExitCode(err)
					if err == nil || (exit != fault.ExitRefused && exit != fault.ExitParse) {
						t.Errorf("%s: byte %d flipped: error %v", part.name, j, err)
					}
				})
				total += len(good)
			}
			t.Logf("%d bytes", total)
		})
	}
}

type partRef struct {
	name string
	data *[]byte
}

func partsOf(r *collateral.Raw) []partRef {
	return []partRef{
		{"pck_crl_issuer_chain", &r.PCKCRLIssuerChain}, {"root_ca_crl", &r.RootCACRL}, {"pck_crl", &r.PCKCRL},
		{"tcb_info_issuer_chain", &r.TCBInfoIssuerChain}, {"tcb_info", &r.TCBInfo}, {"tcb_info_signature", &r.TCBInfoSignature},
		{"qe_identity_issuer_chain", &r.QEIdentityIssuerChain}, {"qe_identity", &r.QEIdentity},
		{"qe_identity_signature", &r.QEIdentitySignature},
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

// TestSwappedPartsAreRefused exchanges every part of each case for that of
// every other case: only parts that are the same, or just as good, may stay.
func TestSwappedPartsAreRefused(t *testing.T) {
	cases := tamperCases(t)
	for _, a := range cases {
		for _, b := range cases {
			if a.name == b.name {
				continue
			}
			for i, part := range partsOf(a.raw) {
				raw := *a.raw
				other := *partsOf(b.raw)[i].data
				if bytes.Equal(*part.data, other) {
					continue
				}
				*partsOf(&raw)[i].data = other
				o := a.opts
				o.RawCollateral = &raw
				_, err := verifyKind(t, a.kind, a.quote, &o)
				// Another root CRL or issuer chain is as good as its own times.
				if err == nil && part.name != "root_ca_crl" && part.name != "pck_crl_issuer_chain" &&
					part.name != "tcb_info_issuer_chain" && part.name != "qe_identity_issuer_chain" {
					t.Errorf("%s with %s of %s is accepted", a.name, part.name, filepath.Base(b.name))
				}
			}
		}
	}
}

package tdx_test

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/dcap"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
	"cocoon/verifier/tcb"
	"cocoon/verifier/tdx"
	"cocoon/verifier/tdxtest"
)

func newPKI(t testing.TB) *tdxtest.PKI {
	t.Helper()
	p, err := tdxtest.New("tdx")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// verifyCase makes a case and verifies it under the test root.
func verifyCase(t testing.TB, p *tdxtest.PKI, c *tdxtest.Case, change func(*dcap.Options)) (*dcap.Result, error) {
	t.Helper()
	raw, coll, err := p.Make(c)
	if err != nil {
		t.Fatal(err)
	}
	o := &dcap.Options{Roots: p.Roots(), RawCollateral: coll, Now: tdxtest.Now}
	if change != nil {
		change(o)
	}
	kind := "tdx"
	if c.Quote.TEE == quote.TEESGX {
		kind = "sgx"
	}
	res, err := verifyKind(t, kind, raw, o)
	if res == nil {
		t.Fatalf("no result: %v", err)
	}
	return res, err
}

func TestEveryStatusIsFound(t *testing.T) {
	p := newPKI(t)
	for _, kind := range []string{"tdx", "sgx"} {
		for _, status := range tcb.Statuses() {
			relaunch := status == tcb.TDRelaunchAdvised || status == tcb.TDRelaunchAdvisedConfigurationNeeded
			if kind == "sgx" && relaunch {
				continue
			}
			t.Run(kind+" "+string(status), func(t *testing.T) {
				c := tdxtest.StatusTDX(status)
				if kind == "sgx" {
					c = tdxtest.StatusSGX(status)
				}
				res, err := verifyCase(t, p, &c, nil)
				if res.TCB.Status != status {
					t.Errorf("status is %s", res.TCB.Status)
				}
				refused := status == tcb.Revoked || status == tcb.NotSupported
				if refused != (err != nil) || res.Genuine == refused {
					t.Errorf("error is %v, genuine %t", err, res.Genuine)
				}
				if refused && (!fault.Has(err, kind+".tcb."+status.Code()) || fault.ExitCode(err) != fault.ExitRefused) {
					t.Errorf("faults are %v", err)
				}
			})
		}
	}
}

func TestComponentsLowerTheStatus(t *testing.T) {
	p := newPKI(t)
	for _, tt := range []struct {
		name   string
		change func(*tdxtest.Case)
		want   tcb.Verdict
	}{
		{"an out-of-date QE makes ConfigurationNeeded OutOfDateConfigurationNeeded", func(c *tdxtest.Case) {
			c.Collateral.Info.Levels[0].Status = tcb.ConfigurationNeeded
			c.Quote.QE.ISVSVN = 5
		}, tcb.Verdict{Status: tcb.OutOfDateConfigurationNeeded, Platform: tcb.ConfigurationNeeded, Module: tcb.UpToDate, QE: tcb.OutOfDate}},
		{"an out-of-date module makes SWHardeningNeeded OutOfDate", func(c *tdxtest.Case) {
			c.Collateral.Info.Levels[0].Status = tcb.SWHardeningNeeded
			c.Quote.TD.TEETCBSVN[0] = 3
		}, tcb.Verdict{Status: tcb.OutOfDate, Platform: tcb.SWHardeningNeeded, Module: tcb.OutOfDate, QE: tcb.UpToDate}},
		{"a revoked module makes everything Revoked", func(c *tdxtest.Case) {
			c.Collateral.Info.Modules[0].Levels[0].Status = tcb.Revoked
		}, tcb.Verdict{Status: tcb.Revoked, Platform: tcb.UpToDate, Module: tcb.Revoked, QE: tcb.UpToDate}},
		{"a revoked QE makes everything Revoked", func(c *tdxtest.Case) {
			c.Collateral.QE.Levels[0].Status = tcb.Revoked
		}, tcb.Verdict{Status: tcb.Revoked, Platform: tcb.UpToDate, Module: tcb.UpToDate, QE: tcb.Revoked}},
		{"an out-of-date module leaves OutOfDateConfigurationNeeded", func(c *tdxtest.Case) {
			c.Collateral.Info.Levels[0].Status = tcb.OutOfDateConfigurationNeeded
			c.Quote.TD.TEETCBSVN[0] = 3
		}, tcb.Verdict{Status: tcb.OutOfDateConfigurationNeeded, Platform: tcb.OutOfDateConfigurationNeeded, Module: tcb.OutOfDate, QE: tcb.UpToDate}},
		{"with a module identity the two lowest TDX components do not count", func(c *tdxtest.Case) {
			c.Collateral.Info.Levels[0].TDX[0] = 200
		}, tcb.Verdict{Status: tcb.UpToDate, Platform: tcb.UpToDate, Module: tcb.UpToDate, QE: tcb.UpToDate}},
		{"without a module identity they do", func(c *tdxtest.Case) {
			c.Quote.TD.TEETCBSVN[1] = 0
			c.Collateral.Info.Levels[0].TDX = tcb.Components{6, 0, 8}
		}, tcb.Verdict{Status: tcb.OutOfDate, Platform: tcb.OutOfDate, QE: tcb.UpToDate}},
		{"the third TDX component counts in any case", func(c *tdxtest.Case) {
			c.Collateral.Info.Levels[0].TDX[2] = 9
		}, tcb.Verdict{Status: tcb.OutOfDate, Platform: tcb.OutOfDate, Module: tcb.UpToDate, QE: tcb.UpToDate}},
		{"module identifiers compare without regard to case", func(c *tdxtest.Case) {
			c.Quote.TD.TEETCBSVN[1] = 0x0a
			c.Collateral.Info.Modules[0].ID = "tdx_0a"
		}, tcb.Verdict{Status: tcb.UpToDate, Platform: tcb.UpToDate, Module: tcb.UpToDate, QE: tcb.UpToDate}},
		{"a QE below every level is NotSupported", func(c *tdxtest.Case) {
			c.Quote.QE.ISVSVN = 3
		}, tcb.Verdict{Status: tcb.NotSupported}},
		{"a module below every level is NotSupported", func(c *tdxtest.Case) {
			c.Quote.TD.TEETCBSVN[0] = 1
		}, tcb.Verdict{Status: tcb.NotSupported}},
		{"levels that are signed in another order are looked at from the highest down", func(c *tdxtest.Case) {
			l := c.Collateral.Info.Levels
			l[0], l[1] = l[1], l[0]
		}, tcb.Verdict{Status: tcb.UpToDate, Platform: tcb.UpToDate, Module: tcb.UpToDate, QE: tcb.UpToDate}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tdxtest.StatusTDX(tcb.UpToDate)
			tt.change(&c)
			res, _ := verifyCase(t, p, &c, nil)
			got := res.TCB.Verdict
			got.Date, got.Advisories = time.Time{}, nil
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("verdict differs (-want +got):\n%s", diff)
			}
		})
	}
}

func TestRelaunchReportsLaunchAndCurrent(t *testing.T) {
	p := newPKI(t)
	for _, body := range []uint16{quote.BodyTD15, quote.BodyTD15X} {
		c := tdxtest.StatusTDX(tcb.TDRelaunchAdvised)
		c.Quote = tdxtest.DefaultTDX(5, body)
		c.Quote.TD.TEETCBSVN[0] = 2
		res, err := verifyCase(t, p, &c, nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.TCB.Status != tcb.TDRelaunchAdvised || res.TCB.Launch.Status != tcb.OutOfDate || res.TCB.Current.Status != tcb.UpToDate {
			t.Errorf("body type %d: TCB is %+v", body, res.TCB)
		}
		if want := []string{"INTEL-SA-00003"}; !cmp.Equal(res.TCB.Advisories, want) {
			t.Errorf("advisories are %v", res.TCB.Advisories)
		}
		if want := time.Date(2023, 8, 9, 0, 0, 0, 0, time.UTC); !res.TCB.Date.Equal(want) {
			t.Errorf("date is %v", res.TCB.Date)
		}
		c.Quote.TD.TEETCBSVN2[1] = 9 // a module that nobody knows runs now
		res, err = verifyCase(t, p, &c, nil)
		if res.TCB.Status != tcb.NotSupported || err == nil {
			t.Errorf("unknown current module: status %s, error %v", res.TCB.Status, err)
		}
	}
}

func TestEveryVersionAndBodyIsVerified(t *testing.T) {
	p := newPKI(t)
	for name, q := range map[string]tdxtest.Quote{
		"SGX v3": tdxtest.DefaultSGX(3), "SGX v4": tdxtest.DefaultSGX(4), "SGX v5": tdxtest.DefaultSGX(5),
		"TDX v4":                 tdxtest.DefaultTDX(4, quote.BodyTD10),
		"TDX v5 body 1.0":        tdxtest.DefaultTDX(5, quote.BodyTD10),
		"TDX v5 body 1.5":        tdxtest.DefaultTDX(5, quote.BodyTD15),
		"TDX v5 body service-TD": tdxtest.DefaultTDX(5, quote.BodyTD15X),
	} {
		for _, ca := range []pck.CA{pck.PlatformCA, pck.ProcessorCA} {
			for _, cert := range []uint16{quote.CertPPIDPlain, quote.CertPPIDRSA2048, quote.CertPPIDRSA3072, quote.CertPCKLeaf, quote.CertPCKChain} {
				c := tdxtest.Case{Quote: q, Collateral: tdxtest.DefaultCollateral(q.TEE)}
				c.Quote.Platform.CA, c.Collateral.CA, c.Quote.CertType = ca, ca, cert
				chain, err := p.PCKChain(&c.Quote.Platform)
				if err != nil {
					t.Fatal(err)
				}
				res, err := verifyCase(t, p, &c, func(o *dcap.Options) {
					if cert <= quote.CertPPIDRSA3072 {
						o.PCKChain = chain
					}
				})
				if err != nil || res.TCB.Status != tcb.UpToDate || res.Platform.CA != ca {
					t.Errorf("%s, %s CA, certification data %d: status %q, CA %s, error %v", name, ca, cert, res.TCB.Status, res.Platform.CA, err)
				}
				if (res.Platform.SMTEnabled != nil) != (ca == pck.PlatformCA) {
					t.Errorf("%s, %s CA: platform is %+v", name, ca, res.Platform)
				}
			}
		}
	}
}

// TestFaults changes one thing at a time in a good case.
func TestFaults(t *testing.T) {
	p := newPKI(t)
	other, err := tdxtest.New("another root")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name   string
		change func(*tdxtest.Case)
		opts   func(*dcap.Options)
		code   string
	}{
		{name: "revoked PCK", code: "dcap.pck.revoked", change: func(c *tdxtest.Case) { c.Collateral.PCKCRL.Revoked = []int64{1, tdxtest.SerialPCK} }},
		{name: "revoked PCK CA", code: "dcap.pck.revoked", change: func(c *tdxtest.Case) {
			// The collateral itself is of the other CA, whose CRL says nothing here.
			c.Collateral.CA, c.Collateral.RootCRL.Revoked = pck.ProcessorCA, []int64{tdxtest.SerialPlatformCA}
		}},
		{name: "revoked PCK CA in the collateral", code: "dcap.collateral.revoked", change: func(c *tdxtest.Case) {
			c.Collateral.RootCRL.Revoked = []int64{tdxtest.SerialPlatformCA}
		}},
		{name: "revoked TCB signer", code: "dcap.collateral.revoked", change: func(c *tdxtest.Case) {
			c.Collateral.RootCRL.Revoked = []int64{tdxtest.SerialTCBSigning}
		}},
		{name: "CRL of the other PCK CA", code: "dcap.collateral.pck_crl", change: func(c *tdxtest.Case) { c.Collateral.CA = pck.ProcessorCA }},
		{name: "wrong FMSPC", code: "dcap.collateral.fmspc", change: func(c *tdxtest.Case) { c.Collateral.Info.FMSPC[5]++ }},
		{name: "wrong PCEID", code: "dcap.collateral.pceid", change: func(c *tdxtest.Case) { c.Collateral.Info.PCEID[1]++ }},
		{name: "SGX collateral", code: "dcap.collateral.tee", change: func(c *tdxtest.Case) { c.Collateral = tdxtest.DefaultCollateral(quote.TEESGX) }},
		{name: "SGX TCB info with the identity of the TD QE", code: "dcap.collateral.tee", change: func(c *tdxtest.Case) {
			c.Collateral.Info = tdxtest.DefaultCollateral(quote.TEESGX).Info
		}},
		{name: "identity of the SGX QE", code: "dcap.collateral.tee", change: func(c *tdxtest.Case) { c.Collateral.QE.ID = "QE" }},
		{name: "QE of another signer", code: "tdx.qe.identity", change: func(c *tdxtest.Case) { c.Quote.QE.MRSigner[0]++ }},
		{name: "QE with the debug attribute", code: "tdx.qe.identity", change: func(c *tdxtest.Case) { c.Quote.QE.Attributes[0] |= 2 }},
		{name: "QE with another MISCSELECT", code: "tdx.qe.identity", change: func(c *tdxtest.Case) { c.Quote.QE.MiscSelect[0] = 1 }},
		{name: "QE with another product ID", code: "tdx.qe.identity", change: func(c *tdxtest.Case) { c.Quote.QE.ISVProdID++ }},
		{name: "TDX module of another signer", code: "tdx.module.mrsigner", change: func(c *tdxtest.Case) { c.Quote.TD.MRSignerSEAM[0] = 1 }},
		{name: "TDX module with attributes", code: "tdx.module.attributes", change: func(c *tdxtest.Case) { c.Quote.TD.SEAMAttributes[0] = 1 }},
		{name: "module identity with another signer than tdxModule", code: "tdx.module.mrsigner", change: func(c *tdxtest.Case) {
			c.Collateral.Info.Modules[0].MRSigner[0] = 1
		}},
		{name: "QE of another vendor", code: "tdx.quote.vendor", change: func(c *tdxtest.Case) { c.Quote.VendorID[0]++ }},
		{name: "PCK certificate after its end", code: "dcap.pck.expired", change: func(c *tdxtest.Case) {
			c.Quote.Platform.NotAfter = tdxtest.Now.Add(-time.Second)
		}},
		{name: "PCK certificate before its start", code: "dcap.pck.expired", change: func(c *tdxtest.Case) {
			c.Quote.Platform.NotBefore = tdxtest.Now.Add(time.Second)
		}},
		{name: "no PCK chain", code: "dcap.pck.missing", change: func(c *tdxtest.Case) { c.Quote.CertType = quote.CertPPIDRSA3072 }},
		{name: "TCB info expired", code: "dcap.collateral.expired", change: func(c *tdxtest.Case) { c.Collateral.Info.NextUpdate = tdxtest.Now.Add(-time.Second) }},
		{name: "QE identity expired", code: "dcap.collateral.expired", change: func(c *tdxtest.Case) { c.Collateral.QE.NextUpdate = tdxtest.Now.Add(-time.Second) }},
		{name: "PCK CRL expired", code: "dcap.collateral.expired", change: func(c *tdxtest.Case) { c.Collateral.PCKCRL.Window.To = tdxtest.Now.Add(-time.Second) }},
		{name: "root CRL expired", code: "dcap.collateral.expired", change: func(c *tdxtest.Case) { c.Collateral.RootCRL.Window.To = tdxtest.Now.Add(-time.Second) }},
		{name: "TCB info of the future", code: "dcap.collateral.not_yet_valid", change: func(c *tdxtest.Case) { c.Collateral.Info.IssueDate = tdxtest.Now.Add(time.Second) }},
		{name: "QE identity of the future", code: "dcap.collateral.not_yet_valid", change: func(c *tdxtest.Case) { c.Collateral.QE.IssueDate = tdxtest.Now.Add(time.Second) }},
		{name: "PCK CRL of the future", code: "dcap.collateral.not_yet_valid", change: func(c *tdxtest.Case) { c.Collateral.PCKCRL.Window.From = tdxtest.Now.Add(time.Second) }},
		{name: "root CRL of the future", code: "dcap.collateral.not_yet_valid", change: func(c *tdxtest.Case) { c.Collateral.RootCRL.Window.From = tdxtest.Now.Add(time.Second) }},
		{name: "no collateral", code: "dcap.collateral.missing", opts: func(o *dcap.Options) { o.RawCollateral = nil }},
		{name: "Intel's root", code: "dcap.pck.root", opts: func(o *dcap.Options) { o.Roots = nil }},
		{name: "collateral under another root", code: "dcap.collateral.root", opts: func(o *dcap.Options) {
			c := tdxtest.DefaultCollateral(quote.TEETDX)
			raw, err := other.Collateral(&c)
			if err != nil {
				t.Fatal(err)
			}
			o.RawCollateral = raw
		}},
		{name: "collateral that was opened under another root", code: "dcap.collateral.root", opts: func(o *dcap.Options) {
			c := tdxtest.DefaultCollateral(quote.TEETDX)
			raw, err := other.Collateral(&c)
			if err != nil {
				t.Fatal(err)
			}
			if o.Collateral, err = collateral.Open(raw, other.Roots()); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := tdxtest.StatusTDX(tcb.UpToDate)
			if tt.change != nil {
				tt.change(&c)
			}
			cache := dcap.NewCache(dcap.CacheOptions{})
			for range 2 { // the second time with a filled cache
				res, err := verifyCase(t, p, &c, func(o *dcap.Options) {
					o.Cache = cache
					if tt.opts != nil {
						tt.opts(o)
					}
				})
				if !fault.Has(err, tt.code) || fault.ExitCode(err) != fault.ExitRefused {
					t.Errorf("no fault %s in: %v", tt.code, err)
				}
				if res.Genuine {
					t.Error("result is genuine")
				}
				checkFailures(t, res, err)
			}
		})
	}
}

// checkFailures checks that each fault has its failed check and the reverse,
// and that each says what to do.
func checkFailures(t *testing.T, res *dcap.Result, err error) {
	t.Helper()
	var failed []string
	for _, c := range res.Checks {
		if c.Status == result.Fail {
			failed = append(failed, c.ID)
		}
	}
	var codes []string
	for _, f := range fault.All(err) {
		codes = append(codes, f.Code)
		if f.Remedy == "" || f.Msg == "" {
			t.Errorf("fault %s has no message or no remedy", f.Code)
		}
	}
	if diff := cmp.Diff(codes, failed); diff != "" {
		t.Errorf("faults and failed checks differ:\n%s", diff)
	}
}

func TestAllFailuresAreReportedAtOnce(t *testing.T) {
	p := newPKI(t)
	c := tdxtest.StatusTDX(tcb.UpToDate)
	c.Collateral.Info.FMSPC[0]++
	c.Collateral.PCKCRL.Revoked = []int64{tdxtest.SerialPCK}
	c.Collateral.PCKCRL.Window.To = tdxtest.Now.Add(-time.Hour)
	c.Quote.QE.MRSigner[3]++
	c.Quote.TD.SEAMAttributes[7] = 1
	_, err := verifyCase(t, p, &c, nil)
	for _, code := range []string{"dcap.collateral.fmspc", "dcap.pck.revoked", "dcap.collateral.expired", "tdx.qe.identity", "tdx.module.attributes"} {
		if !fault.Has(err, code) {
			t.Errorf("no fault %s in: %v", code, err)
		}
	}
}

func TestExpiredCollateralKeepsTheStatusAndGraceAcceptsIt(t *testing.T) {
	p := newPKI(t)
	c := tdxtest.StatusTDX(tcb.ConfigurationNeeded)
	late := tdxtest.Now.AddDate(0, 0, 40)
	res, err := verifyCase(t, p, &c, func(o *dcap.Options) { o.Now = late })
	if len(fault.All(err)) != 3 || !fault.Has(err, "dcap.collateral.expired") || res.TCB.Status != tcb.ConfigurationNeeded {
		t.Errorf("status %q, error %v", res.TCB.Status, err)
	}
	res, err = verifyCase(t, p, &c, func(o *dcap.Options) { o.Now, o.CollateralGrace = late, 12*24*time.Hour })
	if err != nil || !res.Genuine {
		t.Errorf("within the grace period: %v", err)
	}
	if _, err = verifyCase(t, p, &c, func(o *dcap.Options) { o.Clock = func() time.Time { return late }; o.Now = time.Time{} }); err == nil {
		t.Error("the clock was not asked")
	}
}

func TestDebugIsReported(t *testing.T) {
	p := newPKI(t)
	c := tdxtest.StatusTDX(tcb.UpToDate)
	c.Quote.TD.Attributes[0] |= tdx.AttrDebug
	if res, err := verifyCase(t, p, &c, nil); err != nil || !res.Debug {
		t.Errorf("TDX: debug %t, error %v", res.Debug, err)
	}
	c = tdxtest.StatusSGX(tcb.UpToDate)
	c.Quote.Enclave.Attributes[0] |= 2
	if res, err := verifyCase(t, p, &c, nil); err != nil || !res.Debug {
		t.Errorf("SGX: debug %t, error %v", res.Debug, err)
	}
}

func TestPaddingNeedsTheOption(t *testing.T) {
	p := newPKI(t)
	c := tdxtest.StatusTDX(tcb.UpToDate)
	raw, coll, err := p.Make(&c)
	if err != nil {
		t.Fatal(err)
	}
	o := &dcap.Options{Roots: p.Roots(), RawCollateral: coll, Now: tdxtest.Now}
	padded := append(raw, 0, 0, 0)
	if _, err := verified(t, padded, o); !fault.Has(err, "tdx.quote.parse") || fault.ExitCode(err) != fault.ExitParse {
		t.Errorf("without the option: %v", err)
	}
	o.AllowZeroPadding = true
	if _, err := verified(t, padded, o); err != nil {
		t.Errorf("with the option: %v", err)
	}
	if _, err := verified(t, append(padded, 1), o); !fault.Has(err, "tdx.quote.parse") {
		t.Errorf("with a byte that is not zero: %v", err)
	}
}

func TestResultHasWhatTheQuoteSays(t *testing.T) {
	p := newPKI(t)
	c := tdxtest.Case{Quote: tdxtest.DefaultTDX(5, quote.BodyTD15X), Collateral: tdxtest.DefaultCollateral(quote.TEETDX)}
	copy(c.Quote.TD.ReportData[:], "report data")
	c.Quote.Platform.SMTEnabled = true
	raw, coll, err := p.Make(&c)
	if err != nil {
		t.Fatal(err)
	}
	res, err := verified(t, raw, &tdx.Options{Roots: p.Roots(), RawCollateral: coll, Now: tdxtest.Now})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(c.Quote.TD, res.TD); diff != "" {
		t.Errorf("TD report differs:\n%s", diff)
	}
	yes, no := true, false
	want := dcap.Platform{FMSPC: "90c06f000000", PCEID: "0000", PPID: "000102030405060708090a0b0c0d0e0f",
		CPUSVN: "0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a0a", PCESVN: 13, CA: pck.PlatformCA, SGXType: 1,
		InstanceID: "f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff", DynamicPlatform: &no, CachedKeys: &no, SMTEnabled: &yes}
	if diff := cmp.Diff(want, res.Platform); diff != "" {
		t.Errorf("platform differs:\n%s", diff)
	}
	if res.Dates.PCKCRLNumber != "7" || len(res.Dates.Parts) != 7 || !res.Dates.EarliestExpiry.Equal(tdxtest.Now.AddDate(0, 0, 29)) {
		t.Errorf("dates are %+v", res.Dates)
	}
	if m := res.Measurements(); len(m["mrtd"]) != 96 || m["init_fmspc"] != "070000000000000000000000" {
		t.Errorf("measurements are %v", m)
	}
	for i := range raw {
		raw[i] = 0xff
	}
	if diff := cmp.Diff(c.Quote.TD, res.TD); diff != "" {
		t.Errorf("result aliases the quote:\n%s", diff)
	}
}

package snp_test

import (
	"crypto/x509/pkix"
	"encoding/asn1"
	"sync"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snptest"
)

// thePKI is made once: its RSA signatures take their time.
var thePKI = sync.OnceValues(func() (*snptest.PKI, error) { return snptest.New("snp") })

func newPKI(t testing.TB) *snptest.PKI {
	t.Helper()
	p, err := thePKI()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func must[T any](t testing.TB) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestEveryVersionProductAndSignerVerifies(t *testing.T) {
	p := newPKI(t)
	n := 0
	for version := uint32(2); version <= 5; version++ {
		for _, product := range []report.Product{report.Milan, report.Genoa, report.Siena, report.Turin} {
			for _, signer := range []report.Signer{report.VCEK, report.VLEK} {
				if version == 2 && product != report.Milan && product != report.Genoa {
					continue // CPUs that are newer than version 2
				}
				n++
				r := snptest.Default(version, product, signer)
				raw, cert, err := p.Make(&r)
				if err != nil {
					t.Fatal(err)
				}
				crl := snptest.DefaultCRL(product)
				der := must[[]byte](t)(p.CRL(&crl))
				o := &snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: cert, Chain: p.Chain(product, signer), CRL: der, RequireCRL: true}
				res, err := verified(t, raw, o)
				if err != nil || !res.Genuine || res.Product != product || res.Signer != signer || res.Version != int(version) {
					t.Errorf("v%d %s %s: %+v, %v", version, product, signer, res, err)
					continue
				}
				if product == report.Turin && (res.TCB.Reported.FMC != 1 || res.TCB.Reported.SNP != 24 || res.TCB.Reported.Bootloader != 4) {
					t.Errorf("Turin's TCB is read as %+v", res.TCB.Reported)
				}
				if (res.Mitigations != nil) != (version >= 5) {
					t.Errorf("v%d: mitigations %+v", version, res.Mitigations)
				}
				// PEM, and the extended report's table, are as good.
				if _, err := verified(t, raw, &snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: snptest.PEM(cert)}); err != nil {
					t.Errorf("certificate in PEM: %v", err)
				}
				if _, err := verified(t, p.Table(raw, signer, product, cert), &snp.Options{Roots: p.Roots(), Now: snptest.Now}); err != nil {
					t.Errorf("extended report: %v", err)
				}
				// AMD's roots do not know the test's.
				if _, err := verified(t, raw, &snp.Options{Now: snptest.Now, Certificate: cert}); !fault.Has(err, "snp.chain") {
					t.Errorf("under AMD's roots: %v", err)
				}
			}
		}
	}
	t.Logf("%d kinds of report", n)
}

// bad is one way for a verification to go wrong, with the code that says so.
type bad struct {
	product report.Product // empty: Milan
	signer  report.Signer  // empty: VCEK
	version uint32         // 0: 3
	report  func(*snptest.Report)
	raw     func([]byte) // changed before it is signed anew
	cert    func(*snptest.Cert)
	crl     func(*snptest.CRL) // nil: no CRL
	options func(*snp.Options)
	code    string
	exit    int
}

func extension(oid ...int) []pkix.Extension {
	return []pkix.Extension{{Id: oid, Value: []byte{2, 1, 1}}}
}

func lower(t report.TCB) report.TCB {
	return snptest.TCB(report.Milan, 0, t.Bootloader, t.TEE, t.SNP-1, t.Microcode)
}

func TestWhatDoesNotHoldIsRefused(t *testing.T) {
	amd := func(n ...int) asn1.ObjectIdentifier {
		return append(asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}, n...)
	}
	for name, b := range map[string]bad{
		"no certificate":           {options: func(o *snp.Options) { o.Certificate = nil }, code: "snp.cert.missing"},
		"an unsigned report":       {report: func(r *snptest.Report) { r.Signer = report.None }, code: "snp.signature"},
		"a report by another key":  {report: func(r *snptest.Report) { r.KeyName = "other" }, cert: func(c *snptest.Cert) { c.KeyName = "leaf" }, code: "snp.signature"},
		"a report of the host":     {report: func(r *snptest.Report) { r.VMPL = report.VMPLHost }, code: "snp.report.host"},
		"a VLEK certificate":       {cert: func(c *snptest.Cert) { c.Signer, c.ChipID, c.CSP = report.VLEK, nil, "x" }, code: "snp.cert.signer"},
		"a VCEK named VLEK":        {signer: report.VLEK, cert: func(c *snptest.Cert) { c.CommonName = "SEV-VCEK" }, code: "snp.cert.signer"},
		"an expired certificate":   {cert: func(c *snptest.Cert) { c.NotAfter = snptest.Now.Add(-time.Second) }, code: "snp.cert.expired"},
		"a certificate to come":    {cert: func(c *snptest.Cert) { c.NotBefore = snptest.Now.Add(time.Second) }, code: "snp.cert.expired"},
		"another TCB version":      {cert: func(c *snptest.Cert) { c.TCB = lower(c.TCB) }, code: "snp.cert.tcb"},
		"another FMC version":      {product: report.Turin, cert: func(c *snptest.Cert) { c.TCB.FMC++ }, code: "snp.cert.tcb"},
		"another chip":             {cert: func(c *snptest.Cert) { c.ChipID[63]++ }, code: "snp.cert.chip_id"},
		"another Turin chip":       {product: report.Turin, cert: func(c *snptest.Cert) { c.ChipID[7]++ }, code: "snp.cert.chip_id"},
		"a chip ID beyond Turin's": {product: report.Turin, raw: func(b []byte) { b[0x1A0+8] = 1 }, code: "snp.cert.chip_id"},
		"a masked chip ID":         {report: func(r *snptest.Report) { r.ChipID = [64]byte{} }, code: "snp.cert.chip_id"},
		"a long chip ID on Turin":  {product: report.Turin, cert: func(c *snptest.Cert) { c.ChipID = make([]byte, 64) }, code: "snp.cert.parse", exit: fault.ExitParse},
		"a short chip ID on Milan": {cert: func(c *snptest.Cert) { c.ChipID = c.ChipID[:8] }, code: "snp.cert.parse", exit: fault.ExitParse},
		"another product's chain":  {cert: func(c *snptest.Cert) { c.Line = report.Genoa }, code: "snp.chain"},
		"another product": {cert: func(c *snptest.Cert) { c.Line, c.ProductName = report.Genoa, "Genoa" },
			code: "snp.cert.product"},
		"Turin in version 2": {product: report.Turin, version: 3, raw: func(b []byte) { b[0] = 2; clear(b[0x188:0x18B]); relayout(b) },
			code: "snp.cert.product"},
		"an unknown product name":    {cert: func(c *snptest.Cert) { c.ProductName = "Venice" }, code: "snp.cert.product"},
		"signed by the ARK":          {cert: func(c *snptest.Cert) { c.ByARK = true }, code: "snp.chain"},
		"no microcode version":       {cert: func(c *snptest.Cert) { c.Drop = amd(3, 8).String() }, code: "snp.cert.parse", exit: fault.ExitParse},
		"no FMC version on Turin":    {product: report.Turin, cert: func(c *snptest.Cert) { c.Drop = amd(3, 9).String() }, code: "snp.cert.parse", exit: fault.ExitParse},
		"an FMC version on Milan":    {cert: func(c *snptest.Cert) { c.Extra = extension(amd(3, 9)...) }, code: "snp.cert.parse", exit: fault.ExitParse},
		"a reserved component":       {cert: func(c *snptest.Cert) { c.Drop, c.Extra = amd(3, 5).String(), extension(amd(3, 5)...) }, code: "snp.cert.parse", exit: fault.ExitParse},
		"an unknown AMD extension":   {cert: func(c *snptest.Cert) { c.Extra = extension(amd(6)...) }, code: "snp.cert.parse", exit: fault.ExitParse},
		"a chip and a provider":      {cert: func(c *snptest.Cert) { c.CSP = "x" }, code: "snp.cert.parse", exit: fault.ExitParse},
		"a VLEK without a provider":  {signer: report.VLEK, cert: func(c *snptest.Cert) { c.CSP = "" }, code: "snp.cert.parse", exit: fault.ExitParse},
		"what is no certificate":     {options: func(o *snp.Options) { o.Certificate = []byte("hello") }, code: "snp.cert.parse", exit: fault.ExitParse},
		"an unpinned chain":          {options: func(o *snp.Options) { o.Chain = o.Certificate }, code: "snp.chain"},
		"a chain that does not read": {options: func(o *snp.Options) { o.Chain = []byte("hello") }, code: "snp.cert.parse", exit: fault.ExitParse},

		"a reported TCB above the current": {report: func(r *snptest.Report) {
			r.Current, r.Committed, r.Launch = lower(r.Current), lower(r.Current), lower(r.Current)
		}, code: "snp.tcb.reported"},
		"a committed TCB above the current": {report: func(r *snptest.Report) {
			r.Current, r.Reported, r.Launch = lower(r.Current), lower(r.Current), lower(r.Current)
		}, code: "snp.tcb.committed"},
		"a launch TCB above the current": {report: func(r *snptest.Report) {
			r.Current, r.Reported, r.Committed = lower(r.Current), lower(r.Current), lower(r.Current)
		}, code: "snp.tcb.launch"},
		"committed firmware above the current": {report: func(r *snptest.Report) { r.CommittedFirmware.Build++ }, code: "snp.firmware.committed"},

		"no CRL where one is needed": {options: func(o *snp.Options) { o.RequireCRL = true }, code: "snp.crl.missing"},
		"a revoked ASK":              {crl: func(c *snptest.CRL) { c.Revoked = []int64{5, snptest.SerialASK} }, code: "snp.cert.revoked"},
		"a revoked ASVK":             {signer: report.VLEK, crl: func(c *snptest.CRL) { c.Revoked = []int64{snptest.SerialASVK} }, code: "snp.cert.revoked"},
		"a revoked VCEK":             {cert: func(c *snptest.Cert) { c.Serial = 77 }, crl: func(c *snptest.CRL) { c.Revoked = []int64{77} }, code: "snp.cert.revoked"},
		"a revoked VCEK of number 0": {crl: func(c *snptest.CRL) { c.Revoked = []int64{0} }, code: "snp.cert.revoked"},
		"a revoked VLEK":             {signer: report.VLEK, cert: func(c *snptest.Cert) { c.Serial = 78 }, crl: func(c *snptest.CRL) { c.Revoked = []int64{78} }, code: "snp.cert.revoked"},
		"an expired CRL":             {crl: func(c *snptest.CRL) { c.NextUpdate = snptest.Now.Add(-time.Second) }, code: "snp.crl.current"},
		"a CRL to come":              {crl: func(c *snptest.CRL) { c.ThisUpdate = snptest.Now.Add(time.Second) }, code: "snp.crl.current"},
		"a CRL that is too old": {crl: func(*snptest.CRL) {}, options: func(o *snp.Options) { o.CRLMaxAge = 24*time.Hour - time.Second },
			code: "snp.crl.current"},
		"a CRL of another product":  {crl: func(c *snptest.CRL) { c.Line = report.Genoa }, code: "snp.crl.signature"},
		"a CRL that the ASK signed": {crl: func(c *snptest.CRL) { c.ByASK = true }, code: "snp.crl.signature"},
		"a CRL with a critical rider": {crl: func(c *snptest.CRL) {
			c.Extra = []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}
		}, code: "snp.crl.parse", exit: fault.ExitParse},
		"what is no CRL":               {options: func(o *snp.Options) { o.CRL = []byte("hello") }, code: "snp.crl.parse", exit: fault.ExitParse},
		"half of an ID block":          {options: func(o *snp.Options) { o.IDBlock = make([]byte, 96) }, code: "snp.id_block.parse", exit: fault.ExitParse},
		"an ID block signed by nobody": {options: func(o *snp.Options) { o.IDBlock, o.IDAuth = make([]byte, 96), make([]byte, 4096) }, code: "snp.id_block.parse", exit: fault.ExitParse},
	} {
		t.Run(name, func(t *testing.T) { b.check(t) })
	}
}

// relayout moves a Turin report's TCB versions to the older layout, so that
// only the product is wrong.
func relayout(b []byte) {
	for _, at := range []int{0x38, 0x180, 0x1E0, 0x1F0} {
		snpVersion := b[at+3]
		b[at+2], b[at+3], b[at+6] = 0, 0, snpVersion
	}
}

func (b *bad) check(t *testing.T) {
	p := newPKI(t)
	r := snptest.Default(max(b.version, 3), report.Milan, report.VCEK)
	if b.product != "" || b.signer != "" {
		product, signer := b.product, b.signer
		if product == "" {
			product = report.Milan
		}
		if signer == "" {
			signer = report.VCEK
		}
		r = snptest.Default(max(b.version, 3), product, signer)
	}
	c := snptest.CertFor(&r)
	if b.report != nil {
		b.report(&r)
		if r.Signer != report.None && b.code != "snp.cert.chip_id" {
			c = snptest.CertFor(&r)
		}
	}
	if b.cert != nil {
		b.cert(&c)
	}
	raw := must[[]byte](t)(p.Report(&r))
	if b.raw != nil {
		b.raw(raw)
		if err := p.Sign(raw, r.KeyName); err != nil {
			t.Fatal(err)
		}
	}
	o := &snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: must[[]byte](t)(p.Certificate(&c)), Cache: snp.NewCache(snp.CacheOptions{})}
	if b.crl != nil {
		l := snptest.DefaultCRL(r.Product)
		b.crl(&l)
		o.CRL = must[[]byte](t)(p.CRL(&l))
	}
	if b.options != nil {
		b.options(o)
	}
	for _, state := range []string{"cold", "warm"} {
		res, err := verified(t, raw, o)
		if res == nil || res.Genuine || !fault.Has(err, b.code) || status(res, b.code) != result.Fail {
			t.Fatalf("%s: no %s in %v", state, b.code, err)
		}
		want := b.exit
		if want == 0 {
			want = fault.ExitRefused
		}
		if fault.ExitCode(err) != want {
			t.Errorf("%s: exit code %d, want %d: %v", state, fault.ExitCode(err), want, err)
		}
	}
}

func TestEveryFailureIsReportedAtOnce(t *testing.T) {
	p := newPKI(t)
	r := snptest.Default(5, report.Genoa, report.VCEK)
	c := snptest.CertFor(&r)
	c.ChipID[0]++
	c.TCB.Microcode++
	c.TCB, _ = report.DecodeTCB([8]byte{4, 2, 0, 0, 0, 0, 24, 220}, report.Genoa)
	c.NotAfter = snptest.Now.Add(-time.Hour)
	c.KeyName = "other"
	l := snptest.DefaultCRL(report.Genoa)
	l.Revoked, l.NextUpdate = []int64{snptest.SerialASK}, snptest.Now.Add(-time.Hour)
	r.CommittedFirmware.Major++
	_, err := verified(t, must[[]byte](t)(p.Report(&r)), &snp.Options{Roots: p.Roots(), Now: snptest.Now,
		Certificate: must[[]byte](t)(p.Certificate(&c)), CRL: must[[]byte](t)(p.CRL(&l)), IDBlock: []byte{1}})
	for _, code := range []string{"snp.signature", "snp.cert.chip_id", "snp.cert.tcb", "snp.cert.expired", "snp.crl.current",
		"snp.cert.revoked", "snp.firmware.committed", "snp.id_block.parse"} {
		if !fault.Has(err, code) {
			t.Errorf("no %s in %v", code, err)
		}
	}
}

func TestIDBlocksAreVerified(t *testing.T) {
	p := newPKI(t)
	for name, author := range map[string]string{"with an author": "author", "without an author": ""} {
		t.Run(name, func(t *testing.T) {
			r := snptest.Default(5, report.Milan, report.VCEK)
			r.IDKey, r.AuthorKey = "id", author
			raw, cert, err := p.Make(&r)
			if err != nil {
				t.Fatal(err)
			}
			block, auth, err := p.IDBlock(&r)
			if err != nil {
				t.Fatal(err)
			}
			o := snp.Options{Roots: p.Roots(), Now: snptest.Now, Certificate: cert, IDBlock: block, IDAuth: auth, Cache: snp.NewCache(snp.CacheOptions{})}
			res, err := verified(t, raw, &o)
			if err != nil || res.IDBlock == nil || res.IDBlock.HasAuthor != (author != "") {
				t.Fatalf("%+v, %v", res, err)
			}
			for what, change := range map[string]func(*snptest.Report){
				"snp.id_block.id_key":        func(r *snptest.Report) { r.IDKey = "other" },
				"snp.id_block.author_key":    func(r *snptest.Report) { r.AuthorKey = "other" },
				"snp.id_block.launch_digest": func(r *snptest.Report) { r.LaunchDigest[0]++ },
				"snp.id_block.ids":           func(r *snptest.Report) { r.ImageID[0]++ },
				"snp.id_block.guest_svn":     func(r *snptest.Report) { r.GuestSVN++ },
				"snp.id_block.policy":        func(r *snptest.Report) { r.Policy |= 1 << 19 },
			} {
				other := r
				change(&other)
				raw := must[[]byte](t)(p.Report(&other))
				if res, err := verified(t, raw, &o); !fault.Has(err, what) || res.IDBlock != nil || len(fault.All(err)) != 1 {
					t.Errorf("no %s in %v", what, err)
				}
			}
		})
	}
}

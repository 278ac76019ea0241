package pck_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	peer "github.com/google/go-tdx-guest/testing/testdata"

	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/tdxtest"
)

func newPKI(t testing.TB) *tdxtest.PKI {
	t.Helper()
	p, err := tdxtest.New("pck")
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func chainOf(t testing.TB, p *tdxtest.PKI, pl tdxtest.Platform) []byte {
	t.Helper()
	chain, err := p.PCKChain(&pl)
	if err != nil {
		t.Fatal(err)
	}
	return chain
}

func TestVerifyReadsTheExtensions(t *testing.T) {
	p := newPKI(t)
	pl := tdxtest.DefaultPlatform()
	pl.Components[15], pl.PCESVN, pl.PCEID, pl.SGXType, pl.CachedKeys = 255, 0x1234, [2]byte{1, 2}, 2, true
	c, err := pck.Verify(chainOf(t, p, pl), p.Roots(), nil)
	if err != nil {
		t.Fatal(err)
	}
	yes, no := true, false
	want := pck.Extensions{PPID: pl.PPID, Components: pl.Components, CPUSVN: pl.CPUSVN, PCESVN: pl.PCESVN, PCEID: pl.PCEID, FMSPC: pl.FMSPC,
		SGXType: 2, PlatformInstanceID: pl.InstanceID[:], DynamicPlatform: &no, CachedKeys: &yes, SMTEnabled: &no}
	if diff := cmp.Diff(want, c.Extensions); diff != "" {
		t.Errorf("extensions differ:\n%s", diff)
	}
	pl.CA = pck.ProcessorCA
	if c, err = pck.Verify(chainOf(t, p, pl), p.Roots(), nil); err != nil || c.CA != pck.ProcessorCA || c.Extensions.PlatformInstanceID != nil {
		t.Errorf("Processor CA: %+v, error %v", c, err)
	}
}

func TestIntelsRootIsTheOneThatIsPublished(t *testing.T) {
	roots := pck.IntelRoots()
	p := newPKI(t)
	if roots.Hash() == p.Roots().Hash() {
		t.Error("the test root has the hash of Intel's")
	}
	if _, err := pck.Verify(chainOf(t, p, tdxtest.DefaultPlatform()), roots, nil); !errors.Is(err, pck.ErrUntrustedRoot) {
		t.Errorf("a chain of the test root under Intel's: %v", err)
	}
}

func TestVerifyRefusesChainsThatAreNotIntact(t *testing.T) {
	p := newPKI(t)
	other, err := tdxtest.New("other")
	if err != nil {
		t.Fatal(err)
	}
	good := string(chainOf(t, p, tdxtest.DefaultPlatform()))
	foreign := string(chainOf(t, other, tdxtest.DefaultPlatform()))
	processor := tdxtest.DefaultPlatform()
	processor.CA = pck.ProcessorCA
	const begin = "-----BEGIN CERTIFICATE-----"
	split := func(s string) []string { return strings.SplitAfter(s, "-----END CERTIFICATE-----\n") }
	g, x, pr := split(good), split(foreign), split(string(chainOf(t, p, processor)))
	for _, tt := range []struct {
		name, chain string
		want        error
	}{
		{"nothing", "", pck.ErrMalformed},
		{"two certificates", g[0] + g[1], pck.ErrMalformed},
		{"four certificates", good + g[2], pck.ErrMalformed},
		{"text before", "x" + good, pck.ErrMalformed},
		{"text between", g[0] + "x\n" + g[1] + g[2], pck.ErrMalformed},
		{"text after", good + "x", pck.ErrMalformed},
		{"a header", strings.Replace(good, begin+"\n", begin+"\nA: b\n\n", 1), pck.ErrMalformed},
		{"another block type", strings.ReplaceAll(good, "CERTIFICATE", "X509 CRL"), pck.ErrMalformed},
		{"a chain over the limit", good + strings.Repeat("\n", pck.MaxChain), pck.ErrMalformed},
		{"another root", x[0] + x[1] + x[2], pck.ErrUntrustedRoot},
		{"the right root below a foreign chain", x[0] + x[1] + g[2], pck.ErrSignature},
		{"a foreign leaf", x[0] + g[1] + g[2], pck.ErrSignature},
		{"the other CA", g[0] + pr[1] + g[2], pck.ErrSignature},
		{"root in place of the CA", g[0] + g[2] + g[2], pck.ErrMalformed},
		{"leaf in place of the CA", g[0] + g[0] + g[2], pck.ErrMalformed},
		{"CA in place of the leaf", g[1] + g[1] + g[2], pck.ErrMalformed},
		{"the order reversed", g[2] + g[1] + g[0], pck.ErrUntrustedRoot},
	} {
		if _, err := pck.Verify([]byte(tt.chain), p.Roots(), nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: error is %v, not %v", tt.name, err, tt.want)
		}
	}
	for name, chain := range map[string]string{
		"a NUL at the end": good + "\x00", "carriage returns": strings.ReplaceAll(good, "\n", "\r\n"), "empty lines": g[0] + "\n\n" + g[1] + g[2],
	} {
		if _, err := pck.Verify([]byte(chain), p.Roots(), nil); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// ownCA is a root made here, to issue certificates that tdxtest does not.
type ownCA struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

func newCA(t testing.TB, cn string, parent *ownCA, change func(*x509.Certificate)) *ownCA {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: cn}, NotBefore: tdxtest.Now, NotAfter: tdxtest.Now.AddDate(1, 0, 0),
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	if change != nil {
		change(tmpl)
	}
	p := &ownCA{key: key, cert: tmpl}
	if parent != nil {
		p = parent
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, p.cert, &key.PublicKey, p.key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &ownCA{key, cert}
}

func (c *ownCA) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.cert.Raw}))
}

func TestCertificatesThatMayNotBeInAChainAreRefused(t *testing.T) {
	root := newCA(t, "Test SGX Root CA", nil, nil)
	roots, err := pck.ParseRoots([]byte(root.pem()))
	if err != nil {
		t.Fatal(err)
	}
	leaf := func(c *x509.Certificate) {
		c.Subject.CommonName, c.IsCA, c.KeyUsage = "SGX PCK Certificate", false, x509.KeyUsageDigitalSignature
	}
	for name, tt := range map[string]struct {
		ca, leaf func(*x509.Certificate)
		want     error
	}{
		"a CA that may not sign":       {ca: func(c *x509.Certificate) { c.KeyUsage = x509.KeyUsageCRLSign }, want: pck.ErrMalformed},
		"a CA that is none":            {ca: func(c *x509.Certificate) { c.IsCA = false; c.KeyUsage = x509.KeyUsageDigitalSignature }, want: pck.ErrMalformed},
		"a CA of another name":         {ca: func(c *x509.Certificate) { c.Subject.CommonName = "Test TCB Signing" }, want: pck.ErrMalformed},
		"a leaf of another name":       {leaf: func(c *x509.Certificate) { c.Subject.CommonName = "SGX TCB Signing" }, want: pck.ErrMalformed},
		"a leaf without SGX extension": {want: pck.ErrMalformed},
		"a leaf with an unknown critical extension": {leaf: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 3, 4}, Critical: true, Value: []byte{5, 0}}}
		}, want: pck.ErrMalformed},
		"a leaf with a broken SGX extension": {leaf: func(c *x509.Certificate) {
			c.ExtraExtensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}, Value: []byte{0x30, 2, 5, 0}}}
		}, want: pck.ErrMalformed},
	} {
		ca := newCA(t, "SGX PCK Platform CA", root, tt.ca)
		l := newCA(t, "", ca, func(c *x509.Certificate) {
			leaf(c)
			if tt.leaf != nil {
				tt.leaf(c)
			}
		})
		if _, err := pck.Verify([]byte(l.pem()+ca.pem()+root.pem()), roots, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: error is %v, not %v", name, err, tt.want)
		}
	}
	if _, err := pck.ParseRoots([]byte(newCA(t, "SGX PCK Platform CA", root, nil).pem())); err == nil {
		t.Error("a certificate that is not self-signed is taken as a root")
	}
}

func TestARenewedRootOfTheSameKeyIsTaken(t *testing.T) {
	p := newPKI(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issue := func(years int, signer *ecdsa.PrivateKey) []byte {
		tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Root"}, NotBefore: tdxtest.Now,
			NotAfter: tdxtest.Now.AddDate(years, 0, 0), BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign}
		der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, signer)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	pinned := issue(1, key)
	roots, err := pck.ParseRoots(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pinned}))
	if err != nil {
		t.Fatal(err)
	}
	renewed := issue(2, key)
	if roots.Find(pinned) == nil || roots.Find(renewed) == nil {
		t.Error("the pinned root or its renewal is not found")
	}
	bad := bytes.Clone(renewed)
	bad[len(bad)-1] ^= 1
	if roots.Find(bad) != nil {
		t.Error("a renewal with a wrong signature is found")
	}
	if roots.Find(p.RootPEM()) != nil || p.Roots().Find(renewed) != nil {
		t.Error("another root is found")
	}
}

func TestCRLsAreReadStrictly(t *testing.T) {
	ca := newCA(t, "SGX PCK Platform CA", nil, nil)
	other := newCA(t, "SGX PCK Platform CA", nil, nil)
	make := func(change func(*x509.RevocationList)) []byte {
		list := &x509.RevocationList{Number: big.NewInt(3), ThisUpdate: tdxtest.Now, NextUpdate: tdxtest.Now.AddDate(0, 1, 0),
			RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(77), RevocationTime: tdxtest.Now}}}
		if change != nil {
			change(list)
		}
		der, err := x509.CreateRevocationList(rand.Reader, list, ca.cert, ca.key)
		if err != nil {
			t.Fatal(err)
		}
		return der
	}
	crl, err := pck.ParseCRL(make(nil))
	if err != nil {
		t.Fatal(err)
	}
	if !crl.Revoked(big.NewInt(77)) || crl.Revoked(big.NewInt(78)) || crl.Len() != 1 || crl.Number.Int64() != 3 || !crl.NextUpdate.Equal(tdxtest.Now.AddDate(0, 1, 0)) {
		t.Errorf("CRL is %+v", crl)
	}
	if err := crl.CheckIssuer(ca.cert); err != nil {
		t.Error(err)
	}
	if err := crl.CheckIssuer(other.cert); !errors.Is(err, pck.ErrSignature) {
		t.Errorf("another CA of the same name: %v", err)
	}
	critical := pkix.Extension{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}
	for name, der := range map[string][]byte{
		"garbage":       []byte("x"),
		"trailing data": append(make(nil), 0),
		"a critical extension, as of a partial CRL": make(func(l *x509.RevocationList) { l.ExtraExtensions = []pkix.Extension{critical} }),
		"an entry with a critical extension": make(func(l *x509.RevocationList) {
			l.RevokedCertificateEntries[0].ExtraExtensions = []pkix.Extension{critical}
		}),
		"PEM": pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: make(nil)}),
	} {
		if _, err := pck.ParseCRL(der); !errors.Is(err, pck.ErrMalformed) {
			t.Errorf("%s: error is %v", name, err)
		}
	}
	if _, err := pck.ParseCRL(peer.RootCrlBody); err != nil {
		t.Errorf("Intel's root CRL: %v", err)
	}
	if _, err := pck.ParseCRL(peer.PckCrlBody); err != nil {
		t.Errorf("Intel's PCK CRL: %v", err)
	}
}

// peerQuote is the real quote of go-tdx-guest's tests without the 39 bytes
// that follow it.
func peerQuote() []byte { return peer.RawQuote[:4935] }

func TestTheRealChainOfAPeersQuoteVerifies(t *testing.T) {
	q, err := quote.Parse(peerQuote(), quote.Options{})
	if err != nil {
		t.Fatal(err)
	}
	c, err := pck.Verify(q.Cert.PEM, pck.IntelRoots(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if c.CA != pck.PlatformCA || c.Extensions.FMSPC != [6]byte{0x50, 0x80, 0x6f} || !c.NotBefore.Before(c.NotAfter) {
		t.Errorf("chain is %+v", c)
	}
}

func FuzzPCKCert(f *testing.F) {
	p := newPKI(f)
	spec := tdxtest.DefaultCollateral(quote.TEETDX)
	raw, err := p.Collateral(&spec)
	if err != nil {
		f.Fatal(err)
	}
	ca, err := pck.VerifyIssued(raw.PCKCRLIssuerChain, p.Roots(), true)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(chainOf(f, p, tdxtest.DefaultPlatform()))
	if q, err := quote.Parse(peerQuote(), quote.Options{}); err == nil {
		f.Add(q.Cert.PEM)
	}
	f.Fuzz(func(t *testing.T, chain []byte) {
		if c, err := pck.Verify(chain, p.Roots(), nil); err == nil && (c.Key == nil || c.NotAfter.Before(time.Unix(0, 0))) {
			t.Fatalf("chain is %+v", c)
		}
		_, _ = pck.Verify(chain, pck.IntelRoots(), ca)
		_, _ = pck.VerifyLeaf(chain, ca)
		_, _ = pck.ParseRoots(chain)
		// The fuzzer does not find PEM: give it the DER too.
		_, _ = pck.VerifyLeaf(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: chain}), ca)
	})
}

func FuzzCRL(f *testing.F) {
	block, _ := pem.Decode(newPKI(f).RootPEM())
	root, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(peer.RootCrlBody)
	f.Add(peer.PckCrlBody)
	f.Fuzz(func(t *testing.T, der []byte) {
		c, err := pck.ParseCRL(der)
		if err != nil {
			return
		}
		if c.Number == nil || !c.ThisUpdate.Before(c.NextUpdate) {
			t.Fatalf("CRL is %+v", c)
		}
		c.Revoked(big.NewInt(1))
		_ = c.CheckIssuer(root)
	})
}

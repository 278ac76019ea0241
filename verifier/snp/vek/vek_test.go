package vek_test

import (
	"errors"
	"math/big"
	"slices"
	"testing"

	"github.com/google/go-sev-guest/verify/trust"

	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
	"cocoon/verifier/snptest"
)

func TestAMDsChainsArePinned(t *testing.T) {
	r := vek.AMDRoots()
	for _, line := range []report.Product{report.Milan, report.Genoa, report.Turin} {
		a := r.Authority(line)
		if a == nil || a.ARK.Subject.CommonName != "ARK-"+string(line) || a.ASK == nil || a.ASVK == nil {
			t.Errorf("%s: %+v", line, a)
		}
	}
	if r.Authority(report.Siena) != nil {
		t.Error("Siena has a line of its own")
	}
	if err := r.CheckChain(trust.AskArkGenoaVlekBytes, report.Genoa); err != nil {
		t.Error(err)
	}
	if err := r.CheckChain(trust.AskArkGenoaVlekBytes, report.Milan); !errors.Is(err, vek.ErrUnpinned) {
		t.Errorf("Genoa's chain for Milan: %v", err)
	}
}

func TestRootsAreRefused(t *testing.T) {
	p, err := snptest.New("roots")
	if err != nil {
		t.Fatal(err)
	}
	q, err := snptest.New("roots") // the same keys, other signatures
	if err != nil {
		t.Fatal(err)
	}
	milan := p.Chain(report.Milan, report.VCEK)
	r := snptest.Default(3, report.Milan, report.VCEK)
	_, leaf, err := p.Make(&r)
	if err != nil {
		t.Fatal(err)
	}
	damaged := slices.Clone(p.RootsPEM())
	damaged[200] = '@'
	for name, in := range map[string][]byte{
		"nothing":                     nil,
		"text":                        []byte("hello"),
		"text before a certificate":   append([]byte("hello\n"), milan...),
		"a damaged certificate first": damaged,
		"a leaf":                      leaf,
		"two ARKs of one product":     slices.Concat(milan, q.Chain(report.Milan, report.VCEK)),
		"AMD's ASK with a test's ARK": slices.Concat(trust.AskArkMilanVcekBytes[:2500], p.Chain(report.Milan, report.VLEK)),
		"more than is read":           make([]byte, vek.MaxChain+1),
	} {
		if _, err := vek.ParseRoots(in); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func TestChipIDsCompare(t *testing.T) {
	p, err := snptest.New("chips")
	if err != nil {
		t.Fatal(err)
	}
	r := snptest.Default(3, report.Milan, report.VCEK)
	_, der, err := p.Make(&r)
	if err != nil {
		t.Fatal(err)
	}
	c, err := vek.Verify(der, report.VCEK, p.Roots())
	if err != nil {
		t.Fatal(err)
	}
	if !c.ChipMatches((*[64]byte)(c.ChipID)) || c.ChipMatches(&[64]byte{}) {
		t.Error("chip IDs do not compare")
	}
}

func FuzzCert(f *testing.F) {
	p, err := snptest.New("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	for _, r := range []snptest.Report{snptest.Default(3, report.Milan, report.VCEK), snptest.Default(3, report.Turin, report.VCEK), snptest.Default(5, report.Genoa, report.VLEK)} {
		_, cert, err := p.Make(&r)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(cert)
		f.Add(snptest.PEM(cert))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		der, err := vek.DER(in)
		if err != nil {
			return
		}
		for _, s := range []report.Signer{report.VCEK, report.VLEK} {
			c, err := vek.Verify(der, s, p.Roots())
			if err == nil && (c.Key == nil || c.Issuer() == nil || (c.ChipID == nil) == (c.CSP == "")) {
				t.Fatalf("accepted %+v", c)
			}
		}
		_ = vek.AMDRoots().CheckChain(in, report.Milan)
	})
}

func FuzzCRL(f *testing.F) {
	p, err := snptest.New("fuzz")
	if err != nil {
		f.Fatal(err)
	}
	l := snptest.DefaultCRL(report.Turin)
	l.Revoked = []int64{1, 2}
	der, err := p.CRL(&l)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(der)
	f.Fuzz(func(t *testing.T, in []byte) {
		c, err := vek.ParseCRL(in)
		if err != nil {
			return
		}
		if !c.ThisUpdate.Before(c.NextUpdate) {
			t.Fatalf("accepted %+v", c)
		}
		c.Revoked(big.NewInt(1))
		if a := p.Roots().Authority(c.Line()); a != nil {
			_ = c.CheckIssuer(a)
		}
	})
}

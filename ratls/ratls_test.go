package ratls

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"math/big"
	"testing"
	"time"

	"cocoon/internal/fault"
)

func newKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func TestEvidenceSurvivesTheCertificate(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	doc := bytes.Repeat([]byte("evidence "), 4000)
	cert, err := NewCertificate(newKey(t), doc, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	got, err := EvidenceFrom(cert.Leaf)
	if err != nil || !bytes.Equal(got, doc) {
		t.Errorf("got %d bytes, %v", len(got), err)
	}
	if err := checkLeaf(cert.Leaf, now.Add(30*time.Minute)); err != nil {
		t.Errorf("within validity: %v", err)
	}
	for name, at := range map[string]time.Time{"before": now.Add(-2 * time.Minute), "after": now.Add(time.Hour + time.Second)} {
		if err := checkLeaf(cert.Leaf, at); !fault.Has(err, CodeExpired) {
			t.Errorf("%s validity: %v", name, err)
		}
	}
	if _, err := NewCertificate(newKey(t), make([]byte, MaxEvidence+1), now, time.Hour); err == nil {
		t.Error("evidence over the limit accepted")
	}
}

func TestEveryFlippedByteOfTheCertificateIsRefused(t *testing.T) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	doc := []byte(`{"claims":1}`)
	cert, err := NewCertificate(newKey(t), doc, now, time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	der := cert.Certificate[0]
	for i := range der {
		bad := bytes.Clone(der)
		bad[i] ^= 0x01
		c, err := x509.ParseCertificate(bad)
		if err != nil {
			continue
		}
		if checkLeaf(c, now) == nil {
			t.Fatalf("byte %d of %d flipped and the certificate still stands", i, len(der))
		}
	}
}

func TestCertificateOfTheOlderCocoonIsRead(t *testing.T) {
	key := newKey(t)
	ext := func(oid asn1.ObjectIdentifier, v []byte) pkix.Extension {
		return pkix.Extension{Id: oid, Critical: true, Value: v}
	}
	rd, quote := bytes.Repeat([]byte{7}, 64), []byte("quote")
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), ExtraExtensions: []pkix.Extension{ext(oidLegacyReportData, rd), ext(oidLegacyQuote, quote)}}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	l, ok := LegacyFrom(cert)
	if !ok || !bytes.Equal(l.ReportData, rd) || !bytes.Equal(l.Quote, quote) {
		t.Errorf("got %+v, %v", l, ok)
	}
	if _, err := EvidenceFrom(cert); !fault.Has(err, CodeExtension) {
		t.Errorf("EvidenceFrom: %v", err)
	}
}

func FuzzParseCMW(f *testing.F) {
	good, err := encodeCMW([]byte(`{"a":1}`))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte{0x0c, 0x02, '[', ']'})
	f.Fuzz(func(t *testing.T, in []byte) {
		doc, err := ParseCMW(in)
		if err == nil && len(doc) > len(in) {
			t.Fatal("more out than in")
		}
	})
}

// Package rimtest is a RIM and OCSP service for tests, with a PKI of its own:
// it signs reference integrity manifests in the profile that NVIDIA's have,
// answers for certificates with any status, and misbehaves on demand. Nothing
// made here verifies under NVIDIA's roots.
package rimtest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"
)

// Now is a time at which everything is valid that does not say otherwise.
var Now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// Authority is a certificate with its key.
type Authority struct {
	Cert *x509.Certificate
	Key  *ecdsa.PrivateKey
}

// Profile says what a certificate is.
type Profile struct {
	Name     string
	CA       bool
	EKU      []x509.ExtKeyUsage
	From, To time.Time // zero: around Now
	// Change edits the template before it is signed.
	Change func(*x509.Certificate)
}

// Issue makes a certificate and its key; a nil parent signs itself.
func Issue(parent *Authority, p Profile) (*Authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making serial number: %w", err)
	}
	if p.From.IsZero() {
		p.From = Now.AddDate(-1, 0, 0)
	}
	if p.To.IsZero() {
		p.To = Now.AddDate(1, 0, 0)
	}
	t := &x509.Certificate{
		SerialNumber: serial.SetBit(serial, 119, 1), Subject: pkix.Name{CommonName: p.Name, Organization: []string{"Test"}},
		NotBefore: p.From, NotAfter: p.To, BasicConstraintsValid: true, IsCA: p.CA, ExtKeyUsage: p.EKU,
		KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: x509.ECDSAWithSHA384,
	}
	if p.CA {
		t.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	if p.Change != nil {
		p.Change(t)
	}
	issuer, signer := t, key
	if parent != nil {
		issuer, signer = parent.Cert, parent.Key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, issuer, key.Public(), signer)
	if err != nil {
		return nil, fmt.Errorf("making certificate %q: %w", p.Name, err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("reading certificate %q: %w", p.Name, err)
	}
	return &Authority{Cert: c, Key: key}, nil
}

// PKI is the chain that RIMs are signed under, as NVIDIA's has it: root, CA,
// intermediate; each signer below the last.
type PKI struct {
	Root, CA, L3 *Authority
}

// NewPKI makes a chain.
func NewPKI() (*PKI, error) {
	var p PKI
	var parent *Authority
	for _, s := range []struct {
		at   **Authority
		name string
	}{{&p.Root, "Test CoRIM signing Root CA"}, {&p.CA, "Test Reference Value GH100 CA"}, {&p.L3, "Test Reference Value L3 GH100"}} {
		a, err := Issue(parent, Profile{Name: s.name, CA: true, From: Now.AddDate(-5, 0, 0), To: Now.AddDate(20, 0, 0)})
		if err != nil {
			return nil, err
		}
		*s.at, parent = a, a
	}
	return &p, nil
}

// RootPEM returns the root certificate, to pin.
func (p *PKI) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Root.Cert.Raw})
}

// Chain returns the certificates from a signer to the root.
func (p *PKI) Chain(signer *Authority) []*x509.Certificate {
	return []*x509.Certificate{signer.Cert, p.L3.Cert, p.CA.Cert, p.Root.Cert}
}

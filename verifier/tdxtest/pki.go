// Package tdxtest makes TDX and SGX quotes and collateral under a test root:
// for statuses that no real platform shows, for negatives, and for whoever
// tests what is built on the verifier. A seed goes in; the same keys, and the
// same bytes, come out of it every time, so that nothing signed here is worth
// anything: each certificate says so in its subject.
//
// The shapes are those that packages quote, pck and tcb read.
package tdxtest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"cocoon/verifier/pck"
)

// Organization is the organization in the subject of every certificate.
const Organization = "COCOON TEST ONLY - NOT INTEL"

// Now is the time at which what the defaults make is valid: collateral from a
// day before it to 29 days after it, certificates from 2020 to 2049.
var Now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

// PKI is a test root with everything below it.
type PKI struct {
	seed                            string
	root, platform, processor, sign *authority
	roots                           *pck.Roots
}

// authority is a certificate with its key.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
	pem  []byte
}

// Serial numbers of the certificates below the root.
const (
	SerialPlatformCA  = 2
	SerialProcessorCA = 3
	SerialTCBSigning  = 4
	SerialPCK         = 1000 // of the PCK certificate, unless Platform says otherwise
)

// New makes a PKI from a seed.
func New(seed string) (*PKI, error) {
	p := &PKI{seed: seed}
	var err error
	if p.root, err = p.authority("Cocoon Test SGX Root CA", 1, true, nil); err != nil {
		return nil, err
	}
	if p.platform, err = p.authority("Cocoon Test SGX PCK Platform CA", SerialPlatformCA, true, p.root); err != nil {
		return nil, err
	}
	if p.processor, err = p.authority("Cocoon Test SGX PCK Processor CA", SerialProcessorCA, true, p.root); err != nil {
		return nil, err
	}
	if p.sign, err = p.authority("Cocoon Test SGX TCB Signing", SerialTCBSigning, false, p.root); err != nil {
		return nil, err
	}
	if p.roots, err = pck.ParseRoots(p.root.pem); err != nil {
		return nil, err
	}
	return p, nil
}

// Roots returns the test root for Options.Roots.
func (p *PKI) Roots() *pck.Roots { return p.roots }

// RootPEM returns the root certificate in PEM.
func (p *PKI) RootPEM() []byte { return append([]byte(nil), p.root.pem...) }

// key derives a key from the seed and a name.
func (p *PKI) key(name string) (*ecdsa.PrivateKey, error) {
	for i := 0; ; i++ {
		h := sha256.Sum256(fmt.Appendf(nil, "cocoon tdxtest\x00%s\x00%s\x00%d", p.seed, name, i))
		// A scalar above the group order is as rare as a collision.
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P256(), h[:])
		if err == nil || i > 8 {
			return key, err
		}
	}
}

func (p *PKI) authority(name string, serial int64, ca bool, issuer *authority) (*authority, error) {
	key, err := p.key(name)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: subject(name),
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC),
		BasicConstraintsValid: true, IsCA: ca, KeyUsage: x509.KeyUsageDigitalSignature, SignatureAlgorithm: x509.ECDSAWithSHA256,
	}
	if ca {
		tmpl.KeyUsage = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	}
	return p.issue(tmpl, key, issuer)
}

func subject(name string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{Organization}, Country: []string{"XX"}}
}

func (p *PKI) issue(tmpl *x509.Certificate, key *ecdsa.PrivateKey, issuer *authority) (*authority, error) {
	parent, signer := tmpl, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	id := sha256.Sum256(elliptic.MarshalCompressed(elliptic.P256(), key.X, key.Y))
	tmpl.SubjectKeyId = id[:20]
	// Without randomness the signature is that of RFC 6979.
	der, err := x509.CreateCertificate(nil, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("issuing test certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issuing test certificate: %w", err)
	}
	return &authority{key: key, cert: cert, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}, nil
}

func (p *PKI) ca(ca pck.CA) *authority {
	if ca == pck.ProcessorCA {
		return p.processor
	}
	return p.platform
}

// signRaw signs the SHA-256 of data: r then s, 32 bytes each.
func signRaw(key *ecdsa.PrivateKey, data []byte) ([]byte, error) {
	digest := sha256.Sum256(data)
	der, err := key.Sign(nil, digest[:], crypto.SHA256) // RFC 6979
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	return rawSignature(der)
}

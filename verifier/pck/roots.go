package pck

import (
	"bytes"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
)

// intelRootPEM is the Intel SGX Root CA, valid 2018-05-21 to 2049-12-31. It is
// published at
// https://certificates.trustedservices.intel.com/Intel_SGX_Provisioning_Certification_RootCA.pem;
// SHA-256 of the DER:
// 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
//
//go:embed intel_sgx_root_ca.pem
var intelRootPEM []byte

// Roots is a set of trusted root certificates.
type Roots struct {
	certs []*x509.Certificate
	hash  [32]byte
}

// IntelRoots returns Intel's production root.
func IntelRoots() *Roots { return intelRoots() }

// Intel reports whether the set is Intel's own, as nil is.
func (r *Roots) Intel() bool { return r == nil || r.hash == intelRoots().hash }

var intelRoots = sync.OnceValue(func() *Roots {
	r, err := ParseRoots(intelRootPEM)
	if err != nil {
		panic("pck: embedded root certificate: " + err.Error())
	}
	return r
})

// maxRoots bounds a file of roots.
const maxRoots = 16

// ParseRoots reads root certificates from PEM. Each must be a self-signed CA
// certificate with an ECDSA P-256 key; between 1 and 16 are taken.
func ParseRoots(pemData []byte) (*Roots, error) {
	r := &Roots{}
	for rest := bytes.TrimSpace(pemData); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, more := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("parsing roots: not a PEM certificate")
		}
		if len(r.certs) == maxRoots {
			return nil, fmt.Errorf("parsing roots: more than %d certificates", maxRoots)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing roots: %w", err)
		}
		if err := checkShape(cert, true); err != nil {
			return nil, fmt.Errorf("parsing roots: %w", err)
		}
		if err := checkSignature(cert, cert); err != nil {
			return nil, fmt.Errorf("parsing roots: %w", err)
		}
		r.certs = append(r.certs, cert)
		rest = more
	}
	if len(r.certs) == 0 {
		return nil, errors.New("parsing roots: no certificate")
	}
	h := sha256.New()
	for _, c := range r.certs {
		d := sha256.Sum256(c.Raw)
		h.Write(d[:])
	}
	h.Sum(r.hash[:0])
	return r, nil
}

// Find returns the root certificate whose DER is der if it is pinned, or nil.
// Intel has issued its root anew, with the same name and key and a later end;
// chains made before carry the earlier certificate. A trust anchor is a name
// and a key (RFC 5280, section 6.1.1 (d)): such a certificate is taken too, if
// it is itself well formed and its signature verifies.
func (r *Roots) Find(der []byte) *x509.Certificate {
	for _, c := range r.certs {
		if bytes.Equal(c.Raw, der) {
			return c
		}
	}
	cert, err := parseCert(der, true)
	if err != nil {
		return nil
	}
	for _, c := range r.certs {
		if bytes.Equal(c.RawSubject, cert.RawSubject) &&
			bytes.Equal(c.RawSubjectPublicKeyInfo, cert.RawSubjectPublicKeyInfo) && checkSignature(cert, c) == nil {
			return cert
		}
	}
	return nil
}

// PEM returns the certificates in PEM.
func (r *Roots) PEM() []byte {
	var out []byte
	for _, c := range r.certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Hash identifies the set of roots.
func (r *Roots) Hash() [32]byte { return r.hash }

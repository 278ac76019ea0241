package rim

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"sync"
	"time"
)

// corimRootPEM is the NVIDIA CoRIM signing Root CA, valid 2023-03-16 to
// 2053-03-08, as NVIDIA's attestation SDK carries it. SHA-256 of the DER:
// 12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1.
//
//go:embed nvidia_corim_signing_root_ca.pem
var corimRootPEM []byte

// Roots is a set of pinned root certificates.
type Roots struct {
	certs []*x509.Certificate
	hash  [32]byte
}

// maxRoots bounds a file of roots.
const maxRoots = 16

// NVIDIARoots returns NVIDIA's production root.
func NVIDIARoots() *Roots { return nvidiaRoots() }

// NVIDIA reports whether the set is NVIDIA's own, as nil is.
func (r *Roots) NVIDIA() bool { return r == nil || r.hash == nvidiaRoots().hash }

var nvidiaRoots = sync.OnceValue(func() *Roots {
	r, err := ParseRoots(corimRootPEM)
	if err != nil {
		panic("rim: embedded root certificate: " + err.Error())
	}
	return r
})

// ParseRoots reads 1 to 16 self-signed ECDSA P-384 CA certificates from PEM.
func ParseRoots(pemData []byte) (*Roots, error) {
	r := &Roots{}
	h := sha256.New()
	for rest := bytes.TrimSpace(pemData); len(rest) > 0; rest = bytes.TrimSpace(rest) {
		block, more := pem.Decode(rest)
		if block == nil || block.Type != "CERTIFICATE" {
			return nil, errors.New("parsing roots: not a PEM certificate")
		}
		if len(r.certs) == maxRoots {
			return nil, fmt.Errorf("parsing roots: more than %d certificates", maxRoots)
		}
		c, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parsing roots: %w", err)
		}
		if err := errors.Join(shape(c), issued(c, c, 0)); err != nil {
			return nil, fmt.Errorf("parsing roots: %w", err)
		}
		h.Write(c.RawSubjectPublicKeyInfo)
		h.Write(c.RawSubject)
		r.certs, rest = append(r.certs, c), more
	}
	if len(r.certs) == 0 {
		return nil, errors.New("parsing roots: no certificate")
	}
	h.Sum(r.hash[:0])
	return r, nil
}

// Hash identifies the set of roots.
func (r *Roots) Hash() [32]byte { return r.hash }

// find returns c if it is pinned. A trust anchor is a name and a key (RFC
// 5280, section 6.1.1 (d)): a root certificate issued anew over a pinned name
// and key is taken too, if its own signature verifies.
func (r *Roots) find(c *x509.Certificate) *x509.Certificate {
	for _, p := range r.certs {
		if bytes.Equal(p.Raw, c.Raw) {
			return p
		}
		if bytes.Equal(p.RawSubject, c.RawSubject) && bytes.Equal(p.RawSubjectPublicKeyInfo, c.RawSubjectPublicKeyInfo) &&
			errors.Join(shape(c), issued(c, p, 0)) == nil {
			return c
		}
	}
	return nil
}

// verifyChain verifies a chain, leaf first, whose last certificate is a pinned
// root (RFC 5280, section 6.1, without times and policies). Times depend on
// the moment and are looked at by the caller.
func verifyChain(certs []*x509.Certificate, roots *Roots) ([]*x509.Certificate, error) {
	last := len(certs) - 1
	root := roots.find(certs[last])
	if root == nil {
		return nil, fmt.Errorf("chain does not end in a pinned root, but in %q", certs[last].Subject.CommonName)
	}
	chain := append(certs[:last:last], root)
	for i, c := range chain[:last] {
		if err := shape(c); err != nil {
			return nil, err
		}
		if err := issued(c, chain[i+1], i); err != nil {
			return nil, err
		}
	}
	leaf := chain[0]
	// A responder's certificate comes from the same CAs: it must not sign
	// reference values. NVIDIA's signers carry no extended key usage.
	if leaf.IsCA || leaf.KeyUsage&x509.KeyUsageDigitalSignature == 0 || len(leaf.ExtKeyUsage)+len(leaf.UnknownExtKeyUsage) != 0 {
		return nil, fmt.Errorf("certificate %q is not one to sign with", leaf.Subject.CommonName)
	}
	return chain, nil
}

// nameConstraints would restrict names that this chain does not have.
var nameConstraints = asn1.ObjectIdentifier{2, 5, 29, 30}

// shape checks what holds for each certificate of a chain.
func shape(c *x509.Certificate) error {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() || c.SignatureAlgorithm != x509.ECDSAWithSHA384 {
		return fmt.Errorf("certificate %q is not ECDSA P-384 with SHA-384", c.Subject.CommonName)
	}
	if len(c.UnhandledCriticalExtensions) != 0 {
		return fmt.Errorf("certificate %q has an unknown critical extension", c.Subject.CommonName)
	}
	for _, e := range c.Extensions {
		if e.Id.Equal(nameConstraints) {
			return fmt.Errorf("certificate %q has name constraints", c.Subject.CommonName)
		}
	}
	return nil
}

// issued checks that parent issued c, with depth CA certificates between c
// and the leaf.
func issued(c, parent *x509.Certificate, depth int) error {
	if !bytes.Equal(c.RawIssuer, parent.RawSubject) {
		return fmt.Errorf("certificate %q is not issued by %q", c.Subject.CommonName, parent.Subject.CommonName)
	}
	if !parent.BasicConstraintsValid || !parent.IsCA || parent.KeyUsage&x509.KeyUsageCertSign == 0 {
		return fmt.Errorf("certificate %q is not a CA's", parent.Subject.CommonName)
	}
	if parent.MaxPathLen >= 0 && (parent.MaxPathLen > 0 || parent.MaxPathLenZero) && depth > parent.MaxPathLen {
		return fmt.Errorf("certificate %q allows %d CAs below it", parent.Subject.CommonName, parent.MaxPathLen)
	}
	if err := c.CheckSignatureFrom(parent); err != nil {
		return fmt.Errorf("verifying certificate %q: %w", c.Subject.CommonName, err)
	}
	return nil
}

// window returns the time in which all certificates are valid.
func window(chain []*x509.Certificate) (from, to time.Time) {
	from, to = chain[0].NotBefore, chain[0].NotAfter
	for _, c := range chain[1:] {
		if c.NotBefore.After(from) {
			from = c.NotBefore
		}
		if c.NotAfter.Before(to) {
			to = c.NotAfter
		}
	}
	return from, to
}

package vek

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"cocoon/verifier/snp/report"
)

// Bounds of a CRL.
const (
	MaxCRL     = 1 << 20 // bytes
	maxRevoked = 1 << 14
)

// CRL is a parsed certificate revocation list of a product line. It is
// immutable.
type CRL struct {
	Number     *big.Int
	ThisUpdate time.Time
	NextUpdate time.Time
	DER        []byte

	list    *x509.RevocationList
	revoked map[string]struct{}
}

// ParseCRL reads a CRL, DER or PEM (AMD 57230, Certificate Revocation List;
// RFC 5280, chapter 5): version 2, a CRL number, a next update, RSA-PSS with
// SHA-384, and no critical extension of list or entry, since each of those
// narrows what the list speaks of.
func ParseCRL(data []byte) (*CRL, error) {
	if len(data) > MaxCRL {
		return nil, fmt.Errorf("CRL of %d bytes, limit %d: %w", len(data), MaxCRL, ErrMalformed)
	}
	der := data
	if bytes.HasPrefix(data, pemBegin) {
		block, rest := pem.Decode(data)
		if block == nil || block.Type != "X509 CRL" || len(bytes.TrimSpace(rest)) > 0 || bytes.Count(data, pemBegin) != 1 {
			return nil, fmt.Errorf("not one PEM CRL: %w", ErrMalformed)
		}
		der = block.Bytes
	}
	list, err := x509.ParseRevocationList(der)
	if err != nil {
		return nil, fmt.Errorf("parsing CRL: %w: %w", ErrMalformed, err)
	}
	if len(list.Raw) != len(der) { // ParseRevocationList takes what follows
		return nil, fmt.Errorf("%d bytes after the CRL: %w", len(der)-len(list.Raw), ErrMalformed)
	}
	for _, e := range list.Extensions {
		if e.Critical {
			return nil, fmt.Errorf("CRL has the critical extension %s: %w", e.Id, ErrMalformed)
		}
	}
	if list.Number == nil || list.NextUpdate.IsZero() || !list.ThisUpdate.Before(list.NextUpdate) {
		return nil, fmt.Errorf("CRL has no number or no period of validity: %w", ErrMalformed)
	}
	if list.SignatureAlgorithm != x509.SHA384WithRSAPSS {
		return nil, fmt.Errorf("CRL is signed with %s, not RSA-PSS with SHA-384: %w", list.SignatureAlgorithm, ErrMalformed)
	}
	if len(list.RevokedCertificateEntries) > maxRevoked {
		return nil, fmt.Errorf("CRL has more than %d entries: %w", maxRevoked, ErrMalformed)
	}
	c := &CRL{Number: list.Number, ThisUpdate: list.ThisUpdate.UTC(), NextUpdate: list.NextUpdate.UTC(), DER: list.Raw,
		list: list, revoked: make(map[string]struct{}, len(list.RevokedCertificateEntries))}
	for i := range list.RevokedCertificateEntries {
		e := &list.RevokedCertificateEntries[i]
		for _, x := range e.Extensions {
			if x.Critical {
				return nil, fmt.Errorf("CRL entry has the critical extension %s: %w", x.Id, ErrMalformed)
			}
		}
		c.revoked[string(e.SerialNumber.Bytes())] = struct{}{}
	}
	return c, nil
}

// Line returns the product line whose ARK the list names as its issuer.
func (c *CRL) Line() report.Product {
	return report.Product(bytes.TrimPrefix([]byte(c.list.Issuer.CommonName), []byte("ARK-")))
}

// CheckIssuer checks that a product line's ARK issued and signed the list.
func (c *CRL) CheckIssuer(a *Authority) error {
	if !bytes.Equal(c.list.RawIssuer, a.ARK.RawSubject) {
		return fmt.Errorf("CRL is issued by %q, not by %q: %w", c.list.Issuer.CommonName, a.ARK.Subject.CommonName, ErrProduct)
	}
	if err := c.list.CheckSignatureFrom(a.ARK); err != nil {
		return fmt.Errorf("CRL of %q: %w: %w", c.list.Issuer.CommonName, ErrSignature, err)
	}
	return nil
}

// Revoked reports whether the list names the serial number.
func (c *CRL) Revoked(serial *big.Int) bool {
	_, ok := c.revoked[string(serial.Bytes())]
	return ok
}

// RevokedIn returns the certificate of a chain that the list names: the ASK or
// ASVK, which the ARK issued, or the VCEK or VLEK below it. It returns "" and
// nil where it names neither.
func (c *CRL) RevokedIn(leaf *Cert) (name string, serial *big.Int) {
	if up := leaf.Issuer(); c.Revoked(up.SerialNumber) {
		return up.Subject.CommonName, up.SerialNumber
	}
	if c.Revoked(leaf.Serial) {
		return "SEV-" + string(leaf.Signer), leaf.Serial
	}
	return "", nil
}

package pck

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"math/big"
	"time"
)

// maxRevoked bounds the entries of a CRL.
const maxRevoked = 1 << 16

// CRL is a parsed certificate revocation list. It is immutable.
type CRL struct {
	Number     *big.Int
	ThisUpdate time.Time
	NextUpdate time.Time

	list    *x509.RevocationList
	revoked map[string]struct{}
}

// ParseCRL reads a CRL (DER) as the PCK certificate profile, section 1.4, and
// RFC 5280 have it: version 2, a CRL number, a next update, no critical
// extension, since each of those narrows what a CRL speaks of. Its errors
// wrap ErrMalformed.
func ParseCRL(der []byte) (*CRL, error) {
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
	if list.SignatureAlgorithm != x509.ECDSAWithSHA256 {
		return nil, fmt.Errorf("CRL is signed with %s, not ECDSA-SHA256: %w", list.SignatureAlgorithm, ErrMalformed)
	}
	if len(list.RevokedCertificateEntries) > maxRevoked {
		return nil, fmt.Errorf("CRL has more than %d entries: %w", maxRevoked, ErrMalformed)
	}
	c := &CRL{Number: list.Number, ThisUpdate: list.ThisUpdate.UTC(), NextUpdate: list.NextUpdate.UTC(), list: list,
		revoked: make(map[string]struct{}, len(list.RevokedCertificateEntries))}
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

// CheckIssuer checks that the certificate issued and signed the list.
func (c *CRL) CheckIssuer(issuer *x509.Certificate) error {
	if !c.IssuedBy(issuer) {
		return fmt.Errorf("CRL is issued by %q, not by %q: %w",
			c.list.Issuer.CommonName, issuer.Subject.CommonName, ErrSignature)
	}
	if err := c.list.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("CRL of %q: %w: %w", c.list.Issuer.CommonName, ErrSignature, err)
	}
	return nil
}

// IssuedBy reports whether the list names the certificate's subject, and its
// key where it names one, as its issuer.
func (c *CRL) IssuedBy(issuer *x509.Certificate) bool {
	return bytes.Equal(c.list.RawIssuer, issuer.RawSubject) &&
		(len(c.list.AuthorityKeyId) == 0 || len(issuer.SubjectKeyId) == 0 ||
			bytes.Equal(c.list.AuthorityKeyId, issuer.SubjectKeyId))
}

// Len returns the number of revoked certificates.
func (c *CRL) Len() int { return len(c.revoked) }

// Revoked reports whether the list names the serial number.
func (c *CRL) Revoked(serial *big.Int) bool {
	_, ok := c.revoked[string(serial.Bytes())]
	return ok
}

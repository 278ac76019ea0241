package pck

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"errors"
	"fmt"
	"time"
)

// checkShape refuses a certificate that does not look as the profile says:
// X.509 v3, ECDSA on P-256 with SHA-256, no critical extension that
// crypto/x509 does not know, a CA exactly where one is wanted ("PCK
// Certificate and CRL Profile Specification", section 1.3).
func checkShape(c *x509.Certificate, ca bool) error {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case c.Version != 3:
		return fmt.Errorf("certificate %q has version %d, not 3", c.Subject.CommonName, c.Version)
	case c.SignatureAlgorithm != x509.ECDSAWithSHA256:
		return fmt.Errorf("certificate %q is signed with %s, not ECDSA-SHA256", c.Subject.CommonName, c.SignatureAlgorithm)
	case !ok || key.Curve != elliptic.P256():
		return fmt.Errorf("certificate %q has no P-256 key", c.Subject.CommonName)
	case len(c.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("certificate %q has the unknown critical extension %s", c.Subject.CommonName, c.UnhandledCriticalExtensions[0])
	case !c.BasicConstraintsValid || c.IsCA != ca:
		return fmt.Errorf("certificate %q has wrong basic constraints", c.Subject.CommonName)
	case ca && c.KeyUsage&x509.KeyUsageCertSign == 0:
		return fmt.Errorf("certificate %q may not sign certificates", c.Subject.CommonName)
	case !ca && c.KeyUsage&x509.KeyUsageDigitalSignature == 0:
		return fmt.Errorf("certificate %q may not sign", c.Subject.CommonName)
	case c.SerialNumber.Sign() <= 0:
		return errors.New("certificate serial number is not positive")
	}
	return nil
}

// checkSignature checks that parent issued child: names, key identifiers
// where both are there, and the signature (RFC 5280, section 6.1).
func checkSignature(child, parent *x509.Certificate) error {
	if string(child.RawIssuer) != string(parent.RawSubject) {
		return fmt.Errorf("certificate %q is issued by %q, not by %q: %w",
			child.Subject.CommonName, child.Issuer.CommonName, parent.Subject.CommonName, ErrSignature)
	}
	if len(child.AuthorityKeyId) > 0 && len(parent.SubjectKeyId) > 0 &&
		string(child.AuthorityKeyId) != string(parent.SubjectKeyId) {
		return fmt.Errorf("certificate %q names another issuer key: %w", child.Subject.CommonName, ErrSignature)
	}
	if err := parent.CheckSignature(child.SignatureAlgorithm, child.RawTBSCertificate, child.Signature); err != nil {
		return fmt.Errorf("certificate %q: %w: %w", child.Subject.CommonName, ErrSignature, err)
	}
	return nil
}

// window returns the times in which all of certs are valid.
func window(certs ...*x509.Certificate) (notBefore, notAfter time.Time) {
	for i, c := range certs {
		if i == 0 || c.NotBefore.After(notBefore) {
			notBefore = c.NotBefore
		}
		if i == 0 || c.NotAfter.Before(notAfter) {
			notAfter = c.NotAfter
		}
	}
	return notBefore, notAfter
}

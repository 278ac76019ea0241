package nvgputest

import (
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	"golang.org/x/crypto/ocsp"
)

// Statuses of certificates.
const (
	Good    = "good"
	Revoked = "revoked"
	Hold    = "hold"
	Unknown = "unknown"
)

// OCSP makes a response for a certificate that this PKI issued, by a responder
// of its issuer's, good for a day from ThisUpdate.
func (p *PKI) OCSP(cert *x509.Certificate, status string, thisUpdate time.Time) ([]byte, error) {
	var issuer *authority
	for _, a := range append([]*authority{p.root, p.rimRoot}, p.all()...) {
		if string(a.cert.RawSubject) == string(cert.RawIssuer) && cert.CheckSignatureFrom(a.cert) == nil {
			issuer = a
		}
	}
	if issuer == nil {
		return nil, fmt.Errorf("answering for %q: not issued here", cert.Subject.CommonName)
	}
	id := "responder of " + issuer.cert.Subject.CommonName + issuer.cert.SerialNumber.String()
	responder, err := p.issue(id, &x509.Certificate{SerialNumber: serial(id), Subject: subject("NVIDIA OCSP Responder"), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(2, 0, 0)}, issuer)
	if err != nil {
		return nil, err
	}
	t := ocsp.Response{SerialNumber: cert.SerialNumber, ThisUpdate: thisUpdate, NextUpdate: thisUpdate.AddDate(0, 0, 1), Certificate: responder.cert, IssuerHash: crypto.SHA384}
	switch status {
	case Revoked:
		t.Status, t.RevokedAt, t.RevocationReason = ocsp.Revoked, Now.AddDate(0, -1, 0), ocsp.KeyCompromise
	case Hold:
		t.Status, t.RevokedAt, t.RevocationReason = ocsp.Revoked, Now.AddDate(0, -1, 0), ocsp.CertificateHold
	case Unknown:
		t.Status = ocsp.Unknown
	}
	return ocsp.CreateResponse(issuer.cert, responder.cert, t, responder.key)
}

func (p *PKI) all() []*authority {
	var out []*authority
	for _, a := range p.made {
		out = append(out, a)
	}
	return out
}

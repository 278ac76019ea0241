package nvgputest

import (
	"crypto/x509"
	"fmt"
	"maps"
	"slices"
	"time"

	"cocoon/verifier/nvgpu/rimtest"
)

// Statuses of certificates.
const (
	Good    = "good"
	Revoked = "revoked"
	Hold    = "hold"
	Unknown = "unknown"
)

// OCSP makes a response for a certificate that this PKI issued, by a responder
// of its issuer's, good for a day from thisUpdate. A nonce is echoed; nil:
// none.
func (p *PKI) OCSP(cert *x509.Certificate, status string, thisUpdate time.Time, nonce []byte) ([]byte, error) {
	issuer := p.issuerOf(cert)
	if issuer == nil {
		return nil, fmt.Errorf("answering for %q: not issued here", cert.Subject.CommonName)
	}
	id := "responder of " + string(issuer.cert.Raw)
	responder, err := p.issue(id, &x509.Certificate{SerialNumber: serial(id), Subject: subject("NVIDIA OCSP Responder"), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(2, 0, 0)}, issuer)
	if err != nil {
		return nil, err
	}
	return rimtest.OCSP(cert, issuer.shared(), rimtest.Answer{Status: status, This: thisUpdate, Next: thisUpdate.AddDate(0, 0, 1), Nonce: nonce, Responder: responder.shared()})
}

func (p *PKI) issuerOf(cert *x509.Certificate) *authority {
	for _, a := range append(slices.Collect(maps.Values(p.made)), p.root, p.rimRoot) {
		if string(a.cert.RawSubject) == string(cert.RawIssuer) && cert.CheckSignatureFrom(a.cert) == nil {
			return a
		}
	}
	return nil
}

// shared is the authority as package rimtest has it.
func (a *authority) shared() *rimtest.Authority { return &rimtest.Authority{Cert: a.cert, Key: a.key} }

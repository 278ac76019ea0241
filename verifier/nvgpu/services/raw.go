package services

import (
	"context"
	"crypto/x509"

	"cocoon/internal/fault"
	"cocoon/verifier/nvgpu/ocsp"
)

// RawOCSP is OCSP for who verifies the answer elsewhere: it returns the
// answer's DER, of which nothing but the certificate that it names is checked.
func (c *Client) RawOCSP(ctx context.Context, cert, issuer *x509.Certificate, nonce []byte) ([]byte, Origin, error) {
	der, err := ocsp.NewRequest(cert, issuer, nonce)
	if err != nil {
		return nil, Origin{}, fault.New(fault.ExitInternal, "ocsp.request", "", "%w", err)
	}
	return c.rawOCSP(ctx, der, c.signed(cert, issuer))
}

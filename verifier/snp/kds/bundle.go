package kds

import (
	"context"
	"fmt"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// MaxBundle bounds a bundle's document.
const MaxBundle = 2 * (vek.MaxCert + vek.MaxChain + vek.MaxCRL)

// Bundle is all that verifies one report without a network. It is a JSON
// document whose members are base64. It is believed in nothing: the
// verification judges each part.
type Bundle struct {
	Certificate []byte `json:"certificate"`     // VCEK's or VLEK's, DER or PEM
	Chain       []byte `json:"chain,omitempty"` // ASK or ASVK, and ARK
	CRL         []byte `json:"crl,omitempty"`   // of the product line
}

// ParseBundle reads a bundle; unknown and duplicate keys are refused. The
// error is a fault with code snp.bundle.parse.
func ParseBundle(doc []byte) (*Bundle, error) {
	var b Bundle
	err := jcs.Decode(doc, MaxBundle, &b)
	if err == nil && len(b.Certificate) == 0 {
		err = fmt.Errorf("it has no certificate")
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, "snp.bundle.parse", "give a file that cocoon verify snp --save-bundle wrote", "reading bundle: %w", err)
	}
	return &b, nil
}

// Marshal writes a bundle.
func (b *Bundle) Marshal() ([]byte, error) { return jcs.Marshal(b) }

// Bundle fetches what verifies a report. Where a certificate is given, as VLEKs
// have to be, only chain and CRL are fetched.
func (c *Client) Bundle(ctx context.Context, r *report.Report, certificate []byte) (*Bundle, error) {
	b := &Bundle{Certificate: certificate}
	var err error
	if len(certificate) == 0 {
		if b.Certificate, err = c.Certificate(ctx, r); err != nil {
			return nil, err
		}
	}
	der, err := vek.DER(b.Certificate)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "snp.cert.parse", "give one certificate, DER or PEM", "reading certificate: %w", err)
	}
	cert, err := vek.Verify(der, r.Signer, c.opts.Roots)
	if err != nil {
		return b, nil // the verification says what is wrong with it
	}
	if b.Chain, err = c.Chain(ctx, cert.Line, r.Signer); err != nil {
		return nil, err
	}
	if b.CRL, err = c.CRL(ctx, cert.Line); err != nil {
		return nil, err
	}
	return b, nil
}

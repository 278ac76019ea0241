package pcs

import (
	"errors"
	"fmt"

	"cocoon/internal/fault"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
)

// ErrNoChain is returned for a quote that does not say which platform made it.
var ErrNoChain = errors.New("quote carries no PCK certificate chain")

// RequestOf returns the request for the collateral of a quote's platform, as
// its verified PCK certificate names it. chain (PEM) is taken where the quote
// has none; roots nil: Intel's.
func RequestOf(raw, chain []byte, padding bool, roots *pck.Roots) (Request, error) {
	q, err := quote.Parse(raw, quote.Options{AllowZeroPadding: padding})
	if err != nil {
		return Request{}, fault.New(fault.ExitParse, "dcap.quote.parse", "check that the file holds one whole raw quote", "reading quote: %w", err).Expect("one whole raw quote")
	}
	if q.Cert.Type == quote.CertPCKChain {
		chain = q.Cert.PEM
	}
	if len(chain) == 0 {
		return Request{}, ErrNoChain
	}
	if roots == nil {
		roots = pck.IntelRoots()
	}
	c, err := pck.Verify(chain, roots, nil)
	if err != nil {
		return Request{}, fmt.Errorf("verifying PCK chain: %w", err)
	}
	req := Request{TEE: SGX, FMSPC: c.Extensions.FMSPC, CA: c.CA}
	if q.TEE == quote.TEETDX {
		req.TEE = TDX
	}
	return req, nil
}

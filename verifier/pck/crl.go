package pck

import (
	"math/big"
	"time"
)

// CRL is a parsed certificate revocation list.
type CRL struct {
	RawIssuer  []byte // DER of the issuer's name
	Number     *big.Int
	ThisUpdate time.Time
	NextUpdate time.Time

	tbs     []byte // signed bytes
	sig     []byte // ASN.1 ECDSA signature
	keyID   []byte // authority key identifier, or nil
	revoked map[string]struct{}
}

// Len returns the number of revoked certificates.
func (c *CRL) Len() int { return len(c.revoked) }

// Revoked reports whether the list names serial.
func (c *CRL) Revoked(serial *big.Int) bool {
	_, ok := c.revoked[string(serial.Bytes())]
	return ok
}

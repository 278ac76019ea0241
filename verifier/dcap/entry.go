package dcap

import (
	"crypto/sha256"
	"math/big"

	"cocoon/verifier/collateral"
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
)

// revocation is what the CRLs of a set say of a PCK chain.
type revocation int

const (
	revocationNone    revocation = iota // there are no CRLs
	revocationClear                     // neither certificate is named
	revocationOther                     // the PCK CRL is another CA's
	revocationRevoked                   // a certificate is named
)

// Entry is a verified PCK chain with all that follows from it and from one
// set of collateral. It is immutable.
type Entry struct {
	Chain    *pck.Chain
	Platform Platform

	key        *ecsig.Known // of the PCK
	revocation revocation
	revoked    *big.Int // serial number
}

// newEntry asks the CRLs of a set about a chain (QuoteVerifier.cpp, steps
// 4.1.2.5.7 and .8; PckCertVerifier for the PCK CA).
func newEntry(c *pck.Chain, set *collateral.Set) *Entry {
	x := &c.Extensions
	e := &Entry{Chain: c, key: ecsig.Know(c.Key), Platform: Platform{
		FMSPC: hexOf(x.FMSPC[:]), PCEID: hexOf(x.PCEID[:]), PPID: hexOf(x.PPID[:]), CPUSVN: hexOf(x.CPUSVN[:]),
		PCESVN: x.PCESVN, CA: c.CA, SGXType: x.SGXType, InstanceID: hexOf(x.PlatformInstanceID),
		DynamicPlatform: x.DynamicPlatform, CachedKeys: x.CachedKeys, SMTEnabled: x.SMTEnabled,
	}}
	switch {
	case set == nil:
	case set.RootCRL().Revoked(c.Intermediate.SerialNumber):
		e.revocation, e.revoked = revocationRevoked, c.Intermediate.SerialNumber
	case !set.PCKCRL().IssuedBy(c.Intermediate):
		e.revocation = revocationOther
	case set.PCKCRL().Revoked(c.Leaf.SerialNumber):
		e.revocation, e.revoked = revocationRevoked, c.Leaf.SerialNumber
	default:
		e.revocation = revocationClear
	}
	return e
}

// chainKey is the hash of all that the verification of a PCK chain depends on.
func chainKey(pem []byte, leafOnly bool, set *collateral.Set, roots *pck.Roots) [32]byte {
	var in [1 + 3*32]byte
	if leafOnly {
		in[0] = 1
	}
	sum := sha256.Sum256(pem)
	copy(in[1:], sum[:])
	if set != nil {
		sum = set.Hash()
		copy(in[33:], sum[:])
	}
	sum = roots.Hash()
	copy(in[65:], sum[:])
	return sha256.Sum256(in[:])
}

// bindingOf is what the QE report data must be: SHA-256(attestation key ‖
// authentication data).
func bindingOf(q *quote.Quote) [32]byte {
	var buf [64 + 192]byte
	in := append(buf[:0], q.AttestationKey...)
	in = append(in, q.AuthData...)
	return sha256.Sum256(in)
}

// reportKey is the hash of all that the verification of a QE report depends
// on. bound stands for attestation key and authentication data.
func reportKey(q *quote.Quote, bound, chain *[32]byte) [32]byte {
	var buf [384 + 64 + 64 + 32 + 32]byte
	in := append(buf[:0], q.QEReport...)
	in = append(in, q.QEReportSignature...)
	in = append(in, q.AttestationKey...)
	in = append(in, bound[:]...)
	in = append(in, chain[:]...)
	return sha256.Sum256(in)
}

func (o *Options) roots() *pck.Roots {
	if o.Roots != nil {
		return o.Roots
	}
	return pck.IntelRoots()
}

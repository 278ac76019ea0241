package snp

import (
	"crypto/sha256"

	"cocoon/verifier/internal/lru"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// DefaultCertificates is the default bound of a Cache: one for each chip and
// TCB version.
const DefaultCertificates = 4096

// Cache keeps what need not be verified twice: the certificates of signing
// keys, and the CRL that they were held against. An entry's key is the SHA-256
// of everything that its verification depended on; only what verified is kept.
// Times and revocation are checked at each verification. A Cache is bounded
// and safe for concurrent use.
type Cache struct {
	entries *lru.Cache[*entry]
}

// CacheOptions bound a Cache.
type CacheOptions struct {
	Certificates int // most certificates kept; 0: DefaultCertificates
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	if o.Certificates == 0 {
		o.Certificates = DefaultCertificates
	}
	return &Cache{entries: lru.New[*entry](o.Certificates)}
}

// Len returns the number of certificates kept.
func (c *Cache) Len() int { return c.entries.Len() }

// entry is a verified certificate with the verified CRL of its product line.
// It is immutable.
type entry struct {
	cert *vek.Cert
	info Certificate
	crl  *vek.CRL // nil: none was given
	list *CRLDates
}

// entryKey is the hash of all that an entry's verification depends on.
func entryKey(cert, chain, crl []byte, signer report.Signer, roots *vek.Roots) [32]byte {
	var in [1 + 4*32]byte
	if signer == report.VLEK {
		in[0] = 1
	}
	for i, b := range [][]byte{cert, chain, crl} {
		sum := sha256.Sum256(b)
		copy(in[1+32*i:], sum[:])
	}
	sum := roots.Hash()
	copy(in[97:], sum[:])
	return sha256.Sum256(in[:])
}

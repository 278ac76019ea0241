package snp

import (
	"crypto/sha256"

	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/internal/lru"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// Default bounds of a Cache.
const (
	DefaultCertificates = 4096 // one for each chip and TCB version
	DefaultKeys         = 64   // VCEKs and VLEKs with a table: 22 MiB
)

// Cache keeps what need not be verified twice: the certificates of signing
// keys, and the CRL that they were held against. An entry's key is the SHA-256
// of everything that its verification depended on; only what verified is kept.
// Times and revocation are checked at each verification. Of certified keys that
// sign often it keeps tables, with which their signatures, each of which is
// verified, take a fifth of the time (package ecsig). A Cache is bounded and safe
// for concurrent use.
type Cache struct {
	entries *lru.Cache[*entry]
	keys    *ecsig.Tables
}

// CacheOptions bound a Cache.
type CacheOptions struct {
	Certificates int // most certificates kept; 0: DefaultCertificates
	Keys         int // most tables kept; 0: DefaultKeys; negative: none
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	if o.Certificates == 0 {
		o.Certificates = DefaultCertificates
	}
	if o.Keys == 0 {
		o.Keys = DefaultKeys
	}
	return &Cache{entries: lru.New[*entry](o.Certificates), keys: ecsig.NewTables(o.Keys)}
}

// tables returns the keys' tables, nil without a cache.
func (c *Cache) tables() *ecsig.Tables {
	if c == nil {
		return nil
	}
	return c.keys
}

// Len returns the number of certificates kept.
func (c *Cache) Len() int { return c.entries.Len() }

// entry is a verified certificate with the verified CRL of its product line.
// It is immutable.
type entry struct {
	cert *vek.Cert
	key  *ecsig.Known // of cert
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

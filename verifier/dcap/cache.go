package dcap

import (
	"crypto/ecdsa"

	"cocoon/verifier/internal/lru"
)

// Default bounds of a Cache.
const (
	DefaultChains  = 4096  // PCK chains: one for each platform
	DefaultReports = 16384 // QE reports: one for each attestation key
)

// Cache keeps what need not be verified twice: PCK chains, and QE reports
// where CacheOptions.Reports allows. An entry's key is the SHA-256 of
// everything that its verification depended on, the hash of the collateral
// set (and so the CRLs) and of the roots among it: an entry made under other
// collateral is never found again. Times are checked at each verification.
// It is bounded and safe for concurrent use.
type Cache struct {
	chains  *lru.Cache[*Entry]
	reports *lru.Cache[*ecdsa.PublicKey]
}

// CacheOptions bound a Cache.
type CacheOptions struct {
	Chains  int // most PCK chains kept; 0: DefaultChains
	Reports int // most QE reports kept; 0: DefaultReports; negative: none
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	if o.Chains == 0 {
		o.Chains = DefaultChains
	}
	if o.Reports == 0 {
		o.Reports = DefaultReports
	}
	return &Cache{chains: lru.New[*Entry](o.Chains), reports: lru.New[*ecdsa.PublicKey](o.Reports)}
}

// Len returns the number of chains and QE reports kept.
func (c *Cache) Len() (chains, reports int) { return c.chains.Len(), c.reports.Len() }

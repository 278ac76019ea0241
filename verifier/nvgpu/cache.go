package nvgpu

import (
	"cocoon/verifier/internal/lru"
	"cocoon/verifier/nvgpu/rim"
)

// Default bounds of a Cache.
const (
	DefaultIssuers = 256  // provisioner chains: one for each product line
	DefaultChains  = 4096 // device chains: one for each device and firmware
)

// Cache keeps what need not be verified twice: the upper parts of device
// chains, whole device chains, and RIM documents. An entry's key is the
// SHA-256 of everything that its verification depended on, the pins among it.
// Times, revocation and reports are checked at each verification. It is
// bounded and safe for concurrent use.
type Cache struct {
	issuers *lru.Cache[*issuer]
	chains  *lru.Cache[*deviceChain]
	rims    *rim.Cache
}

// CacheOptions bound a Cache. RIM documents have a bound of their own (package
// rim).
type CacheOptions struct {
	Issuers int // most provisioner chains kept; 0: DefaultIssuers
	Chains  int // most device chains kept; 0: DefaultChains; negative: none
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	or := func(n, d int) int {
		if n == 0 {
			return d
		}
		return n
	}
	return &Cache{issuers: lru.New[*issuer](or(o.Issuers, DefaultIssuers)), chains: lru.New[*deviceChain](or(o.Chains, DefaultChains)),
		rims: rim.NewCache()}
}

// Len returns the number of provisioner chains and device chains kept.
func (c *Cache) Len() (issuers, chains int) { return c.issuers.Len(), c.chains.Len() }

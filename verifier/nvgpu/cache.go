package nvgpu

import (
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/internal/lru"
	"cocoon/verifier/nvgpu/ocsp"
	"cocoon/verifier/nvgpu/rim"
)

// Default bounds of a Cache.
const (
	DefaultIssuers = 256  // provisioner chains: one for each product line
	DefaultChains  = 4096 // device chains: one for each device and firmware
	DefaultKeys    = 64   // devices' keys with a table: 22 MiB
)

// Cache keeps what need not be verified twice: the upper parts of device
// chains, whole device chains, RIM documents, and which signatures of OCSP
// responses and their responders were good. An entry's key is the SHA-256 of
// everything that its verification depended on, the pins among it. Times, what
// OCSP responses say, and reports are checked at each verification. Of keys that
// sign often it keeps tables, with which reports take a fifth of the time (package
// ecsig). It is bounded and safe for concurrent use.
type Cache struct {
	issuers *lru.Cache[*issuer]
	chains  *lru.Cache[*deviceChain]
	rims    *rim.Cache
	ocsp    *ocsp.Cache
	keys    *ecsig.Tables
}

// CacheOptions bound a Cache. RIM documents have a bound of their own (package
// rim).
type CacheOptions struct {
	Issuers int // most provisioner chains kept; 0: DefaultIssuers
	Chains  int // most device chains kept; 0: DefaultChains; negative: none
	Keys    int // most tables kept; 0: DefaultKeys; negative: none
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
		rims: rim.NewCache(), ocsp: ocsp.NewCache(), keys: ecsig.NewTables(or(o.Keys, DefaultKeys))}
}

// Len returns the number of provisioner chains and device chains kept.
func (c *Cache) Len() (issuers, chains int) { return c.issuers.Len(), c.chains.Len() }

package dcap

import (
	"crypto/sha256"

	"cocoon/internal/recent"
	"cocoon/verifier/collateral"
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/internal/lru"
	"cocoon/verifier/pck"
)

// Default bounds of a Cache.
const (
	DefaultChains  = 4096  // PCK chains: one for each platform
	DefaultReports = 16384 // QE reports: one for each attestation key
	DefaultSets    = 256   // sets of collateral: one for each platform family and issue
	DefaultKeys    = 256   // attestation keys and PCKs with a table: 33 MiB
)

// maxKeptSet bounds the collateral documents that are kept, and so the memory
// that strangers can fill: Intel's are a tenth of it.
const maxKeptSet = 256 << 10

// keptLatest is the number of documents that are kept to be compared, where the
// others are hashed.
const keptLatest = 16

// Cache keeps what need not be verified twice: collateral, PCK chains, and QE
// reports where CacheOptions.Reports allows. An entry's key is the SHA-256 of
// everything that its verification depended on (of the latest collateral, the roots'
// hash and the document itself), the hash of the collateral
// set (and so the CRLs) and of the roots among it: an entry made under other
// collateral is never found again. Times are checked at each verification. Of
// keys that were certified and sign often it keeps tables, with which their
// signatures, each of which is verified, take half the time (package ecsig).
// It is bounded and safe for concurrent use.
type Cache struct {
	chains  *lru.Cache[*Entry]
	reports *lru.Cache[*ecsig.Known]
	sets    *lru.Cache[*collateral.Set]
	latest  *recent.List[[32]byte, *collateral.Set] // of sets, by roots and document
	keys    *ecsig.Tables
}

// CacheOptions bound a Cache.
type CacheOptions struct {
	Chains  int // most PCK chains kept; 0: DefaultChains
	Reports int // most QE reports kept; 0: DefaultReports; negative: none
	Keys    int // most tables kept; 0: DefaultKeys; negative: none
}

// NewCache returns an empty cache.
func NewCache(o CacheOptions) *Cache {
	if o.Chains == 0 {
		o.Chains = DefaultChains
	}
	if o.Reports == 0 {
		o.Reports = DefaultReports
	}
	if o.Keys == 0 {
		o.Keys = DefaultKeys
	}
	return &Cache{chains: lru.New[*Entry](o.Chains), reports: lru.New[*ecsig.Known](o.Reports), sets: lru.New[*collateral.Set](DefaultSets),
		latest: recent.New[[32]byte, *collateral.Set](keptLatest, maxKeptSet), keys: ecsig.NewTables(o.Keys)}
}

// tables returns the keys' tables, nil without a cache.
func (c *Cache) tables() *ecsig.Tables {
	if c == nil {
		return nil
	}
	return c.keys
}

// OpenJSON is collateral.ParseJSON and collateral.Open, once for each document
// and roots: what is kept verified, its times are still to be checked. parse
// reads the document; it is called where nothing is kept.
func (c *Cache) OpenJSON(doc []byte, roots *pck.Roots, parse func([]byte) (*collateral.Raw, error)) (*collateral.Set, error) {
	if roots == nil {
		roots = pck.IntelRoots()
	}
	under := roots.Hash()
	if set, ok := c.latest.Get(under, doc); ok {
		return set, nil
	}
	h := sha256.New()
	h.Write(under[:])
	h.Write(doc)
	key := [32]byte(h.Sum(nil))
	if set, ok := c.sets.Get(&key); ok {
		c.latest.Put(under, doc, set)
		return set, nil
	}
	raw, err := parse(doc)
	if err != nil {
		return nil, err
	}
	set, err := collateral.Open(raw, roots)
	if err == nil && len(doc) <= maxKeptSet {
		c.sets.Put(&key, set)
		c.latest.Put(under, doc, set)
	}
	return set, err
}

// Len returns the number of chains and QE reports kept.
func (c *Cache) Len() (chains, reports int) { return c.chains.Len(), c.reports.Len() }

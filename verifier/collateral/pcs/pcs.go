// Package pcs fetches collateral from Intel's Provisioning Certification
// Service or from a caching service (PCCS), and keeps it: a request (TEE,
// FMSPC, CA, evaluation) comes in, a verified collateral.Set goes out.
//
// The service is not trusted: its answers are bounded in size and time, it
// cannot redirect elsewhere, nothing is kept or returned that
// collateral.Verify has not accepted, and an answer older than what is held
// does not replace it.
//
// Definitions: "Intel SGX and Intel TDX services, API Documentation",
// version 4; "API Specification for PCCS", version 4.
package pcs

import (
	"context"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/internal/fetch"
	"cocoon/verifier/pck"
)

// Addresses of Intel's services.
const (
	IntelPCS = "https://api.trustedservices.intel.com"
	// IntelRootCRL is the distribution point that the Intel SGX Root CA
	// certificate names for its CRL. The PCS itself does not serve it.
	IntelRootCRL = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der"
)

// Defaults of Options.
const (
	DefaultTimeout      = 20 * time.Second // of one HTTP request
	DefaultAttempts     = 4
	DefaultRetryBase    = 500 * time.Millisecond
	DefaultRetryMax     = 20 * time.Second
	DefaultRefreshAfter = 12 * time.Hour
	DefaultMemorySets   = 256
)

// Hold-off after a request failed in all its attempts: the same part is not
// asked for again before it ends. It doubles with each failure.
const (
	holdBase = time.Second
	holdMax  = 10 * time.Minute
)

// Options of New. The zero value asks Intel's service, trusts Intel's root,
// and keeps collateral in memory only.
type Options struct {
	BaseURL string // of a PCS or PCCS; empty: IntelPCS
	// RootCRLURL is where the root CA's CRL is; empty: IntelRootCRL where
	// BaseURL is Intel's, else the PCCS's own /sgx/certification/v4/rootcacrl.
	RootCRLURL string
	Roots      *pck.Roots // trusted roots; nil: Intel's
	CacheDir   string     // where parts are kept between runs; empty: nowhere
	Shared     *Shared    // what other replicas fetched; nil: nothing
	// RefreshAfter is the age from which held collateral is asked for again in
	// the background, while it is still valid and still returned.
	RefreshAfter time.Duration
	MemorySets   int // how many sets are kept in memory
	// Grace is how long after its next update a part is still taken from the
	// service, where a policy says so. What is held is asked for again in any
	// case once it expired.
	Grace time.Duration
	// Offline never asks the service: what is not held is missing.
	Offline bool

	Timeout   time.Duration // of one HTTP request
	Attempts  int           // HTTP requests per part and fetch
	RetryBase time.Duration // first delay between attempts
	RetryMax  time.Duration // longest delay between attempts

	HTTP   *http.Client // nil: a client with the package's limits
	Clock  func() time.Time
	Sleep  func(context.Context, time.Duration) error
	Rand   func() float64 // uniform in [0, 1), for jitter
	Logger *slog.Logger   // nil: nothing is logged
}

// Client fetches and keeps collateral. It is safe for concurrent use.
type Client struct {
	opts    Options
	base    string
	rootCRL string
	http    *http.Client
	log     *slog.Logger
	disk    *fetch.Disk[entry] // nil: no disk cache
	common  *fetch.Common[entry]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	bg     sync.WaitGroup
	builds singleflight.Group // by Request
	gets   singleflight.Group // by part

	mu     sync.Mutex
	closed bool
	sets   *fetch.LRU[Request, *held]
	parts  *fetch.LRU[partRef, *entry]
	fails  *fetch.LRU[partRef, *failure]
	bad    *fetch.LRU[Request, *failure] // sets that did not verify
}

// held is a set in memory.
type held struct {
	set        *collateral.Set
	refreshAt  time.Time // from here on a background refresh is due
	refreshing bool
	failures   int   // background refreshes that failed in a row
	failed     error // the last of them
	kept       bool  // no part of it was fetched for it
}

// Shared is a store that replicas have in common. What it has is verified as an
// answer of the service is, and was fetched when a replica says so.
type Shared = fetch.Shared

// Origin says where a set came from.
type Origin = fetch.Origin

// failure is a part that could not be fetched, or a set that did not verify.
type failure struct {
	err   error
	count int
	until time.Time
}

// New returns a client. The error is a fault for an address that is not one.
func New(opts Options) (*Client, error) {
	if opts.BaseURL == "" {
		opts.BaseURL = IntelPCS
	}
	base, err := cleanBase(opts.BaseURL)
	if err != nil {
		return nil, err
	}
	if opts.RootCRLURL == "" {
		opts.RootCRLURL = partRef{kind: kindRootCRL}.urlFor(base)
		if base == IntelPCS {
			opts.RootCRLURL = IntelRootCRL
		}
	} else if u, err := url.Parse(opts.RootCRLURL); err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") {
		return nil, fault.New(fault.ExitInternal, "dcap.collateral.url", "give an http or https URL",
			"reading the root CRL's address %q: not an http or https URL", opts.RootCRLURL)
	}
	setDefault(&opts.RefreshAfter, DefaultRefreshAfter)
	setDefault(&opts.MemorySets, DefaultMemorySets)
	setDefault(&opts.Timeout, DefaultTimeout)
	setDefault(&opts.Attempts, DefaultAttempts)
	setDefault(&opts.RetryBase, DefaultRetryBase)
	setDefault(&opts.RetryMax, DefaultRetryMax)
	if opts.Roots == nil {
		opts.Roots = pck.IntelRoots()
	}
	if opts.HTTP == nil {
		opts.HTTP = fetch.NewClient(DefaultTimeout)
	}
	if opts.Clock == nil {
		opts.Clock = time.Now
	}
	if opts.Sleep == nil {
		opts.Sleep = fetch.Sleep
	}
	if opts.Rand == nil {
		opts.Rand = rand.Float64
	}
	if opts.Logger == nil {
		opts.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{
		opts: opts, base: base, rootCRL: opts.RootCRLURL,
		http:  fetch.SameHost(opts.HTTP),
		log:   opts.Logger,
		sets:  fetch.NewLRU[Request, *held](opts.MemorySets),
		parts: fetch.NewLRU[partRef, *entry](4 * opts.MemorySets),
		fails: fetch.NewLRU[partRef, *failure](4 * opts.MemorySets),
		bad:   fetch.NewLRU[Request, *failure](opts.MemorySets),
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	rootsHash := opts.Roots.Hash()
	scope := base + " " + c.rootCRL + " " + hex.EncodeToString(rootsHash[:])
	c.common = fetch.NewCommon[entry](opts.Shared, "pcs "+scope, opts.Logger)
	if opts.CacheDir != "" {
		c.disk = &fetch.Disk[entry]{Dir: opts.CacheDir, Scope: scope}
	}
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Close ends background work and waits for it.
func (c *Client) Close() {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	c.cancel()
	c.bg.Wait()
}

// Set returns verified collateral for a request: from memory, from disk, or
// from the service. What is held is returned as long as it is valid; once it
// is older than RefreshAfter it is also asked for again in the background.
//
// Errors carry faults: codes dcap.collateral.fetch.* (exit 3) where the
// service does not answer, those of collateral.Verify where its answer does
// not hold.
func (c *Client) Set(ctx context.Context, req Request) (*collateral.Set, error) {
	set, _, err := c.Lookup(ctx, req)
	return set, err
}

// Lookup is Set that says where the set came from.
func (c *Client) Lookup(ctx context.Context, req Request) (*collateral.Set, Origin, error) {
	if err := req.validate(); err != nil {
		return nil, Origin{}, err
	}
	if req.Channel == "" && req.Evaluation == 0 {
		req.Channel = Standard
	}
	if set, from := c.fromMemory(req); set != nil {
		return set, from, nil
	}
	// The build runs under the client's context: a caller that gives up does
	// not take the answer away from the others that wait for it.
	ch := c.builds.DoChan(keyOf(req), func() (any, error) { return c.build(c.ctx, req, false) })
	select {
	case res := <-ch:
		if res.Err != nil {
			return nil, Origin{}, res.Err
		}
		c.mu.Lock()
		h, ok := c.sets.Get(req)
		c.mu.Unlock()
		return res.Val.(*collateral.Set), Origin{Held: ok && h.kept}, nil
	case <-ctx.Done():
		return nil, Origin{}, fault.New(fault.ExitNetwork, "dcap.collateral.fetch.cancelled",
			"give it more time, or give the collateral as a file", "fetching collateral: %w", ctx.Err()).Expect("an answer in time")
	}
}

// keyOf names a request for singleflight.
func keyOf(req Request) string {
	s := string(req.CA)
	for _, ref := range req.parts() {
		s += ";" + ref.String()
	}
	return s
}

// fromMemory returns a set that is valid now, or nil, and starts a refresh
// where one is due.
func (c *Client) fromMemory(req Request) (*collateral.Set, Origin) {
	now := c.opts.Clock()
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.sets.Get(req)
	if !ok || !h.set.ValidAt(now, 0) {
		return nil, Origin{}
	}
	if !now.Before(h.refreshAt) && !h.refreshing && !c.closed {
		h.refreshing = true
		c.bg.Go(func() { c.refresh(req, h) })
	}
	return h.set, Origin{Held: true, Refresh: h.failed}
}

// refresh asks for a held set again. A failure leaves what is held in place
// and puts the next try off, further each time.
func (c *Client) refresh(req Request, h *held) {
	_, err, _ := c.builds.Do("refresh;"+keyOf(req), func() (any, error) { return c.build(c.ctx, req, true) })
	c.mu.Lock()
	defer c.mu.Unlock()
	h.refreshing = false
	if err != nil {
		h.refreshAt = c.opts.Clock().Add(fetch.Backoff(c.opts.Rand, time.Minute, time.Hour, h.failures) + time.Minute)
		h.failures++
		h.failed = err
		c.log.LogAttrs(c.ctx, slog.LevelWarn, "collateral could not be refreshed, using what is held",
			slog.Time("valid_until", h.set.NextUpdate()), slog.Any("error", err))
	}
}

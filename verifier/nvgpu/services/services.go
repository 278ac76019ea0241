// Package services asks NVIDIA's RIM and OCSP services, or a cache of them,
// and keeps what they answer: the id of a driver, VBIOS or switch BIOS comes
// in, its reference integrity manifest goes out; a certificate comes in, its
// status goes out. The same cache can be served to others (Handler), and
// carried to machines without a network (Bundle).
//
// The services are not trusted: answers are bounded in size and time, no
// manifest is kept or returned whose signature and chain do not verify, and
// one whose signer is older does not replace what is held.
//
// Definitions: NVIDIA "RIM Service API", version 1; RFC 6960.
package services

import (
	"context"
	"encoding/hex"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/fetch"
	"cocoon/verifier/nvgpu/rim"
)

// Addresses of NVIDIA's services.
const (
	NVIDIARIM  = "https://rim.attestation.nvidia.com"
	NVIDIAOCSP = "https://ocsp.ndis.nvidia.com/"
)

// Defaults of Options.
const (
	DefaultTimeout   = 10 * time.Second // of one HTTP request, as NVIDIA's verifiers have it
	DefaultAttempts  = 3
	DefaultRetryBase = 500 * time.Millisecond
	DefaultRetryMax  = 10 * time.Second
	DefaultTTL       = 24 * time.Hour
	DefaultOCSPTTL   = time.Hour
	DefaultMaxStale  = 7 * 24 * time.Hour
	memoryEntries    = 1024
)

// Hold-off after a request failed in all its attempts; it doubles with each
// failure.
const (
	holdBase = time.Second
	holdMax  = 10 * time.Minute
)

// Options of New. The zero value asks NVIDIA's services, trusts NVIDIA's root
// and keeps answers in memory only.
type Options struct {
	RIMURL  string // of the service or a cache of it; empty: NVIDIARIM
	OCSPURL string // empty: NVIDIAOCSP, or RIMURL + "/ocsp" where that is not NVIDIA's
	Token   string // service key, sent as a bearer token; empty: none

	Roots    *rim.Roots // nil: NVIDIA's
	Docs     *rim.Cache // shared with whoever verifies the manifests again; nil: an own one
	CacheDir string     // where answers are kept between runs; empty: nowhere
	Shared   *Shared    // what other replicas fetched; nil: nothing
	Bundle   *Bundle    // answers brought along; nil: none

	// TTL is the age from which a manifest, and the list of ids, is asked for
	// again; OCSPTTL that of an OCSP answer, which never outlives its own next
	// update.
	TTL, OCSPTTL time.Duration
	// MaxStale is the age to which a manifest is still returned, declared as
	// stale, when the service does not answer.
	MaxStale time.Duration
	Offline  bool // never ask the services

	Timeout             time.Duration
	Attempts            int
	RetryBase, RetryMax time.Duration

	HTTP   *http.Client // nil: a client with the package's limits
	Clock  func() time.Time
	Sleep  func(context.Context, time.Duration) error
	Rand   func() float64 // uniform in [0, 1), for jitter
	Logger *slog.Logger   // nil: nothing is logged
}

// Shared is a store that replicas have in common.
type Shared = fetch.Shared

// Client is safe for concurrent use.
type Client struct {
	opts      Options
	rim, ocsp string
	get       fetch.Getter
	log       *slog.Logger
	disk      *fetch.Disk[entry] // nil: none
	common    *fetch.Common[entry]

	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	flight singleflight.Group // by key

	mu    sync.Mutex
	mem   *fetch.LRU[string, *entry]
	fails *fetch.LRU[string, *failure]
}

type failure struct {
	err   error
	count int
	until time.Time
}

// New returns a client. The error is a fault for an address that is not one.
func New(o Options) (*Client, error) {
	own := o.RIMURL != "" && o.RIMURL != NVIDIARIM
	setDefault(&o.RIMURL, NVIDIARIM)
	o.RIMURL = strings.TrimRight(o.RIMURL, "/")
	if o.OCSPURL == "" {
		o.OCSPURL = NVIDIAOCSP
		if own {
			o.OCSPURL = o.RIMURL + "/ocsp"
		}
	}
	for _, s := range []string{o.RIMURL, o.OCSPURL} {
		u, err := url.Parse(s)
		if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			return nil, fault.New(fault.ExitInternal, "rim.service.url", "give the base URL of NVIDIA's service or of a cache, such as "+NVIDIARIM,
				"reading the service's address %.200q: not an http or https base URL", s)
		}
	}
	setDefault(&o.TTL, DefaultTTL)
	setDefault(&o.OCSPTTL, DefaultOCSPTTL)
	setDefault(&o.MaxStale, DefaultMaxStale)
	setDefault(&o.Timeout, DefaultTimeout)
	setDefault(&o.Attempts, DefaultAttempts)
	setDefault(&o.RetryBase, DefaultRetryBase)
	setDefault(&o.RetryMax, DefaultRetryMax)
	if o.Roots == nil {
		o.Roots = rim.NVIDIARoots()
	}
	if o.Docs == nil {
		o.Docs = rim.NewCache()
	}
	if o.HTTP == nil {
		o.HTTP = fetch.NewClient(o.Timeout)
	}
	if o.Clock == nil {
		o.Clock = time.Now
	}
	if o.Sleep == nil {
		o.Sleep = fetch.Sleep
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	c := &Client{opts: o, rim: o.RIMURL, ocsp: o.OCSPURL, log: o.Logger,
		mem: fetch.NewLRU[string, *entry](memoryEntries), fails: fetch.NewLRU[string, *failure](memoryEntries)}
	c.get = fetch.Getter{
		HTTP: fetch.SameHost(o.HTTP), Timeout: o.Timeout, Attempts: o.Attempts, RetryBase: o.RetryBase, RetryMax: o.RetryMax,
		Sleep: o.Sleep, Rand: o.Rand, Log: o.Logger, Prefix: "rim.service", Status: meaning,
		Unreachable: "check the network and the address, name a cache with --rim-service, or bring a bundle",
		TooLarge:    "use NVIDIA's service or another cache: this one does not answer as the API says",
	}
	if o.Token != "" {
		c.get.Header = http.Header{"Authorization": {"Bearer " + o.Token}}
	}
	h := o.Roots.Hash()
	scope := c.rim + " " + c.ocsp + " " + hex.EncodeToString(h[:])
	c.common = fetch.NewCommon[entry](o.Shared, "nvidia "+scope, o.Logger)
	if o.CacheDir != "" {
		c.disk = &fetch.Disk[entry]{Dir: o.CacheDir, Scope: scope}
	}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Trusts reports whether these are the roots that answers are verified under;
// nil roots are NVIDIA's.
func (c *Client) Trusts(roots *rim.Roots) bool {
	if roots == nil {
		roots = rim.NVIDIARoots()
	}
	return c.opts.Roots.Hash() == roots.Hash()
}

// Close ends requests that are under way.
func (c *Client) Close() { c.cancel() }

// codeNotFound is the code of an id that the service does not have.
const codeNotFound = "rim.service.not_found"

// IsNotFound reports whether the service answered that it has no manifest of
// this id: RIM_NOT_FOUND, the commonest failure in the field.
func IsNotFound(err error) bool { return fault.Has(err, codeNotFound) }

// meaning tells the services' answers apart.
func meaning(s int, body []byte) (code, remedy string, retry bool) {
	switch {
	case s == http.StatusNotFound && strings.Contains(string(body), "RIM_NOT_FOUND"):
		return "not_found", "NVIDIA has published no reference measurements for this version: see cocoon gpu rim for those it has", false
	case s == http.StatusTooManyRequests:
		return "rate_limited", "wait, or run a cache and name it with --rim-service", true
	case s == http.StatusUnauthorized || s == http.StatusForbidden:
		return "unauthorized", "give a service key, or use a cache", false
	case s >= 500:
		return "server", "try again later, or ask a cache", true
	}
	return "status", "check the address of the service", false
}

// Package kds fetches what verifies SEV-SNP reports from AMD's Key
// Distribution Service, or from a cache that answers like it, and keeps it: a
// report comes in; the VCEK's certificate, the chain and the CRL go out.
//
// The service is not trusted: its answers are bounded in size and time, it
// cannot redirect elsewhere, nothing is kept or returned that package vek has
// not verified, and a CRL that is older than the held one does not replace it.
//
// Definition: AMD 57230, VCEK Certificate and KDS Interface Specification,
// chapter 4.
package kds

import (
	"context"
	"encoding/hex"
	"errors"
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
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// AMD is the address of AMD's service.
const AMD = "https://kdsintf.amd.com"

// Defaults of Options. AMD's service answers the same request once in ten
// seconds.
const (
	DefaultTimeout      = 20 * time.Second // of one HTTP request
	DefaultAttempts     = 4
	DefaultRetryBase    = 10 * time.Second
	DefaultRetryMax     = 40 * time.Second
	DefaultRefreshAfter = 12 * time.Hour // of CRLs
)

// Hold-off after a request failed in all its attempts: the same document is
// not asked for again before it ends. It doubles with each failure.
const (
	holdBase = 10 * time.Second
	holdMax  = 10 * time.Minute
	maxFails = 1024
)

// Options of New. The zero value asks AMD's service, trusts AMD's roots and
// keeps everything in memory only.
type Options struct {
	BaseURL  string     // empty: AMD
	Roots    *vek.Roots // nil: AMD's
	CacheDir string     // where documents are kept between runs; empty: nowhere
	Shared   *Shared    // what other replicas fetched; nil: nothing
	// RefreshAfter is the age from which a held CRL is asked for again. If that
	// fails, the held one is used as long as it is current.
	RefreshAfter time.Duration
	// Offline never asks the service: what is not held is missing.
	Offline bool

	Timeout   time.Duration // of one HTTP request
	Attempts  int           // HTTP requests per document and fetch
	RetryBase time.Duration // first delay between attempts
	RetryMax  time.Duration // longest delay between attempts

	HTTP   *http.Client // nil: a client with the package's limits
	Clock  func() time.Time
	Sleep  func(context.Context, time.Duration) error
	Rand   func() float64 // uniform in [0, 1), for jitter
	Logger *slog.Logger   // nil: nothing is logged
}

// Client fetches and keeps documents. It is safe for concurrent use.
type Client struct {
	opts Options
	base string
	http fetch.Getter
	disk *fetch.Disk[entry] // nil: no disk cache

	common *fetch.Common[entry]

	gets singleflight.Group // by document

	mu    sync.Mutex
	held  map[string]*entry // bounded by maxHeld
	fails map[string]*failure
}

// Shared is a store that replicas have in common.
type Shared = fetch.Shared

// entry is a held document. What disk and shared store have of one is verified as
// an answer of the service is.
type entry struct {
	Body    []byte    `json:"body"`
	Fetched time.Time `json:"fetched"` // a hint: it decides when to ask again

	// unproven is what was asked for by somebody who has shown nothing: it is in
	// memory alone, and the first to go.
	unproven bool
}

// fileLimit bounds a document's cache file: base64 in JSON is a third longer
// than what it holds.
func fileLimit(d document) int { return 2*d.limit() + 4096 }

// maxHeld bounds the documents in memory.
const maxHeld = 4096

// failure is a document that could not be had.
type failure struct {
	err   error
	count int
	until time.Time
}

// New returns a client. The error is a fault for an address that is not one.
func New(o Options) (*Client, error) {
	if o.BaseURL == "" {
		o.BaseURL = AMD
	}
	u, err := url.Parse(o.BaseURL)
	if err != nil || u.Host == "" || (u.Scheme != "https" && u.Scheme != "http") || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return nil, fault.New(fault.ExitInternal, "snp.kds.url", "give the base URL of AMD's KDS or of a cache of it, such as "+AMD,
			"reading the KDS's address %q: not an http or https base URL", o.BaseURL)
	}
	setDefault(&o.RefreshAfter, DefaultRefreshAfter)
	setDefault(&o.Timeout, DefaultTimeout)
	setDefault(&o.Attempts, DefaultAttempts)
	setDefault(&o.RetryBase, DefaultRetryBase)
	setDefault(&o.RetryMax, DefaultRetryMax)
	if o.Roots == nil {
		o.Roots = vek.AMDRoots()
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
	c := &Client{opts: o, base: strings.TrimRight(o.BaseURL, "/"), held: map[string]*entry{}, fails: map[string]*failure{},
		http: fetch.Getter{
			HTTP: fetch.SameHost(o.HTTP), Timeout: o.Timeout, Attempts: o.Attempts, RetryBase: o.RetryBase, RetryMax: o.RetryMax,
			Sleep: o.Sleep, Rand: o.Rand, Log: o.Logger, Prefix: "snp.kds", Status: statusMeaning,
			Unreachable: "check the network and the address, or give certificate and CRL as files",
			TooLarge:    "use AMD's service or another cache: this one does not answer as the specification says",
		}}
	sum := o.Roots.Hash()
	scope := c.base + " " + hex.EncodeToString(sum[:])
	c.common = fetch.NewCommon[entry](o.Shared, "kds "+scope, o.Logger)
	if o.CacheDir != "" {
		c.disk = &fetch.Disk[entry]{Dir: o.CacheDir, Scope: scope}
	}
	return c, nil
}

func setDefault[T comparable](v *T, def T) {
	var zero T
	if *v == zero {
		*v = def
	}
}

// Certificate returns the certificate (DER) of the VCEK that signed a report:
// of its chip, at its reported TCB version, verified. A report of version 2
// does not say its product: Milan and then Genoa are asked for. VLEKs are not
// to be had from the KDS by anyone but their provider.
func (c *Client) Certificate(ctx context.Context, r *report.Report) ([]byte, error) {
	der, _, err := c.LookupCertificate(ctx, r, nil)
	return der, err
}

// Origin says where a document came from.
type Origin = fetch.Origin

// LookupCertificate is Certificate that says where it came from. With the report's
// bytes, what the certificate did not sign is kept in memory alone: the service has a
// certificate of a chip for each TCB version, and who makes reports up could ask for
// all of them.
func (c *Client) LookupCertificate(ctx context.Context, r *report.Report, raw []byte) ([]byte, Origin, error) {
	if r.Signer != report.VCEK {
		return nil, Origin{}, fault.New(fault.ExitNetwork, "snp.kds.vlek", "give the certificate that came with the report, as a file or in its certificate table",
			"fetching certificate: the KDS hands a %s out to its cloud provider only", r.Signer).
			Expect("a certificate with the report, or a VCEK's").Found("none, and a " + string(r.Signer))
	}
	lines := []report.Product{r.Product.Line()}
	if r.Product == "" {
		lines = []report.Product{report.Milan, report.Genoa}
	}
	var errs []error
	for _, line := range lines {
		der, from, err := c.get(ctx, vcek{line: line, chip: r.ChipID, tcb: r.ReportedTCB, report: r, raw: raw})
		if err == nil {
			return der, from, nil
		}
		errs = append(errs, err)
		if !fault.Has(err, "snp.kds.not_found") && !fault.Has(err, "snp.kds.offline") {
			break
		}
	}
	return nil, Origin{}, errs[len(errs)-1]
}

// Chain returns the certificates of ASK or ASVK and ARK of a product line, in
// PEM. They are those of the roots: anything else is refused.
func (c *Client) Chain(ctx context.Context, line report.Product, s report.Signer) ([]byte, error) {
	b, _, err := c.get(ctx, chain{line: line.Line(), signer: s})
	return b, err
}

// CRL returns the CRL (DER) of a product line, verified and current.
func (c *Client) CRL(ctx context.Context, line report.Product) ([]byte, error) {
	b, _, err := c.LookupCRL(ctx, line)
	return b, err
}

// LookupCRL is CRL that says where it came from.
func (c *Client) LookupCRL(ctx context.Context, line report.Product) ([]byte, Origin, error) {
	return c.get(ctx, crl{line: line.Line()})
}

// answer is a document with its origin.
type answer struct {
	body []byte
	from Origin
}

// get returns a document: from memory, from disk, from another replica, or from
// the service.
func (c *Client) get(ctx context.Context, d document) ([]byte, Origin, error) {
	if e := c.usable(ctx, d); e != nil && !c.stale(d, e) {
		if e.unproven && d.proven(e.Body, c.opts.Roots) {
			c.persist(ctx, d, &entry{Body: e.Body, Fetched: e.Fetched})
		}
		return e.Body, Origin{Held: true}, nil
	}
	// The fetch does not end with the caller's context: one that gives up does
	// not take the answer away from the others that wait for it. It is bounded
	// by its own timeouts.
	ch := c.gets.DoChan(d.path(), func() (any, error) { return c.fetchDocument(context.WithoutCancel(ctx), d) })
	select {
	case res := <-ch:
		if res.Err != nil {
			return nil, Origin{}, res.Err
		}
		a := res.Val.(answer)
		return a.body, a.from, nil
	case <-ctx.Done():
		return nil, Origin{}, fault.New(fault.ExitNetwork, "snp.kds.cancelled", "give it more time, or give the document as a file", "fetching %s: %w", d.path(), ctx.Err()).Expect("an answer in time")
	}
}

// usable returns what is held of a document, if it verifies and is current.
func (c *Client) usable(ctx context.Context, d document) *entry {
	c.mu.Lock()
	e := c.held[d.path()]
	c.mu.Unlock()
	now := c.opts.Clock()
	if e != nil && d.current(e.Body, now) {
		return e
	}
	if e != nil {
		return nil
	}
	if e = c.onDisk(ctx, d, now); e == nil {
		e = c.elsewhere(ctx, d, now)
	}
	if e != nil {
		c.keep(d, e)
	}
	return e
}

// onDisk returns what the disk has of a document, if it verifies and is current.
func (c *Client) onDisk(ctx context.Context, d document, now time.Time) *entry {
	if c.disk == nil {
		return nil
	}
	e, err := c.disk.Load(d.path(), fileLimit(d))
	if err == nil {
		err = d.verify(e.Body, c.opts.Roots)
	}
	if err != nil {
		if !errors.Is(err, fetch.ErrMiss) {
			c.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "ignoring a cache file", slog.String("document", d.path()), slog.Any("error", err))
		}
		return nil
	}
	if !d.current(e.Body, now) {
		return nil
	}
	return e
}

// elsewhere returns what another replica fetched of a document, likewise.
func (c *Client) elsewhere(ctx context.Context, d document, now time.Time) *entry {
	e := c.common.Load(ctx, d.path(), fileLimit(d))
	if e == nil {
		return nil
	}
	if err := d.verify(e.Body, c.opts.Roots); err != nil {
		c.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "ignoring what the shared store has", slog.String("document", d.path()), slog.Any("error", err))
		return nil
	}
	if !d.current(e.Body, now) {
		return nil
	}
	return e
}

// stale reports whether a held document is due for a refresh. A fetch time in
// the future (a clock that was set back) counts as due.
func (c *Client) stale(d document, e *entry) bool {
	now := c.opts.Clock()
	return d.refreshes() && !c.opts.Offline && (now.Before(e.Fetched) || now.Sub(e.Fetched) >= c.opts.RefreshAfter)
}

// keep holds an entry in memory. Where that is full it takes the place of another:
// one that is unproven, where there is one.
func (c *Client) keep(d document, e *entry) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.held) >= maxHeld {
		var out string
		for k, e := range c.held {
			if out = k; e.unproven {
				break
			}
		}
		delete(c.held, out)
	}
	c.held[d.path()] = e
	delete(c.fails, d.path())
}

// persist keeps an entry in memory, with the other replicas and on disk.
func (c *Client) persist(ctx context.Context, d document, e *entry) {
	c.keep(d, e)
	c.common.Store(ctx, d.path(), e, fetch.SharedFor)
	if c.disk == nil {
		return
	}
	if err := c.disk.Store(d.path(), e); err != nil {
		c.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "document could not be kept on disk", slog.Any("error", err))
	}
}

// fetchDocument asks the service, unless that failed so recently that it is
// better left alone. Where a held document is current, a failure is no reason
// to do without it.
func (c *Client) fetchDocument(ctx context.Context, d document) (answer, error) {
	held := c.usable(ctx, d)
	if held != nil && !c.stale(d, held) {
		return answer{body: held.Body}, nil // another fetch brought it
	}
	now := c.opts.Clock()
	if held != nil { // which is stale, and another replica's may be newer
		if e := c.elsewhere(ctx, d, now); e != nil && !c.stale(d, e) && !d.older(e.Body, held.Body) {
			c.keep(d, e)
			return answer{e.Body, Origin{Held: true}}, nil
		}
	}
	c.mu.Lock()
	last := c.fails[d.path()]
	c.mu.Unlock()
	var err error
	switch {
	case c.opts.Offline:
		return answer{}, fault.New(fault.ExitNetwork, "snp.kds.offline", "fetch it while there is a network, or give it as a file", "fetching %s: not held, and offline", d.path()).
			Expect("a document that is held, or a network").Found("neither")
	case last != nil && now.Before(last.until):
		err = last.err
	default:
		var body []byte
		if body, err = c.ask(ctx, d); err == nil {
			if held != nil && d.older(body, held.Body) {
				c.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "service answers with an older document than is held, keeping the held one", slog.String("document", d.path()))
				body = held.Body
			}
			e := &entry{Body: body, Fetched: now}
			if d.proven(body, c.opts.Roots) {
				c.persist(ctx, d, e)
			} else {
				e.unproven = true
				c.keep(d, e)
			}
			return answer{body: body}, nil
		}
		c.note(d, last, err, now)
	}
	if held != nil {
		c.opts.Logger.LogAttrs(ctx, slog.LevelWarn, "document could not be refreshed, using what is held", slog.String("document", d.path()), slog.Any("error", err))
		return answer{held.Body, Origin{Held: true, Refresh: err}}, nil
	}
	return answer{}, err
}

// note counts a failure on from the last one and says how long to leave the
// service alone.
func (c *Client) note(d document, last *failure, err error, now time.Time) {
	f := &failure{err: err, count: 1}
	if last != nil {
		f.count = last.count + 1
	}
	f.until = now.Add(holdBase/2 + fetch.Backoff(c.opts.Rand, holdBase, holdMax, f.count-1))
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.fails) >= maxFails {
		clear(c.fails)
	}
	c.fails[d.path()] = f
}

// ask makes the request and verifies the answer.
func (c *Client) ask(ctx context.Context, d document) ([]byte, error) {
	resp, failed := c.http.Do(ctx, fetch.Request{URL: c.base + d.path(), Limit: d.limit()})
	if failed != nil {
		return nil, failed
	}
	body, err := d.decode(resp.Body)
	if err == nil {
		err = d.verify(body, c.opts.Roots)
	}
	if err != nil {
		return nil, fault.New(fault.ExitNetwork, "snp.kds.answer", "use AMD's service or another cache: this one's answer does not hold",
			"reading the answer of %s: %w", c.base+d.path(), err).Expect("a document that verifies under the trusted roots")
	}
	if !d.current(body, c.opts.Clock()) {
		return nil, fault.New(fault.ExitNetwork, "snp.kds.answer", "check the clock, or use AMD's service: this one's answer is out of date",
			"reading the answer of %s: not valid at this time", c.base+d.path()).
			Expect("a document that is valid at " + c.opts.Clock().UTC().Format(time.RFC3339)).Found("one that is not")
	}
	return body, nil
}

// statusMeaning says what a refusal of the service means.
func statusMeaning(status int, _ []byte) (code, remedy string, retry bool) {
	switch {
	case status == http.StatusTooManyRequests:
		return "rate_limited", "wait: AMD's service answers the same request once in ten seconds; keep a cache directory", true
	case status == http.StatusNotFound || status == http.StatusBadRequest:
		return "not_found", "the service knows no such chip at this TCB version: check the report's product, or that it is of a production processor", false
	}
	return "status", "try again later, or ask another service", status >= 500
}

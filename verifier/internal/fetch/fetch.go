// Package fetch gets small documents over HTTP from services that are not
// trusted, for the verifier's clients of vendors' services: an address comes
// in, a bounded body or the kind of failure goes out. It is bounded in size
// and time, tries again where that makes sense, and follows no redirect off
// the host. What a failure is called is the caller's matter.
package fetch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strconv"
	"time"
)

// Kind is why a request failed.
type Kind int

// Kinds of failures.
const (
	Unreachable Kind = iota // no answer, or half of one
	Redirected              // the service sends elsewhere
	TooLarge                // the body is larger than the limit
	BadStatus               // an answer other than 200: see Status
)

// Failure is a request that failed in all its attempts.
type Failure struct {
	Kind   Kind
	URL    string
	Status int   // BadStatus: the HTTP status
	Limit  int   // TooLarge: the limit in bytes
	Err    error // Unreachable and Redirected: the cause

	retry bool
	after time.Duration // as the service asked, or 0
}

// Error says what happened.
func (f *Failure) Error() string {
	switch f.Kind {
	case BadStatus:
		return fmt.Sprintf("fetching %s: status %d", f.URL, f.Status)
	case TooLarge:
		return fmt.Sprintf("fetching %s: more than %d bytes", f.URL, f.Limit)
	}
	return fmt.Sprintf("fetching %s: %v", f.URL, f.Err)
}

// Unwrap returns the cause.
func (f *Failure) Unwrap() error { return f.Err }

// Response is what a successful request brought.
type Response struct {
	Header http.Header
	Body   []byte
}

// Options of New. Attempts, RetryBase, RetryMax and Timeout must be set.
type Options struct {
	Timeout   time.Duration // of one request
	Attempts  int           // requests at most
	RetryBase time.Duration // first delay between attempts
	RetryMax  time.Duration // longest delay between attempts
	MaxHeader int64         // bytes of a response's headers

	HTTP   *http.Client // nil: a client with these limits
	Sleep  func(context.Context, time.Duration) error
	Rand   func() float64 // uniform in [0, 1), for jitter
	Logger *slog.Logger   // nil: nothing is logged
}

// Client gets documents. It is safe for concurrent use.
type Client struct {
	o    Options
	http *http.Client
}

// New returns a client.
func New(o Options) *Client {
	if o.HTTP == nil {
		tr := http.DefaultTransport.(*http.Transport).Clone()
		tr.MaxResponseHeaderBytes = o.MaxHeader
		tr.ResponseHeaderTimeout = o.Timeout
		o.HTTP = &http.Client{Transport: tr}
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Rand == nil {
		o.Rand = rand.Float64
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return &Client{o: o, http: withoutRedirects(o.HTTP)}
}

// errOffHost is returned for a redirect that would leave the host (or its
// TLS): the server is not trusted to send us anywhere else.
var errOffHost = errors.New("redirect off the host")

// withoutRedirects returns a copy of c that follows at most three redirects,
// all on the same scheme and host.
func withoutRedirects(c *http.Client) *http.Client {
	cc := *c
	cc.CheckRedirect = func(req *http.Request, via []*http.Request) error {
		if len(via) > 3 {
			return errors.New("too many redirects")
		}
		if first := via[0].URL; req.URL.Host != first.Host || req.URL.Scheme != first.Scheme {
			return fmt.Errorf("%w: %s to %s", errOffHost, first.Host, req.URL.Host)
		}
		return nil
	}
	return &cc
}

// Get fetches address with retries: network errors, 429 and 5xx are tried
// again after an exponential delay with full jitter, or what Retry-After asks.
func (c *Client) Get(ctx context.Context, address string, limit int) (*Response, *Failure) {
	var last *Failure
	for n := range c.o.Attempts {
		if n > 0 {
			d := max(c.Backoff(c.o.RetryBase, c.o.RetryMax, n-1), min(last.after, c.o.RetryMax))
			c.o.Logger.LogAttrs(ctx, slog.LevelInfo, "request failed, trying again",
				slog.String("url", address), slog.Int("attempt", n), slog.Duration("delay", d), slog.Any("error", last))
			if err := c.o.Sleep(ctx, d); err != nil {
				return nil, last
			}
		}
		resp, failure := c.attempt(ctx, address, limit)
		if failure == nil {
			return resp, nil
		}
		last = failure
		if !failure.retry || ctx.Err() != nil {
			break
		}
	}
	return nil, last
}

// attempt makes one request.
func (c *Client) attempt(ctx context.Context, address string, limit int) (*Response, *Failure) {
	ctx, cancel := context.WithTimeout(ctx, c.o.Timeout)
	defer cancel()
	unreachable := func(err error) *Failure {
		var ue *url.Error
		if errors.As(err, &ue) {
			err = ue.Err // the address is in the message already
		}
		if errors.Is(err, errOffHost) {
			return &Failure{Kind: Redirected, URL: address, Err: err}
		}
		return &Failure{Kind: Unreachable, URL: address, Err: err, retry: true}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, unreachable(err)
	}
	req.Header.Set("User-Agent", "cocoon")
	res, err := c.http.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		// Reading a little of an error's body lets the connection be used again.
		_, _ = io.CopyN(io.Discard, res.Body, 4<<10)
		return nil, statusFailure(address, res)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(limit)+1))
	if err != nil {
		return nil, unreachable(err)
	}
	if len(body) > limit {
		return nil, &Failure{Kind: TooLarge, URL: address, Limit: limit}
	}
	return &Response{Header: res.Header, Body: body}, nil
}

func statusFailure(address string, res *http.Response) *Failure {
	s := res.StatusCode
	f := &Failure{Kind: BadStatus, URL: address, Status: s, retry: s == http.StatusTooManyRequests || s >= 500}
	if secs, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && secs > 0 && secs < 3600 {
		f.after = time.Duration(secs) * time.Second
	}
	return f
}

// Backoff returns a delay with full jitter: uniform in (0, base·2ⁿ], at most
// limit.
func (c *Client) Backoff(base, limit time.Duration, n int) time.Duration {
	d := limit
	if n < 20 && base<<n < limit {
		d = base << n
	}
	return time.Duration((1 - c.o.Rand()) * float64(d))
}

// sleep waits for d or until ctx is done.
func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

package pcs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	neturl "net/url"
	"strconv"
	"time"

	"cocoon/internal/fault"
)

// response is what one successful request brought.
type response struct {
	header http.Header
	body   []byte
}

// newHTTPClient returns the default client: TLS as Go has it, headers and
// time bounded. Bodies are bounded by get.
func newHTTPClient() *http.Client {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxResponseHeaderBytes = maxHeader
	tr.ResponseHeaderTimeout = DefaultTimeout
	return &http.Client{Transport: tr}
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

// attemptError is one failed attempt: whether another makes sense, and when.
type attemptError struct {
	retry bool
	after time.Duration // as the server asked, or 0
	err   *fault.Fault
}

// get fetches url with retries: network errors, 429 and 5xx are tried again
// after an exponential delay with full jitter, or what Retry-After asks.
func (c *Client) get(ctx context.Context, url string, limit int) (*response, *fault.Fault) {
	var last *attemptError
	for n := range c.opts.Attempts {
		if n > 0 {
			d := max(c.backoff(c.opts.RetryBase, c.opts.RetryMax, n-1), min(last.after, c.opts.RetryMax))
			c.log.LogAttrs(ctx, slog.LevelInfo, "collateral request failed, trying again",
				slog.String("url", url), slog.Int("attempt", n), slog.Duration("delay", d), slog.Any("error", last.err))
			if err := c.opts.Sleep(ctx, d); err != nil {
				return nil, last.err
			}
		}
		resp, aerr := c.attempt(ctx, url, limit)
		if aerr == nil {
			return resp, nil
		}
		last = aerr
		if !aerr.retry || ctx.Err() != nil {
			break
		}
	}
	return nil, last.err
}

// attempt makes one request.
func (c *Client) attempt(ctx context.Context, url string, limit int) (*response, *attemptError) {
	ctx, cancel := context.WithTimeout(ctx, c.opts.Timeout)
	defer cancel()
	unreachable := func(err error) *attemptError {
		var ue *neturl.Error
		if errors.As(err, &ue) {
			err = ue.Err // the address is in the message already
		}
		if errors.Is(err, errOffHost) {
			return &attemptError{err: fault.New(fault.ExitNetwork, "dcap.collateral.fetch.redirect",
				"name the service that answers by itself", "fetching %s: %w", url, err)}
		}
		return &attemptError{retry: true, err: fault.New(fault.ExitNetwork, "dcap.collateral.fetch.unreachable",
			"check the network and the address, or give the collateral as a file (--collateral)",
			"fetching %s: %w", url, err)}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
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
		return nil, statusError(url, res)
	}
	body, err := io.ReadAll(io.LimitReader(res.Body, int64(limit)+1))
	if err != nil {
		return nil, unreachable(err)
	}
	if len(body) > limit {
		return nil, &attemptError{err: &fault.Fault{Code: "dcap.collateral.fetch.too_large", Exit: fault.ExitNetwork,
			Msg: "fetching " + url, Expected: fmt.Sprintf("at most %d bytes", limit), Actual: "more",
			Remedy: "use Intel's service or another cache: this one does not answer as the API says"}}
	}
	return &response{header: res.Header, body: body}, nil
}

// statusError tells the PCS's answers apart (API v4, response codes).
func statusError(url string, res *http.Response) *attemptError {
	code, remedy, retry := "dcap.collateral.fetch.status", "check the address of the service", false
	switch s := res.StatusCode; {
	case s == http.StatusTooManyRequests:
		code, retry = "dcap.collateral.fetch.rate_limited", true
		remedy = "wait, or run a caching service (PCCS) and name it with --pcs"
	case s == http.StatusNotFound || s == 461 || s == 462:
		code = "dcap.collateral.fetch.not_found"
		remedy = "the service knows no such platform or evaluation: ask Intel's service, or check that the platform is a production one"
	case s == http.StatusGone:
		code = "dcap.collateral.fetch.gone"
		remedy = "this evaluation number is no longer published: ask for a later one"
	case s >= 500:
		code, retry = "dcap.collateral.fetch.server", true
		remedy = "try again later, or ask another service"
	}
	ae := &attemptError{retry: retry, err: &fault.Fault{Code: code, Exit: fault.ExitNetwork,
		Msg: "fetching " + url, Expected: "status 200", Actual: "status " + strconv.Itoa(res.StatusCode), Remedy: remedy}}
	if secs, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && secs > 0 && secs < 3600 {
		ae.after = time.Duration(secs) * time.Second
	}
	return ae
}

// backoff returns a delay with full jitter: uniform in (0, base·2ⁿ], at most
// limit.
func (c *Client) backoff(base, limit time.Duration, n int) time.Duration {
	d := limit
	if n < 20 && base<<n < limit {
		d = base << n
	}
	return time.Duration((1 - c.opts.Rand()) * float64(d))
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

package pcs

import (
	"context"
	"net/http"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/fetch"
)

// response is what one successful request brought.
type response struct {
	header http.Header
	body   []byte
}

// get fetches url with retries.
func (c *Client) get(ctx context.Context, url string, limit int) (*response, *fault.Fault) {
	g := &fetch.Getter{
		HTTP: c.http, Timeout: c.opts.Timeout, Attempts: c.opts.Attempts, RetryBase: c.opts.RetryBase, RetryMax: c.opts.RetryMax,
		Sleep: c.opts.Sleep, Rand: c.opts.Rand, Log: c.log, Prefix: "dcap.collateral.fetch", Status: meaning,
		Unreachable: "check the network and the address, or give the collateral as a file (--collateral)",
		TooLarge:    "use Intel's service or another cache: this one does not answer as the API says",
	}
	r, err := g.Do(ctx, fetch.Request{URL: url, Limit: limit})
	if err != nil {
		return nil, err
	}
	return &response{header: r.Header, body: r.Body}, nil
}

// meaning tells the PCS's answers apart (API v4, response codes).
func meaning(s int, _ []byte) (code, remedy string, retry bool) {
	switch {
	case s == http.StatusTooManyRequests:
		return "rate_limited", "wait, or run a caching service (PCCS) and name it with --pcs", true
	case s == http.StatusNotFound || s == 461 || s == 462:
		return "not_found", "the service knows no such platform or evaluation: ask Intel's service, or check that the platform is a production one", false
	case s == http.StatusGone:
		return "gone", "this evaluation number is no longer published: ask for a later one", false
	case s >= 500:
		return "server", "try again later, or ask another service", true
	}
	return "status", "check the address of the service", false
}

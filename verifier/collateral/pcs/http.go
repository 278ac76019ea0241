package pcs

import (
	"context"
	"fmt"
	"net/http"
	"strconv"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/fetch"
)

// get fetches url; its failures are faults.
func (c *Client) get(ctx context.Context, url string, limit int) (*fetch.Response, *fault.Fault) {
	resp, failure := c.fetch.Get(ctx, url, limit)
	if failure != nil {
		return nil, fetchFault(failure)
	}
	return resp, nil
}

// fetchFault gives a failed request its code.
func fetchFault(f *fetch.Failure) *fault.Fault {
	switch f.Kind {
	case fetch.BadStatus:
		return statusFault(f)
	case fetch.TooLarge:
		return &fault.Fault{Code: "dcap.collateral.fetch.too_large", Exit: fault.ExitNetwork,
			Msg: "fetching " + f.URL, Expected: fmt.Sprintf("at most %d bytes", f.Limit), Actual: "more",
			Remedy: "use Intel's service or another cache: this one does not answer as the API says"}
	case fetch.Redirected:
		return fault.New(fault.ExitNetwork, "dcap.collateral.fetch.redirect",
			"name the service that answers by itself", "fetching %s: %w", f.URL, f.Err)
	}
	return fault.New(fault.ExitNetwork, "dcap.collateral.fetch.unreachable",
		"check the network and the address, or give the collateral as a file (--collateral)",
		"fetching %s: %w", f.URL, f.Err)
}

// statusFault tells the PCS's answers apart (API v4, response codes).
func statusFault(f *fetch.Failure) *fault.Fault {
	code, remedy := "dcap.collateral.fetch.status", "check the address of the service"
	switch s := f.Status; {
	case s == http.StatusTooManyRequests:
		code = "dcap.collateral.fetch.rate_limited"
		remedy = "wait, or run a caching service (PCCS) and name it with --pcs"
	case s == http.StatusNotFound || s == 461 || s == 462:
		code = "dcap.collateral.fetch.not_found"
		remedy = "the service knows no such platform or evaluation: ask Intel's service, or check that the platform is a production one"
	case s == http.StatusGone:
		code = "dcap.collateral.fetch.gone"
		remedy = "this evaluation number is no longer published: ask for a later one"
	case s >= 500:
		code = "dcap.collateral.fetch.server"
		remedy = "try again later, or ask another service"
	}
	return &fault.Fault{Code: code, Exit: fault.ExitNetwork,
		Msg: "fetching " + f.URL, Expected: "status 200", Actual: "status " + strconv.Itoa(f.Status), Remedy: remedy}
}

// Package fetch is what the verifier's clients of vendors' services share:
// bounded HTTP requests with retries, a bounded map, files written whole. A
// URL comes in; a body within its limit, or a fault with a stable code, goes
// out. The service is not trusted: size and time are bounded and it cannot
// redirect elsewhere.
package fetch

import (
	"bytes"
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

// MaxHeader bounds a response's headers in bytes.
const MaxHeader = 64 << 10

// Response is what one successful request brought.
type Response struct {
	Header http.Header
	Body   []byte
}

// Getter makes requests. All fields but Header are needed.
type Getter struct {
	HTTP      *http.Client // see SameHost
	Timeout   time.Duration
	Attempts  int
	RetryBase time.Duration // first delay between attempts
	RetryMax  time.Duration // longest
	Sleep     func(context.Context, time.Duration) error
	Rand      func() float64 // uniform in [0, 1), for jitter
	Log       *slog.Logger
	Header    http.Header // sent along

	Prefix string // of codes, such as "dcap.collateral.fetch"
	// Unreachable and TooLarge are remedies.
	Unreachable, TooLarge string
	// Status names what an answer other than 200 means: the last part of the
	// code, a remedy, and whether to try again.
	Status func(status int, body []byte) (code, remedy string, retry bool)
}

// Request is one request. A nil Body makes a GET, another a POST.
type Request struct {
	URL    string
	Body   []byte
	Type   string // content type of Body
	Accept string
	Limit  int // of the answer's body, in bytes
}

// NewClient returns an HTTP client: TLS as Go has it, headers and time
// bounded. Bodies are bounded by Do.
func NewClient(timeout time.Duration) *http.Client {
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.MaxResponseHeaderBytes = MaxHeader
	tr.ResponseHeaderTimeout = timeout
	return &http.Client{Transport: tr}
}

// errOffHost is returned for a redirect that would leave the host (or its
// TLS): the server is not trusted to send us anywhere else.
var errOffHost = errors.New("redirect off the host")

// SameHost returns a copy of c that follows at most three redirects, all on
// the same scheme and host.
func SameHost(c *http.Client) *http.Client {
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

// Do makes a request with retries: network errors, and what Status says, are
// tried again after an exponential delay with full jitter, or what
// Retry-After asks.
func (g *Getter) Do(ctx context.Context, r Request) (*Response, *fault.Fault) {
	var last *attemptError
	for n := range g.Attempts {
		if n > 0 {
			d := max(Backoff(g.Rand, g.RetryBase, g.RetryMax, n-1), min(last.after, g.RetryMax))
			g.Log.LogAttrs(ctx, slog.LevelInfo, "request failed, trying again",
				slog.String("url", r.URL), slog.Int("attempt", n), slog.Duration("delay", d), slog.Any("error", last.err))
			if err := g.Sleep(ctx, d); err != nil {
				return nil, last.err
			}
		}
		resp, aerr := g.attempt(ctx, r)
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
func (g *Getter) attempt(ctx context.Context, r Request) (*Response, *attemptError) {
	ctx, cancel := context.WithTimeout(ctx, g.Timeout)
	defer cancel()
	unreachable := func(err error) *attemptError {
		var ue *neturl.Error
		if errors.As(err, &ue) {
			err = ue.Err // the address is in the message already
		}
		if errors.Is(err, errOffHost) {
			return &attemptError{err: fault.New(fault.ExitNetwork, g.Prefix+".redirect",
				"name the service that answers by itself", "fetching %s: %w", r.URL, err).Expect("an answer of this host")}
		}
		return &attemptError{retry: true, err: fault.New(fault.ExitNetwork, g.Prefix+".unreachable", g.Unreachable, "fetching %s: %w", r.URL, err).Expect("an answer")}
	}
	method, body := http.MethodGet, io.Reader(http.NoBody)
	if r.Body != nil {
		method, body = http.MethodPost, bytes.NewReader(r.Body)
	}
	req, err := http.NewRequestWithContext(ctx, method, r.URL, body)
	if err != nil {
		return nil, unreachable(err)
	}
	for k, v := range g.Header {
		req.Header[k] = v
	}
	req.Header.Set("User-Agent", "cocoon")
	if r.Type != "" {
		req.Header.Set("Content-Type", r.Type)
	}
	if r.Accept != "" {
		req.Header.Set("Accept", r.Accept)
	}
	res, err := g.HTTP.Do(req)
	if err != nil {
		return nil, unreachable(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		// Reading a little of an error's body lets the connection be used again.
		b, _ := io.ReadAll(io.LimitReader(res.Body, 4<<10))
		return nil, g.statusError(r.URL, res, b)
	}
	b, err := io.ReadAll(io.LimitReader(res.Body, int64(r.Limit)+1))
	if err != nil {
		return nil, unreachable(err)
	}
	if len(b) > r.Limit {
		return nil, &attemptError{err: &fault.Fault{Code: g.Prefix + ".too_large", Exit: fault.ExitNetwork,
			Msg: "fetching " + r.URL, Expected: fmt.Sprintf("at most %d bytes", r.Limit), Actual: "more", Remedy: g.TooLarge}}
	}
	return &Response{Header: res.Header, Body: b}, nil
}

func (g *Getter) statusError(url string, res *http.Response, body []byte) *attemptError {
	code, remedy, retry := g.Status(res.StatusCode, body)
	ae := &attemptError{retry: retry, err: &fault.Fault{Code: g.Prefix + "." + code, Exit: fault.ExitNetwork,
		Msg: "fetching " + url, Expected: "status 200", Actual: "status " + strconv.Itoa(res.StatusCode), Remedy: remedy}}
	if secs, err := strconv.Atoi(res.Header.Get("Retry-After")); err == nil && secs > 0 && secs < 3600 {
		ae.after = time.Duration(secs) * time.Second
	}
	return ae
}

// Backoff returns a delay with full jitter: uniform in (0, base·2ⁿ], at most
// limit. rand is uniform in [0, 1).
func Backoff(rand func() float64, base, limit time.Duration, n int) time.Duration {
	d := limit
	if n < 20 && base<<n < limit {
		d = base << n
	}
	return time.Duration((1 - rand()) * float64(d))
}

// Sleep waits for d or until ctx is done.
func Sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

package client

import (
	"context"
	"net"
	"net/http"
	"sync"
	"time"
)

// connectionLife is how long new requests use a connection. A connection was
// appraised when it was made; no verdict outlives one hour (DESIGN section 2),
// and a busy connection must not outlive its appraisal by much either.
const connectionLife = 10 * time.Minute

// Transport is a round tripper whose every connection is attested, and
// replaced by a freshly attested one after ten minutes. It is safe for
// concurrent use.
type Transport struct {
	c *Client

	mu    sync.Mutex
	inner *http.Transport
	since time.Time
}

// Transport returns a round tripper to the client's worker.
func (c *Client) Transport() *Transport { return &Transport{c: c} }

// RoundTrip implements http.RoundTripper.
func (t *Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	return t.current().RoundTrip(req)
}

// CloseIdleConnections closes connections that carry no request.
func (t *Transport) CloseIdleConnections() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inner != nil {
		t.inner.CloseIdleConnections()
	}
}

// current returns the connections in use, or new ones once these are old.
// Requests under way on old ones end undisturbed; idle, those close by
// themselves.
func (t *Transport) current() *http.Transport {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.c.opt.Clock()
	if t.inner != nil && now.Sub(t.since) < connectionLife {
		return t.inner
	}
	if t.inner != nil {
		t.inner.CloseIdleConnections()
	}
	t.since, t.inner = now, &http.Transport{
		DialTLSContext:        func(ctx context.Context, _, _ string) (net.Conn, error) { return t.c.Dial(ctx) },
		DisableCompression:    true, // receipts cover the bytes as sent
		MaxIdleConnsPerHost:   8,
		IdleConnTimeout:       90 * time.Second,
		ResponseHeaderTimeout: 5 * time.Minute,
	}
	return t.inner
}

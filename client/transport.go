package client

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"sync"
	"time"
)

// connectionLife is how long new requests use a connection. A connection was
// appraised when it was made; no verdict outlives one hour (DESIGN section 2),
// and a busy connection must not outlive its appraisal by much either.
const connectionLife = 10 * time.Minute

// What a worker answers that takes no more requests (docs/worker-api.md).
const (
	codeDraining = "worker.draining"
	maxErrorBody = 64 << 10
)

// Transport is a round tripper whose every connection is attested, and
// replaced by a freshly attested one after ten minutes, or once the worker takes
// no more requests and the client may pick another. It is safe for concurrent use.
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
	inner, worker := t.current(), t.c.picked()
	resp, err := inner.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusServiceUnavailable {
		return resp, err
	}
	if drains(resp) && t.c.leave(worker) {
		// The caller tries again, as 503 asks him to, and reaches another.
		t.retire(inner)
	}
	return resp, nil
}

// drains reports whether a worker says that it takes no more requests. The
// response stays whole.
func drains(resp *http.Response) bool {
	start, err := io.ReadAll(io.LimitReader(resp.Body, maxErrorBody))
	rest := io.Reader(resp.Body)
	if err != nil {
		rest = failedReader{err}
	}
	resp.Body = struct {
		io.Reader
		io.Closer
	}{io.MultiReader(bytes.NewReader(start), rest), resp.Body}
	var e struct{ Error struct{ Code string } }
	return json.Unmarshal(start, &e) == nil && e.Error.Code == codeDraining
}

type failedReader struct{ err error }

// Read implements io.Reader.
func (r failedReader) Read([]byte) (int, error) { return 0, r.err }

// retire makes new requests use new connections, if these are still in use.
func (t *Transport) retire(inner *http.Transport) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.inner == inner {
		t.inner = nil
		inner.CloseIdleConnections()
	}
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

package server

import (
	"errors"
	"io"
	"net/http"
	"net/netip"
	"os"
	"sync"
	"time"
)

// A caller has a place from before the first byte of his body, and gives it back
// with the answer. So a body that does not come would hold a place for as long
// as any body may take, and a few dozen of one caller's would hold all there
// are. Hence one caller has few that are on their way, and a body has to come at
// a pace.
const (
	// receiveShare is the part of a caller's burst that may be on its way at once,
	// and leastReceive the least of it.
	receiveShare = 4
	leastReceive = 4
	receivePace  = 64 << 10    // bytes a second, after Options.Receive
	receiveLook  = time.Second // how often the time that is left is set anew
	maxReceive   = time.Minute // whatever comes
)

// receiving counts the bodies on their way, by caller.
type receiving struct {
	max int
	mu  sync.Mutex
	n   map[netip.Prefix]int
}

func newReceiving(burst int) *receiving {
	return &receiving{max: max(leastReceive, burst/receiveShare), n: map[netip.Prefix]int{}}
}

// begin counts one more body of a caller, unless he has too many on their way.
func (c *receiving) begin(key netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[key] >= c.max {
		return false
	}
	c.n[key]++
	return true
}

func (c *receiving) end(key netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n[key]--; c.n[key] <= 0 {
		delete(c.n, key)
	}
}

// body is a request's that is on its way.
type body struct {
	io.ReadCloser
	s       *Server
	w       http.ResponseWriter
	proto   int // major
	control *http.ResponseController
	key     netip.Prefix
	start   time.Time
	looked  time.Time
	got     int64
	left    int64 // until all has come; negative: not known
	over    sync.Once
}

// receive bounds how long a request's body is on its way; false where its caller
// has too many. The function it returns ends that at the latest.
func (s *Server) receive(w http.ResponseWriter, r *http.Request) (end func(), ok bool) {
	key := clientPrefix(r)
	if !s.receiving.begin(key) {
		return nil, false
	}
	now := time.Now()
	b := &body{ReadCloser: r.Body, s: s, w: w, proto: r.ProtoMajor, control: http.NewResponseController(w), key: key, start: now, looked: now, left: r.ContentLength}
	b.until(now.Add(s.o.Receive))
	r.Body = b
	if b.left == 0 {
		b.arrived()
	}
	return b.end, true
}

// until sets when a read gives up. Where the connection has no such time the
// server's own holds.
func (b *body) until(t time.Time) {
	if err := b.control.SetReadDeadline(t); err != nil && !errors.Is(err, http.ErrNotSupported) {
		b.s.log.Debug("bounding a body", "error", err)
	}
}

// Read implements io.Reader.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	b.got += int64(n)
	if b.left > 0 {
		b.left -= int64(n)
	}
	if errors.Is(err, io.EOF) || b.left == 0 {
		b.arrived()
		return n, err
	}
	if errors.Is(err, os.ErrDeadlineExceeded) && b.proto == 1 {
		// What may still come of it is no next request.
		b.w.Header().Set("Connection", "close")
	}
	if now := time.Now(); err == nil && now.Sub(b.looked) >= min(receiveLook, b.s.o.Receive/2) {
		b.looked = now
		b.until(b.start.Add(min(maxReceive, b.s.o.Receive+time.Duration(b.got)*time.Second/receivePace)))
	}
	return n, err
}

// arrived is once all has come: what is decided then may take longer than a
// body.
func (b *body) arrived() {
	b.until(time.Time{})
	b.end()
}

// end counts it no longer, also where its rest is not waited for.
func (b *body) end() { b.over.Do(func() { b.s.receiving.end(b.key) }) }

package server

import (
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// limiter gives every client address a bucket of requests. It keeps a bounded
// number of buckets; where that is full and no idle one can be dropped, new
// clients share one.
type limiter struct {
	rate  rate.Limit
	burst int
	max   int

	mu      sync.Mutex
	clients map[netip.Prefix]*client
	rest    *rate.Limiter
}

type client struct {
	bucket *rate.Limiter
	seen   time.Time
}

// idle is after how long a full bucket is dropped.
const idle = time.Minute

func newLimiter(perSecond float64, burst, maxClients int) *limiter {
	return &limiter{rate: rate.Limit(perSecond), burst: burst, max: maxClients,
		clients: map[netip.Prefix]*client{}, rest: rate.NewLimiter(rate.Limit(perSecond), burst)}
}

// allow takes one request from the client's bucket.
func (l *limiter) allow(r *http.Request, now time.Time) bool {
	key := clientPrefix(r)
	l.mu.Lock()
	c := l.clients[key]
	if c == nil {
		if len(l.clients) >= l.max {
			l.sweep(now)
		}
		if len(l.clients) >= l.max {
			l.mu.Unlock()
			return l.rest.AllowN(now, 1)
		}
		c = &client{bucket: rate.NewLimiter(l.rate, l.burst)}
		l.clients[key] = c
	}
	c.seen = now
	l.mu.Unlock()
	return c.bucket.AllowN(now, 1)
}

func (l *limiter) sweep(now time.Time) {
	for k, c := range l.clients {
		if now.Sub(c.seen) > idle && c.bucket.TokensAt(now) >= float64(l.burst) {
			delete(l.clients, k)
		}
	}
}

// clientPrefix returns what counts as one client: an IPv4 address, or the /64
// of an IPv6 address, which is what one subscriber has. Headers that a client
// can write are not looked at.
func clientPrefix(r *http.Request) netip.Prefix {
	host, _, err := net.SplitHostPort(r.RemoteAddr)
	if err != nil {
		return netip.Prefix{}
	}
	a, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Prefix{}
	}
	a = a.Unmap().WithZone("")
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	p, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

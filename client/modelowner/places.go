package modelowner

import (
	"net/netip"
	"sync"
)

// places are those of requests that are read and appraised. A request has one
// from before its body has come, so that no caller may have them all: bodies
// that do not come would keep every enclave from its key.
type places struct {
	mu  sync.Mutex
	all int
	of  map[netip.Prefix]int
}

// enter takes a place, unless there is none for this caller.
func (p *places) enter(remote string) (leave func(), ok bool) {
	from := network(remote)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.all >= DefaultConcurrent || p.of[from] >= perCaller {
		return nil, false
	}
	p.all++
	p.of[from]++
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.all--
		if p.of[from]--; p.of[from] == 0 {
			delete(p.of, from)
		}
	}, true
}

// network is one caller's: an IPv4 address, or the /64 of an IPv6 one. What is
// no address is one caller, too.
func network(remote string) netip.Prefix {
	at, err := netip.ParseAddrPort(remote)
	if err != nil {
		return netip.Prefix{}
	}
	a := at.Addr().Unmap().WithZone("")
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

// Package vsockport numbers the vsock ports between a host and its guests.
//
// In go the guest's context identifier (CID) and what is carried; out comes a
// port of 32 bits. With the kernel's vhost all guests of a host share the
// host's ports, so the low byte of the CID is the port's first: the host gives
// its guests CIDs that differ in it.
package vsockport

import (
	"fmt"
	"net/netip"
)

// Host is the CID under which a guest reaches its host (vsock(7),
// VMADDR_CID_HOST).
const Host = 2

// CIDs that a guest may have; 0 to 2 are reserved, and the low byte must tell
// guests apart.
const (
	MinCID = 3
	MaxCID = 254 // 255 would make the wildcard port
)

// Net is the network of the addresses that forwards stand for; the last byte
// is what a port has room for.
var Net = netip.MustParsePrefix("10.0.2.0/24")

// Status is where the host takes the guest's status lines.
func Status(cid uint32) uint32 { return cid<<24 | 1 }

// Document is where the guest gives its status document to the host; it is a
// port of the guest.
const Document = 1025

// Forward is where the host takes connections for an address in Net.
func Forward(cid uint32, to netip.AddrPort) (uint32, error) {
	if !to.Addr().Is4() || !Net.Contains(to.Addr()) || to.Port() == 0 {
		return 0, fmt.Errorf("numbering a vsock port: %s is not a port in %s", to, Net)
	}
	octet := to.Addr().As4()[3]
	if octet == 0 {
		return 0, fmt.Errorf("numbering a vsock port: %s is the network itself", to)
	}
	return cid<<24 | uint32(octet)<<16 | uint32(to.Port()), nil
}

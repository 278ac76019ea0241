package vsockport

import (
	"net/netip"
	"testing"
)

func TestPortsOfTwoGuestsNeverMeet(t *testing.T) {
	seen := map[uint32]string{}
	for _, cid := range []uint32{MinCID, MinCID + 1, MaxCID} {
		ports := map[string]uint32{"status": Status(cid)}
		for _, to := range []string{"10.0.2.1:1", "10.0.2.100:443", "10.0.2.100:444", "10.0.2.101:443", "10.0.2.255:65535"} {
			p, err := Forward(cid, netip.MustParseAddrPort(to))
			if err != nil {
				t.Fatal(err)
			}
			ports[to] = p
		}
		for name, p := range ports {
			if old, dup := seen[p]; dup {
				t.Errorf("port %#x is that of %s and of %s of CID %d", p, old, name, cid)
			}
			seen[p] = name
			if p < 1024 || p == ^uint32(0) {
				t.Errorf("port %#x of %s is privileged or a wildcard", p, name)
			}
		}
	}
}

func TestWhatHasNoPort(t *testing.T) {
	for _, to := range []string{"10.0.3.1:443", "10.0.2.0:443", "10.0.2.1:0", "[::1]:443"} {
		if p, err := Forward(3, netip.MustParseAddrPort(to)); err == nil {
			t.Errorf("%s got port %#x", to, p)
		}
	}
}

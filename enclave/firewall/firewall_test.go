package firewall

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

func ap(s string) netip.AddrPort { return netip.MustParseAddrPort(s) }

func TestFlowsAreTheEndpointsOfTheDocumentsAndNothingElse(t *testing.T) {
	got, err := Flows(&evidence.Operator{Verifier: "http://10.0.2.101", Gateways: []string{"10.0.2.100:443", "192.0.2.7:8443"}}, []string{"10.0.2.102:4924"})
	if err != nil {
		t.Fatal(err)
	}
	want := []Flow{
		{"verifier", ap("10.0.2.101:80")}, {"gateway", ap("10.0.2.100:443")}, {"gateway", ap("192.0.2.7:8443")},
		{"lite-server", ap("10.0.2.102:4924")},
	}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" {
		t.Error(diff)
	}
	if got, err := Flows(&evidence.Operator{Verifier: "https://192.0.2.1/v1"}, nil); err != nil || got[0].To.Port() != 443 {
		t.Errorf("got %v, %v", got, err)
	}
	got, err = Flows(&evidence.Operator{Sealer: "10.0.2.103:4433", ModelKeys: "http://10.0.2.104", Handover: "10.0.2.105:4434"}, nil)
	want = []Flow{{"sealing enclave", ap("10.0.2.103:4433")}, {"model keys", ap("10.0.2.104:80")}, {"hand-over", ap("10.0.2.105:4434")}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" || err != nil {
		t.Error(diff, err)
	}
	got, err = Flows(&evidence.Operator{ModelKeys: "http://10.0.2.104", Models: map[string]evidence.OperatorModel{
		"a": {ModelKeys: "http://10.0.2.106:81"}, "b": {Price: 1}, "c": {ModelKeys: "http://10.0.2.104"}}}, nil)
	want = []Flow{{"model keys", ap("10.0.2.104:80")}, {"model keys", ap("10.0.2.106:81")}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.AddrPort) bool { return a == b })); diff != "" || err != nil {
		t.Error(diff, err)
	}
	if got, err := Flows(&evidence.Operator{}, nil); err != nil || len(got) != 0 {
		t.Errorf("no endpoints: got %v, %v", got, err)
	}
}

func TestWhatIsNoServerIsRefusedAndAllAtOnce(t *testing.T) {
	_, err := Flows(&evidence.Operator{Verifier: "ftp://10.0.2.101", ModelKeys: "http://keys.example", Gateways: []string{
		"gateway.example:443", "10.0.2.100", "10.0.2.100:0", "0.0.0.0:80", "127.0.0.1:80", "[::1]:80", "224.0.0.1:80",
	}}, []string{"lite:1"})
	if n := len(fault.All(err)); n != 10 || !fault.Has(err, CodeFlow) {
		t.Errorf("%d faults: %v", n, err)
	}
}

// network makes two network namespaces joined by a cable, 10.0.2.15 (the
// calling thread's) and the peer with several addresses, and returns a
// function that runs in the peer's.
func network(t *testing.T) (peer func(func())) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	other, err := netns.New()
	must(err)
	mine, err := netns.New()
	must(err)
	t.Cleanup(func() { other.Close(); mine.Close() })
	must(netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "eth1"}))
	l, err := netlink.LinkByName("eth1")
	must(err)
	must(netlink.LinkSetNsFd(l, int(other)))
	up := func(name string, addrs ...string) {
		l, err := netlink.LinkByName(name)
		must(err)
		for _, a := range addrs {
			addr, err := netlink.ParseAddr(a)
			must(err)
			must(netlink.AddrAdd(l, addr))
		}
		must(netlink.LinkSetUp(l))
	}
	up("eth0", "10.0.2.15/24")
	up("lo")
	peer = func(f func()) {
		must(netns.Set(other))
		defer func() { must(netns.Set(mine)) }()
		f()
	}
	peer(func() { up("eth1", "10.0.2.100/24", "10.0.2.101/24"); up("lo") })
	if _, err := (&nftables.Conn{}).ListTables(); err != nil {
		t.Skipf("this kernel has no nftables: %v", err)
	}
	return peer
}

// listen opens a TCP listener in the thread's namespace, and accepts.
func listen(t *testing.T, addr string) {
	t.Helper()
	l, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte("hello"))
			c.Close()
		}
	}()
}

// reach dials in the thread's namespace. A socket belongs to the namespace in
// which it is made, so it is made by hand: net.Dial may change threads.
// What should come has as long as a busy machine takes; what should not come is
// not waited for that long.
func reach(t *testing.T, addr string, patience time.Duration) error {
	t.Helper()
	a := ap(addr)
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	err = unix.Connect(fd, &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())})
	if errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.EINTR) {
		if err = await(fd, unix.POLLOUT, patience); err == nil {
			var no int
			if no, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); err == nil && no != 0 {
				err = unix.Errno(no)
			}
		}
	}
	if err != nil {
		return err
	}
	if err := await(fd, unix.POLLIN, patience); err != nil {
		return err
	}
	buf := make([]byte, 5)
	n, err := unix.Read(fd, buf)
	if err == nil && string(buf[:n]) != "hello" {
		t.Errorf("read %q", buf[:n])
	}
	return err
}

// await waits for an event of a socket. The runtime's signals end a poll early,
// which is neither an answer nor the end of patience.
func await(fd int, event int16, patience time.Duration) error {
	for end := time.Now().Add(patience); ; {
		left := max(time.Until(end), 0)
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: event}}, int(left.Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n > 0:
			return nil
		case time.Now().After(end):
			return unix.ETIMEDOUT
		}
	}
}

const (
	open   = 30 * time.Second
	closed = 300 * time.Millisecond
)

// TestTheKernelCarriesOnlyTheFlows sends real packets through real rules.
func TestTheKernelCarriesOnlyTheFlows(t *testing.T) {
	peer := network(t)
	peer(func() {
		listen(t, "10.0.2.100:443")
		listen(t, "10.0.2.100:80")
		listen(t, "10.0.2.101:443")
	})
	listen(t, "10.0.2.15:22")
	listen(t, "127.0.0.1:5000")
	if err := reach(t, "10.0.2.100:443", open); err != nil {
		t.Fatalf("without rules: %v", err)
	}
	peer(func() {
		if err := reach(t, "10.0.2.15:22", open); err != nil {
			t.Fatalf("without rules: %v", err)
		}
	})
	must := func(addr string, want bool, why string) {
		t.Helper()
		patience := closed
		if want {
			patience = open
		}
		if err := reach(t, addr, patience); (err == nil) != want {
			t.Errorf("%s (%s): %v", addr, why, err)
		}
	}
	if err := Close(); err != nil {
		t.Fatal(err)
	}
	must("10.0.2.100:443", false, "closed")
	must("127.0.0.1:5000", true, "loopback")
	for range 2 { // replacing the rules leaves none behind
		if err := Apply([]Flow{{"gateway", ap("10.0.2.100:443")}}); err != nil {
			t.Fatal(err)
		}
		must("10.0.2.100:443", true, "the flow")
		must("10.0.2.100:80", false, "another port of the server")
		must("10.0.2.101:443", false, "another server")
		must("127.0.0.1:5000", true, "loopback")
		peer(func() { must("10.0.2.15:22", false, "from outside") })
	}
	// A server that may be dialled does not get in by using its own port.
	peer(func() {
		fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1); err != nil {
			t.Fatal(err)
		}
		if err := unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 0, 2, 101}, Port: 443}); err == nil {
			t.Log("bound beside the listener")
		}
		_ = unix.Connect(fd, &unix.SockaddrInet4{Addr: [4]byte{10, 0, 2, 15}, Port: 22})
		if err := await(fd, unix.POLLOUT, closed); !errors.Is(err, unix.ETIMEDOUT) {
			t.Errorf("a server got in from its own port: %v", err)
		}
	})
	udp, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(udp)
	if err := unix.Sendto(udp, []byte("x"), 0, &unix.SockaddrInet4{Addr: [4]byte{10, 0, 2, 100}, Port: 443}); !errors.Is(err, unix.EPERM) {
		t.Errorf("a datagram to an allowed server: got %v, want EPERM", err)
	}
	if err := Close(); err != nil {
		t.Fatal(err)
	}
	must("10.0.2.100:443", false, "closed again")
}

// A table that somebody else left could accept what ours drops first.
func TestAnotherTableIsRefused(t *testing.T) {
	network(t)
	c := &nftables.Conn{}
	c.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "other"})
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := Apply(nil); !fault.Has(err, CodeOpen) {
		t.Errorf("got %v, want %s", err, CodeOpen)
	}
}

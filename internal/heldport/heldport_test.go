package heldport

import (
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestWhoeverNamesAHeldPortCanListen(t *testing.T) {
	p, err := Hold("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", p.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := p.Release(); err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", p.String())
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	if again, err := Hold(l.Addr().String()); err == nil {
		t.Errorf("%s is held beside its listener", again)
	}
}

func TestWhatIsNoAddressIsNotHeld(t *testing.T) {
	for _, addr := range []string{"127.0.0.1", "127.0.0.1:http-not", "[::1]:0", "192.0.2.1:0"} {
		if p, err := Hold(addr); err == nil {
			t.Errorf("%q: held %s", addr, p)
		}
	}
}

// A network with very few ports of which one is held: nobody is given it.
func TestNobodyIsGivenAHeldPort(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	runtime.LockOSThread() // never unlocked: the thread ends with the test
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("this kernel makes no network namespace: %v", err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte("40000 40003"), 0); err != nil {
		t.Skipf("the ports cannot be set: %v", err)
	}
	up(t)
	held, err := Hold("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = held.Release() })
	given := 0
	for range 8 {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			if !strings.Contains(err.Error(), "address already in use") {
				t.Fatal(err)
			}
			break // all are
		}
		t.Cleanup(func() { l.Close() })
		given++
		if l.Addr().(*net.TCPAddr).Port == held.Addr.Port {
			t.Errorf("port %d was given away", held.Addr.Port)
		}
	}
	if given == 0 {
		t.Error("no port is left")
	}
}

// up starts the namespace's loopback device.
func up(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		t.Fatal(err)
	}
	req.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req); err != nil {
		t.Fatal(err)
	}
}

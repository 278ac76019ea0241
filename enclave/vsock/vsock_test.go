package vsock

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"testing/fstest"
	"time"

	"cocoon/internal/heldport"
	"cocoon/internal/vsockport"
)

func TestPresent(t *testing.T) {
	if Present(fstest.MapFS{driverDir + "/bind": {}}) {
		t.Error("a driver without a device counts as one")
	}
	if !Present(fstest.MapFS{driverDir + "/virtio4/device": {}}) {
		t.Error("the device is not seen")
	}
}

func TestAttached(t *testing.T) {
	device := func(ids ...string) fstest.MapFS {
		sys := fstest.MapFS{}
		for i, id := range ids {
			sys["bus/virtio/devices/virtio"+string(rune('0'+i))+"/device"] = &fstest.MapFile{Data: []byte(id + "\n")}
		}
		return sys
	}
	if Attached(device()) || Attached(device("0x0001", "0x0002")) {
		t.Error("other devices count as one")
	}
	if !Attached(device("0x0002", "0x0013")) {
		t.Error("the device is not seen")
	}
}

// unixHost is a host whose ports are UNIX sockets.
func unixHost(t *testing.T, port uint32) (*Host, net.Listener) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return &Host{cid: 3, dial: func(got uint32) (net.Conn, error) {
		if got != port {
			return nil, errors.New("another port")
		}
		return net.Dial("unix", path)
	}}, l
}

func TestForwardCarriesBothWaysAndBothEnds(t *testing.T) {
	restore := vsockport.Net
	vsockport.Net = netip.MustParsePrefix("127.0.0.0/24")
	defer func() { vsockport.Net = restore }()
	held, err := heldport.Hold("127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer held.Release()
	to := held.Addr.AddrPort()
	port, err := vsockport.Forward(3, to)
	if err != nil {
		t.Fatal(err)
	}
	host, l := unixHost(t, port)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	if err := host.Forward(ctx, to, func(err error) { t.Error(err) }); err != nil {
		t.Fatal(err)
	}
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b, _ := io.ReadAll(c) // until the guest has ended its half
		_, _ = c.Write(append([]byte("got "), b...))
	}()
	c, err := net.Dial("tcp4", to.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != "got hello" {
		t.Errorf("read %q, %v", b, err)
	}
	cancel()
	for { // the listener goes with its context
		c, err := net.Dial("tcp4", to.String())
		if err != nil {
			break
		}
		c.Close()
	}
}

func TestAnAddressOutsideTheForwardsIsRefused(t *testing.T) {
	host, _ := unixHost(t, 1)
	if err := host.Forward(t.Context(), netip.MustParseAddrPort("192.0.2.1:443"), nil); err == nil {
		t.Error("it was forwarded")
	}
}

func TestTheDocumentIsGivenWithoutAQuestion(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "status.json")
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	serve(ctx, l, path)
	for _, want := range []string{"", `{"state":"booting"}`} { // before there is one, and after
		if want != "" {
			if err := os.WriteFile(path, []byte(want), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		c, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		_ = c.SetDeadline(time.Now().Add(time.Minute))
		if b, err := io.ReadAll(c); err != nil || string(b) != want {
			t.Errorf("read %q, %v, want %q", b, err, want)
		}
		c.Close()
	}
}

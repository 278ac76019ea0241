package vsock

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/imagetest"
	"cocoon/internal/vsockport"
)

func TestProbe(t *testing.T) {
	there := filepath.Join(t.TempDir(), "vhost-vsock")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	absent := there + "-not"
	for _, c := range []struct{ name, want, device, transport, code string }{
		{"a host with the device", Auto, there, Kernel, ""},
		{"nothing said, a host with the device", "", there, Kernel, ""},
		{"a host without it", Auto, absent, Serial, ""},
		{"asked for and absent", Kernel, absent, "", "vm.vsock.absent"},
		{"asked for the old way", Serial, there, Serial, ""},
		{"asked for the user-space device", User, there, User, ""},
		{"something unknown", "pigeon", there, "", "hostd.config.malformed"},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, why, err := Probe(c.want, c.device)
			if got != c.transport || (c.code == "") != (err == nil) || err == nil && why == "" {
				t.Errorf("got %q, %q, %v", got, why, err)
			}
			if c.code != "" && !fault.Has(err, c.code) {
				t.Errorf("got %v, want %s", err, c.code)
			}
		})
	}
}

func TestTheAnswerOfTheDeviceIsReadToTheLineAndNoFurther(t *testing.T) {
	r := strings.NewReader("OK 1024\nguest's")
	line, err := readLine(r)
	rest, _ := io.ReadAll(r)
	if err != nil || line != "OK 1024" || string(rest) != "guest's" {
		t.Errorf("line %q, rest %q, %v", line, rest, err)
	}
	for _, text := range []string{"", "OK", strings.Repeat("x", 100) + "\n"} {
		if line, err := readLine(strings.NewReader(text)); err == nil {
			t.Errorf("%.10q: got %q", text, line)
		}
	}
}

// TestTheUserSpaceDevice starts the real device without a machine behind it.
func TestTheUserSpaceDevice(t *testing.T) {
	tools := imagetest.Tools(t)
	h, err := NewUser(t.Context(), tools)
	if err != nil {
		t.Fatal(err)
	}
	u := h.(*user)
	if h.CID() < vsockport.MinCID || h.QEMU() == nil {
		t.Errorf("CID %d, control channel %v", h.CID(), h.QEMU())
	}
	l, err := h.Listen(vsockport.Status(h.CID()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if c, err := h.Dial(ctx, vsockport.Document); err == nil {
		c.Close()
		t.Error("a machine that is not there answered")
	}
	if err := h.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(u.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the sockets are left: %v", err)
	}
	select {
	case <-u.child.Done():
	case <-time.After(time.Minute):
		t.Error("the device runs on")
	}
	l.Close()
}

// addr is the address of a connection that has none of vsock's.
type addr struct{ net.Conn }

func (addr) RemoteAddr() net.Addr { return &net.UnixAddr{Name: "x", Net: "unix"} }
func (addr) Close() error         { return nil }

type one struct{ left int }

func (o *one) Accept() (net.Conn, error) {
	if o.left--; o.left < 0 {
		return nil, net.ErrClosed
	}
	return addr{}, nil
}
func (*one) Close() error   { return nil }
func (*one) Addr() net.Addr { return nil }

func TestConnectionsOfOthersAreTurnedAway(t *testing.T) {
	if c, err := (only{&one{3}, 7}).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("got %v, %v", c, err)
	}
}

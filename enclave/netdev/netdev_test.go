package netdev

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type fake struct {
	links []Link
	after int // calls of List before the links are there
	calls []string
	fail  string
}

func (f *fake) List() ([]Link, error) {
	if f.after > 0 {
		f.after--
		return []Link{{Index: 1, Name: "lo", Loopback: true}}, nil
	}
	return f.links, nil
}

func (f *fake) do(call string) error {
	f.calls = append(f.calls, call)
	if call == f.fail {
		return errors.New("refused")
	}
	return nil
}
func (f *fake) Up(i int) error { return f.do(fmt.Sprintf("up %d", i)) }
func (f *fake) SetAddress(i int, a netip.Prefix) error {
	return f.do(fmt.Sprintf("address %d %s", i, a))
}
func (f *fake) DefaultRoute(i int, g netip.Addr) error { return f.do(fmt.Sprintf("route %d %s", i, g)) }

var both = []Link{{Index: 3, Name: "eth1", Ethernet: true}, {Index: 2, Name: "eth0", Ethernet: true}, {Index: 1, Name: "lo", Loopback: true, Ethernet: false}}

func TestSetupBringsUpLoopbackAndTheFirstDevice(t *testing.T) {
	f := &fake{links: both}
	if err := Setup(context.Background(), f, Default()); err != nil {
		t.Fatal(err)
	}
	want := []string{"up 1", "address 2 10.0.2.15/24", "up 2", "route 2 10.0.2.2"}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
}

func TestSetupWaitsForADevice(t *testing.T) {
	f := &fake{links: both, after: 2}
	if err := Setup(context.Background(), f, Default()); err != nil {
		t.Fatal(err)
	}
	if len(f.calls) != 6 {
		t.Errorf("calls are %v", f.calls)
	}
}

func TestNoDeviceIsAnErrorInTime(t *testing.T) {
	c := Default()
	c.Wait = time.Millisecond
	if err := Setup(context.Background(), &fake{}, c); !errors.Is(err, ErrNoDevice) {
		t.Errorf("got %v, want ErrNoDevice", err)
	}
}

func TestEachFailureIsReported(t *testing.T) {
	for _, call := range []string{"up 1", "address 2 10.0.2.15/24", "up 2", "route 2 10.0.2.2"} {
		if err := Setup(context.Background(), &fake{links: both, fail: call}, Default()); err == nil {
			t.Errorf("a failing %q passed", call)
		}
	}
}

func TestWithVsockOnlyTheLoopbackDeviceIsTouched(t *testing.T) {
	f := &fake{links: both}
	if err := errors.Join(Loopback(f), AddLoopback(f, netip.MustParseAddr("10.0.2.100"))); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"up 1", "address 1 10.0.2.100/32"}, f.calls); diff != "" {
		t.Errorf("calls (-want +got):\n%s", diff)
	}
	for _, f := range []*fake{{}, {links: both, fail: "up 1"}} {
		if err := Loopback(f); err == nil {
			t.Error("a loopback device that is not up passed")
		}
	}
	for _, f := range []*fake{{}, {links: both, fail: "address 1 10.0.2.100/32"}} {
		if err := AddLoopback(f, netip.MustParseAddr("10.0.2.100")); err == nil {
			t.Error("an address that is not set passed")
		}
	}
}

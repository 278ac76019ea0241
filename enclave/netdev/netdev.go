// Package netdev brings up the guest's network: the loopback device, and one
// Ethernet device with the fixed address of QEMU's user network. There is no
// DHCP and no resolver: the host is untrusted, and every peer that matters
// proves itself above TCP.
package netdev

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sort"
	"time"

	"github.com/vishvananda/netlink"
)

// Address and gateway of the guest in QEMU's user network (qemu-options,
// "-netdev user": 10.0.2.15 is the first lease, 10.0.2.2 the host).
var (
	guestAddr   = netip.MustParsePrefix("10.0.2.15/24")
	gatewayAddr = netip.MustParseAddr("10.0.2.2")
)

// Config is the network to set up.
type Config struct {
	Address netip.Prefix
	Gateway netip.Addr
	Wait    time.Duration // how long to wait for the device to appear
}

// Default returns the configuration for QEMU's user network.
func Default() Config {
	return Config{Address: guestAddr, Gateway: gatewayAddr, Wait: 10 * time.Second}
}

// Link is a network device.
type Link struct {
	Index    int
	Name     string
	Loopback bool
	Ethernet bool
}

// Links is what this package asks of the kernel.
type Links interface {
	List() ([]Link, error)
	Up(index int) error
	SetAddress(index int, addr netip.Prefix) error
	DefaultRoute(index int, gateway netip.Addr) error
}

// ErrNoDevice is returned when no Ethernet device appears in time.
var ErrNoDevice = errors.New("no network device")

// Loopback brings up the loopback device.
func Loopback(l Links) error {
	links, err := l.List()
	if err != nil {
		return fmt.Errorf("listing network devices: %w", err)
	}
	for _, dev := range links {
		if dev.Loopback {
			if err := l.Up(dev.Index); err != nil {
				return fmt.Errorf("bringing up %s: %w", dev.Name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("looking for the loopback device: %w", ErrNoDevice)
}

// AddLoopback makes an address the loopback device's.
func AddLoopback(l Links, addr netip.Addr) error {
	links, err := l.List()
	if err != nil {
		return fmt.Errorf("listing network devices: %w", err)
	}
	for _, dev := range links {
		if dev.Loopback {
			if err := l.SetAddress(dev.Index, netip.PrefixFrom(addr, addr.BitLen())); err != nil {
				return fmt.Errorf("setting address %s on %s: %w", addr, dev.Name, err)
			}
			return nil
		}
	}
	return fmt.Errorf("looking for the loopback device: %w", ErrNoDevice)
}

// Setup brings up the loopback device and the first Ethernet device, by
// index.
func Setup(ctx context.Context, l Links, c Config) error {
	ctx, cancel := context.WithTimeout(ctx, c.Wait)
	defer cancel()
	for {
		links, err := l.List()
		if err != nil {
			return fmt.Errorf("listing network devices: %w", err)
		}
		sort.Slice(links, func(i, j int) bool { return links[i].Index < links[j].Index })
		for _, dev := range links {
			if dev.Loopback {
				if err := l.Up(dev.Index); err != nil {
					return fmt.Errorf("bringing up %s: %w", dev.Name, err)
				}
			}
		}
		for _, dev := range links {
			if !dev.Loopback && dev.Ethernet {
				return ethernet(l, dev, c)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("waiting for a network device: %w", ErrNoDevice)
		case <-time.After(50 * time.Millisecond):
		}
	}
}

func ethernet(l Links, dev Link, c Config) error {
	if err := l.SetAddress(dev.Index, c.Address); err != nil {
		return fmt.Errorf("setting address %s on %s: %w", c.Address, dev.Name, err)
	}
	if err := l.Up(dev.Index); err != nil {
		return fmt.Errorf("bringing up %s: %w", dev.Name, err)
	}
	if err := l.DefaultRoute(dev.Index, c.Gateway); err != nil {
		return fmt.Errorf("setting route through %s: %w", c.Gateway, err)
	}
	return nil
}

// Netlink is the running kernel.
type Netlink struct{}

// List returns all devices.
func (Netlink) List() ([]Link, error) {
	links, err := netlink.LinkList()
	if err != nil {
		return nil, err
	}
	out := make([]Link, 0, len(links))
	for _, l := range links {
		a := l.Attrs()
		out = append(out, Link{
			Index: a.Index, Name: a.Name,
			Loopback: a.Flags&net.FlagLoopback != 0,
			Ethernet: a.EncapType == "ether",
		})
	}
	return out, nil
}

// Up sets the device up.
func (Netlink) Up(index int) error {
	return netlink.LinkSetUp(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}})
}

// SetAddress gives the device the address.
func (Netlink) SetAddress(index int, addr netip.Prefix) error {
	return netlink.AddrReplace(&netlink.Device{LinkAttrs: netlink.LinkAttrs{Index: index}},
		&netlink.Addr{IPNet: &net.IPNet{IP: addr.Addr().AsSlice(), Mask: net.CIDRMask(addr.Bits(), addr.Addr().BitLen())}})
}

// DefaultRoute sends everything else through the gateway.
func (Netlink) DefaultRoute(index int, gateway netip.Addr) error {
	return netlink.RouteReplace(&netlink.Route{LinkIndex: index, Gw: gateway.AsSlice(), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}})
}

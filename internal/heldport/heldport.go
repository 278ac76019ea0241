// Package heldport keeps a TCP port for a server that starts later.
//
// A port that was found free and let go is anybody's: the kernel may give it to
// the next connection that leaves the machine. Here a socket stays bound to it
// without listening. Both it and a listener, as package net makes one, allow
// their address to be used again (SO_REUSEADDR), so that whoever names the port
// can listen on it, and nobody gets it who asks for any port.
package heldport

import (
	"fmt"
	"net"

	"golang.org/x/sys/unix"
)

// Port is a port that is held.
type Port struct {
	Addr net.TCPAddr // IPv4

	fd int
}

// Hold holds an IPv4 address, host:port; port 0 is one that is free. It fails
// where somebody listens already.
func Hold(addr string) (*Port, error) {
	at, err := net.ResolveTCPAddr("tcp4", addr)
	if err != nil {
		return nil, fmt.Errorf("holding %s: %w", addr, err)
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("holding %s: %w", addr, err)
	}
	p := &Port{fd: fd}
	if err := p.bind(at); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("holding %s: %w", addr, err)
	}
	return p, nil
}

func (p *Port) bind(at *net.TCPAddr) error {
	if err := unix.SetsockoptInt(p.fd, unix.SOL_SOCKET, unix.SO_REUSEADDR, 1); err != nil {
		return err
	}
	sa := &unix.SockaddrInet4{Port: at.Port}
	copy(sa.Addr[:], at.IP.To4()) // no address is every address
	if err := unix.Bind(p.fd, sa); err != nil {
		return err
	}
	got, err := unix.Getsockname(p.fd)
	if err != nil {
		return err
	}
	in := got.(*unix.SockaddrInet4) // of an IPv4 socket
	p.Addr = net.TCPAddr{IP: net.IP(in.Addr[:]), Port: in.Port}
	return nil
}

// String returns host:port.
func (p *Port) String() string { return p.Addr.String() }

// Release lets the port go; call it once its server listens.
func (p *Port) Release() error { return unix.Close(p.fd) }

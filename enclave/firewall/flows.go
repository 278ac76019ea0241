// Package firewall closes the guest's network in both directions but for the
// flows that its documents name. In go the operator's endpoints and the
// ledger's servers; out comes one nftables table (linux/netfilter/nf_tables.h)
// that drops everything else.
//
// The endpoints are the host's word, and the host carries every packet anyway:
// what the firewall keeps is that no program in the guest, whatever is wrong
// with it, reaches or is reached by anything beside them.
package firewall

import (
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// Code of the fault for an endpoint that cannot be a flow.
const CodeFlow = "firewall.flow"

// MaxFlows bounds the flows of a machine: verifier, sealing enclave, model keys, 16
// gateways and the lite-servers of a network config.
const MaxFlows = 512

// Flow is one server that the guest may open TCP connections to.
type Flow struct {
	Name string // for people: verifier, gateway, sealing enclave, model keys, hand-over, lite-server
	To   netip.AddrPort
}

// Flows returns the flows that the documents name. There is no resolver in
// the guest, so every endpoint is an IPv4 address.
func Flows(op *evidence.Operator, liteServers []string) ([]Flow, error) {
	var out []Flow
	var errs []error
	add := func(name, hostport string) {
		to, err := netip.ParseAddrPort(hostport)
		switch {
		case err == nil && to.Addr().Is4() && to.Port() != 0 && !to.Addr().IsUnspecified() && !to.Addr().IsMulticast() && !to.Addr().IsLoopback():
			out = append(out, Flow{Name: name, To: to})
		default:
			errs = append(errs, fault.New(fault.ExitParse, CodeFlow, "name servers by IPv4 address and port; the guest has no resolver",
				"allowing a flow to the %s: %.128q is not the address and port of a server", name, hostport))
		}
	}
	addURL := func(name, url string) {
		if hostport, err := urlHostPort(url); err != nil {
			errs = append(errs, fault.New(fault.ExitParse, CodeFlow, "write it as http:// or https:// with an IPv4 address",
				"allowing a flow to the %s: %w", name, err))
		} else {
			add(name, hostport)
		}
	}
	if op.Verifier != "" {
		addURL("verifier", op.Verifier)
	}
	for _, g := range op.Gateways {
		add("gateway", g)
	}
	if op.Sealer != "" {
		add("sealing enclave", op.Sealer)
	}
	services := map[string]bool{}
	if op.ModelKeys != "" {
		services[op.ModelKeys] = true
	}
	for _, m := range op.Models {
		if m.ModelKeys != "" {
			services[m.ModelKeys] = true
		}
	}
	for _, url := range slices.Sorted(maps.Keys(services)) {
		addURL("model keys", url)
	}
	if op.Handover != "" {
		add("hand-over", op.Handover)
	}
	for _, s := range liteServers {
		add("lite-server", s)
	}
	if len(out) > MaxFlows {
		errs = append(errs, fault.New(fault.ExitParse, CodeFlow, "name fewer servers", "allowing flows: %d, at most %d", len(out), MaxFlows))
	}
	return out, errors.Join(errs...)
}

func urlHostPort(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil {
		return "", fmt.Errorf("parsing URL: %w", err)
	}
	port := u.Port()
	switch {
	case port != "":
	case u.Scheme == "https":
		port = "443"
	case u.Scheme == "http":
		port = "80"
	default:
		return "", fmt.Errorf("parsing URL: scheme %.16q", u.Scheme)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}

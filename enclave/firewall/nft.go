package firewall

import (
	"encoding/binary"
	"fmt"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
)

// CodeOpen is the fault for a kernel whose rules are not those asked for.
const CodeOpen = "firewall.not_closed"

// tableName is the only table that there may be.
const tableName = "cocoon"

// chains are the hooks that are closed: what comes in, what passes through,
// what goes out.
var chains = []struct {
	name string
	hook *nftables.ChainHook
}{
	{"input", nftables.ChainHookInput},
	{"forward", nftables.ChainHookForward},
	{"output", nftables.ChainHookOutput},
}

// Close drops everything but the loopback device; it stands before the first
// network device comes up.
func Close() error { return Apply(nil) }

// Apply replaces the rules, in one step, by those for the flows, and reads
// back that the kernel has them.
func Apply(flows []Flow) error {
	c, err := nftables.New()
	if err != nil {
		return fmt.Errorf("opening netfilter: %w", err)
	}
	table := &nftables.Table{Family: nftables.TableFamilyINet, Name: tableName}
	// Added first so that deleting cannot fail; all in one transaction.
	c.AddTable(table)
	c.DelTable(table)
	table = c.AddTable(table)
	want := map[string]int{}
	for _, ch := range chains {
		drop := nftables.ChainPolicyDrop
		chain := c.AddChain(&nftables.Chain{Name: ch.name, Table: table, Type: nftables.ChainTypeFilter,
			Hooknum: ch.hook, Priority: nftables.ChainPriorityFilter, Policy: &drop})
		for _, exprs := range rules(ch.name, flows) {
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
			want[ch.name]++
		}
	}
	if err := c.Flush(); err != nil {
		return fmt.Errorf("setting firewall rules: %w", err)
	}
	return check(c, want)
}

// check reads back: one table, its three chains dropping by default, each with
// as many rules as were asked for.
func check(c *nftables.Conn, want map[string]int) error {
	open := func(expected, actual string) error {
		return fault.Mismatch(fault.ExitRefused, CodeOpen, "the firewall", expected, actual, "report this with the console log")
	}
	tables, err := c.ListTables()
	if err != nil {
		return fmt.Errorf("reading firewall tables: %w", err)
	}
	if len(tables) != 1 || tables[0].Name != tableName {
		return open("one table", fmt.Sprintf("%d tables", len(tables)))
	}
	got, err := c.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		return fmt.Errorf("reading firewall chains: %w", err)
	}
	if len(got) != len(chains) {
		return open(fmt.Sprintf("%d chains", len(chains)), fmt.Sprint(len(got)))
	}
	for _, ch := range got {
		if ch.Policy == nil || *ch.Policy != nftables.ChainPolicyDrop {
			return open("chain "+ch.Name+" drops by default", "it accepts")
		}
		list, err := c.GetRules(tables[0], ch)
		if err != nil {
			return fmt.Errorf("reading firewall rules: %w", err)
		}
		if n, ok := want[ch.Name], ch.Name != ""; !ok || len(list) != n {
			return open(fmt.Sprintf("%d rules in %s", n, ch.Name), fmt.Sprint(len(list)))
		}
	}
	return nil
}

// rules returns what a chain accepts. Conntrack makes an answer of what comes
// in: a server that the guest may dial cannot dial the guest.
func rules(chain string, flows []Flow) [][]expr.Any {
	var out [][]expr.Any
	switch chain {
	case "input":
		out = append(out, accept(device(expr.MetaKeyIIFNAME, "lo")))
		for _, f := range flows {
			out = append(out, accept(peer(f, saddr, sport), state(expr.CtStateBitESTABLISHED)))
		}
		if len(flows) > 0 {
			// Path MTU: errors about packets of an allowed connection.
			out = append(out, accept(l4proto(unix.IPPROTO_ICMP), state(expr.CtStateBitRELATED)))
		}
	case "output":
		out = append(out, accept(device(expr.MetaKeyOIFNAME, "lo")))
		for _, f := range flows {
			out = append(out, accept(peer(f, daddr, dport), state(expr.CtStateBitNEW|expr.CtStateBitESTABLISHED)))
		}
	}
	return out
}

// Offsets of IPv4 source and destination address (RFC 791) and of the TCP
// ports (RFC 9293).
const (
	saddr, daddr = 12, 16
	sport, dport = 0, 2
)

func accept(parts ...[]expr.Any) []expr.Any {
	var out []expr.Any
	for _, p := range parts {
		out = append(out, p...)
	}
	return append(out, &expr.Verdict{Kind: expr.VerdictAccept})
}

func device(key expr.MetaKey, name string) []expr.Any {
	padded := make([]byte, unix.IFNAMSIZ)
	copy(padded, name)
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(padded)}
}

func l4proto(proto byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, equal([]byte{unix.NFPROTO_IPV4}),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, equal([]byte{proto}),
	}
}

func peer(f Flow, addr, port uint32) []expr.Any {
	ip := f.To.Addr().As4()
	return append(l4proto(unix.IPPROTO_TCP),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: addr, Len: 4}, equal(ip[:]),
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		equal(binary.BigEndian.AppendUint16(nil, f.To.Port())),
	)
}

func state(bits uint32) []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

func equal(data []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: data}
}

package worker

import (
	"context"
	"net/netip"
	"os"

	"cocoon/contracts/chain/netconfig"
	"cocoon/enclave/firewall"
	"cocoon/enclave/fwcfg"
	"cocoon/enclave/netdev"
	"cocoon/enclave/pid1"
	"cocoon/enclave/vsock"
	"cocoon/internal/fault"
	"cocoon/internal/vsockport"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// maxTON bounds the network config, in bytes.
const maxTON = 1 << 20

// openFlows reads whom the guest may talk to and opens the firewall for them
// and nobody else. All of it is the host's word, which carries the packets in
// any case; each of these servers proves itself above TCP.
func (w *Worker) openFlows(background context.Context) error {
	var servers []string
	if w.config.Registry != "" {
		doc, err := fwcfg.Read(os.DirFS(fwcfg.Dir), fwcfg.TON, maxTON)
		if err != nil {
			return configFault("ton-global.json", err)
		}
		nc, err := netconfig.Parse(doc)
		if err != nil {
			return err
		}
		for _, s := range nc.Servers {
			servers = append(servers, s.Addr)
		}
		w.ton = doc
	}
	flows, err := firewall.Flows(w.operator, servers)
	if err != nil {
		return err
	}
	if w.vsock != nil {
		return w.forward(background, flows)
	}
	return firewall.Apply(flows)
}

// openVsock sends the status lines to the host over vsock, and lets it ask for
// the status document.
func (w *Worker) openVsock(background context.Context) error {
	host, err := vsock.Open()
	if err != nil {
		return err
	}
	w.vsock = host
	if conn, err := host.Status(); err != nil {
		// A host that does not listen looks away; the console has every line.
		w.log.Warn("no status channel", "err", err)
	} else {
		w.rep.Attach(conn)
		w.listen(background, conn)
	}
	return vsock.ServeDocument(background, Dir+"/status.json")
}

// forward makes each server's address one of the loopback device and carries
// connections to it over vsock. The firewall stays closed: nothing leaves by
// any network device.
func (w *Worker) forward(background context.Context, flows []firewall.Flow) error {
	done := map[netip.AddrPort]bool{}
	for _, f := range flows {
		if done[f.To] {
			continue
		}
		done[f.To] = true
		if !vsockport.Net.Contains(f.To.Addr()) {
			return fault.New(fault.ExitParse, firewall.CodeFlow, "name servers by addresses of the spec's forwards",
				"forwarding to the %s: %s is not in %s", f.Name, f.To, vsockport.Net)
		}
		if err := netdev.AddLoopback(netdev.Netlink{}, f.To.Addr()); err != nil {
			return err
		}
		if err := w.vsock.Forward(background, f.To, func(err error) { w.log.Warn("connection not forwarded", "err", err) }); err != nil {
			return err
		}
	}
	return nil
}

// latch closes what the supervisor itself no longer needs: kernel modules,
// and for this process the system calls and capabilities that change the
// kernel. It reads back that all of the image's hardening is in force, and
// only then records the latch in the runtime register (DESIGN section 4): evidence with the
// latch is evidence of a machine that passed. Drivers are loaded before it;
// GPUs are told to take work, and every other program starts, after it.
func (w *Worker) latch(context.Context) error {
	if err := pid1.Latch(pid1.Linux{}); err != nil {
		return err
	}
	row := pid1.Table()[pid1.RowSupervisor]
	if err := pid1.Confine(row); err != nil {
		return err
	}
	root := os.DirFS("/")
	if err := pid1.Confirm(root); err != nil {
		return err
	}
	if err := pid1.ConfirmProcess(root, pid1.RowSupervisor, os.Getpid(), row); err != nil {
		return err
	}
	if err := w.machine.Measure(evidence.LatchEvent()); err != nil {
		return err
	}
	// A TPM's register is shown, so that it can be compared with the expected
	// one without a quote.
	if r, ok := w.machine.(interface{ Register() digest.SHA256 }); ok {
		w.log.Info("latch measured", "pcr15", r.Register().String())
	} else {
		w.log.Info("latch measured")
	}
	return nil
}

package doctor

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"cocoon/contracts/coin"
	"cocoon/hostd/vfio"
	"cocoon/internal/fault"
	"cocoon/verifier/tcb"
)

const (
	rimAddr  = "rim.attestation.nvidia.com:443"
	ocspAddr = "ocsp.ndis.nvidia.com:443"
)

// rimChecks says whether what NVIDIA publishes covers driver and VBIOS. Without
// reference measurements every attestation fails.
func rimChecks(ctx context.Context, h *host, o *Options) []item {
	const services, id, vbios = "gpu.rim_service", "gpu.rim", "gpu.vbios"
	gpus := slices.DeleteFunc(h.known(), func(d vfio.Device) bool { return d.Kind != vfio.KindGPU })
	if len(gpus) == 0 {
		return []item{skip(vbios, "no GPU"), skip(services, "no GPU"), skip(id, "no GPU")}
	}
	out := []item{vbiosVersion(h, gpus)}
	var bad []string
	for _, a := range []string{rimAddr, ocspAddr} {
		if h.sys.Dial(ctx, a) != nil {
			bad = append(bad, a)
		}
	}
	if bad != nil {
		out = append(out, warn(services, "let this host reach them, or give guests a cache: docs/gpu-rims.md", "no answer from %s", strings.Join(bad, ", ")))
	} else {
		out = append(out, pass(services, "%s and %s answer", rimAddr, ocspAddr))
	}
	return append(out, rimsKnown(ctx, h, o, gpus))
}

func vbiosVersion(h *host, gpus []vfio.Device) item {
	const id = "gpu.vbios"
	var all []string
	for _, d := range gpus {
		if v := h.vbios[d.BDF]; v != "" && !slices.Contains(all, v) {
			all = append(all, v)
		}
	}
	switch len(all) {
	case 0:
		return skip(id, "only NVIDIA's driver says it, and no GPU is bound to it; the guest's report will")
	case 1:
		return pass(id, "VBIOS %s", all[0])
	}
	return warn(id, "bring all GPUs to one VBIOS with their maker's tool", "different VBIOS: %s", strings.Join(all, ", "))
}

func rimsKnown(ctx context.Context, h *host, o *Options, gpus []vfio.Device) item {
	const id = "gpu.rim"
	type key struct{ arch, driver, vbios string }
	var asked []key
	for _, d := range gpus {
		k := key{d.Arch, o.Driver, h.vbios[d.BDF]}
		if k.driver == "" {
			k.driver = h.driver[d.BDF]
		}
		if k.driver != "" && !slices.Contains(asked, k) {
			asked = append(asked, k)
		}
	}
	switch {
	case len(asked) == 0:
		return skip(id, "the image's driver is not known: name it with --driver")
	case o.RIM == nil:
		return skip(id, "not asked")
	}
	for _, k := range asked {
		err := o.RIM(ctx, k.arch, k.driver, k.vbios)
		what := fmt.Sprintf("driver %s, VBIOS %s", k.driver, orUnknown(k.vbios))
		switch {
		case err == nil:
		case fault.ExitCode(err) == fault.ExitNetwork || ctx.Err() != nil:
			return warn(id, "let this host reach "+rimAddr+", or ask from elsewhere: cocoon gpu rim", "%s: not known, the service does not answer", what)
		default:
			remedy := "use versions that have reference measurements: cocoon gpu rim DRIVER VBIOS lists near ones"
			return fail(forProduction, id, remedy, "%s: %s", what, firstFault(err))
		}
	}
	whose := "the image's"
	if o.Driver == "" {
		whose = "the host's (name the image's with --driver)"
	}
	return pass(id, "NVIDIA publishes reference measurements for driver %s, %s, and VBIOS %s", asked[0].driver, whose, orUnknown(asked[0].vbios))
}

func orUnknown(s string) string {
	if s == "" {
		return "unknown"
	}
	return s
}

// reachChecks: a worker has no inbound port; it must get out.
func reachChecks(ctx context.Context, h *host, o *Options) []item {
	const id = "net.outbound"
	if len(o.Reach) == 0 {
		return []item{skip(id, "no VM spec named with --spec; a worker needs no inbound port, only what its forwards name")}
	}
	var bad []string
	for _, a := range o.Reach {
		if h.sys.Dial(ctx, a) != nil {
			bad = append(bad, a)
		}
	}
	if bad != nil {
		return []item{fail(forProduction, id, "open outbound TCP to them in the firewall, or correct the forwards of the spec", "no answer from %s", strings.Join(bad, ", "))}
	}
	return []item{pass(id, "%d addresses answer; no inbound port is needed", len(o.Reach))}
}

func ledgerChecks(ctx context.Context, _ *host, o *Options) []item {
	const servers, wallet = "ton.liteservers", "ton.wallet"
	if o.Ledger == nil {
		return []item{skip(servers, "no network named with --ton-config"), skip(wallet, "no network named with --ton-config")}
	}
	l, err := o.Ledger(ctx)
	if err != nil {
		return []item{fail(forProduction, servers, "take the newest global.config.json of your network", "%s", firstFault(err)), skip(wallet, "the ledger cannot be read")}
	}
	var out []item
	if l.Reachable < 2 && l.Reachable < l.Servers {
		out = append(out, warn(servers, "take the newest global.config.json of your network", "%d of %d lite-servers answer; master block %d is proven", l.Reachable, l.Servers, l.Seqno))
	} else {
		out = append(out, pass(servers, "%d of %d lite-servers answer; master block %d is proven", l.Reachable, l.Servers, l.Seqno))
	}
	switch {
	case l.Balance < 0:
		out = append(out, skip(wallet, "none named with --wallet"))
	case l.Balance < l.Low:
		out = append(out, warn(wallet, "send TON to the wallet", "%s TON; below %s it may run dry", coin.Nano(l.Balance), coin.Nano(l.Low)))
	default:
		out = append(out, pass(wallet, "%s TON", coin.Nano(l.Balance)))
	}
	return out
}

// soon is how long before its end collateral or a status is worth a warning.
const soon = 7 * 24 * time.Hour

func forecastChecks(ctx context.Context, h *host, o *Options) []item {
	const id = "tcb.forecast"
	if o.Forecast == nil {
		if h.tee() == "snp" {
			return []item{skip(id, "the TCB that a policy asks of SNP is in the policy: cocoon verify snp shows the guest's")}
		}
		return []item{skip(id, "needs a quote of this machine: --quote FILE, or in the guest: cocoon tcb status")}
	}
	r, err := o.Forecast(ctx)
	if err != nil {
		return []item{fail(forProduction, id, "give a quote of this machine and collateral that is valid now", "%s", firstFault(err))}
	}
	remedy := r.Current.Status.Remedy()
	if len(r.Updates) > 0 {
		remedy = r.Updates[0].Remedy
	}
	switch {
	case r.Current.Status == tcb.Revoked:
		return []item{fail(forProduction, id, remedy, "the platform is revoked")}
	case r.Current.Status != tcb.UpToDate:
		return []item{fail(forProduction, id, remedy, "the TCB is %s under evaluation %d", r.Current.Status, r.Current.Evaluation)}
	case r.Next != nil && r.Later && r.Next.Status != tcb.UpToDate:
		return []item{warn(id, remedy, "UpToDate now, %s once evaluation %d is the standard one", r.Next.Status, r.Next.Evaluation)}
	}
	for _, p := range r.Parts {
		if p.NextUpdate.Sub(r.Time) < soon {
			return []item{warn(id, "refresh the collateral: cocoon collateral fetch", "UpToDate; %s is valid for %d more days", p.Name, p.Days)}
		}
	}
	return []item{pass(id, "UpToDate under evaluation %d", r.Current.Evaluation)}
}

package doctor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"regexp"
	"strings"

	"cocoon/internal/fault"
)

// BIOS paths, as the makers' reference BIOS has them.
const (
	biosTDX = "BIOS: Socket Configuration > Processor Configuration: TME, TME-MT, TDX and the TDX SEAM loader on, TDX key split above 0, SGX on; power off and on after it"
	biosSNP = "BIOS: Advanced > CPU Configuration: SMEE on, SEV ASID space limit above 1, SNP memory (RMP table) coverage on; Advanced > NB Configuration: SEV-SNP support and IOMMU on"
	biosIO  = "BIOS: VT-d (Intel) or IOMMU (AMD) on, then boot with intel_iommu=on or amd_iommu=on"
)

// capable says whether a CPU can host TDX or SNP guests. Intel: family 6,
// Sapphire and Emerald Rapids, Granite Rapids, Sierra and Clearwater Forest.
// AMD: Milan, Genoa, Bergamo and Siena (family 19h), Turin (family 1Ah).
func (h *host) capable() string {
	switch {
	case h.vendor == intel && h.family == 6:
		switch h.model {
		case 143, 207, 173, 174, 175, 221:
			return "tdx"
		}
	case h.vendor == amd && h.family == 0x19 && (h.model < 0x20 || h.model >= 0xa0 && h.model < 0xb0):
		return "snp"
	case h.vendor == amd && h.family == 0x1a && h.model < 0x20:
		return "snp"
	}
	return ""
}

// tee is the TEE that this machine has, or could have: tdx, snp or none.
func (h *host) tee() string {
	if h.flags["hypervisor"] {
		return ""
	}
	return h.capable()
}

func cpuChecks(_ context.Context, h *host, _ *Options) []item {
	const id = "cpu.tee"
	var out []item
	name := h.cpu
	if name == "" {
		name = "an unknown CPU"
	}
	switch tee := h.capable(); {
	case h.flags["hypervisor"]:
		out = append(out, fail(forProduction, id, "use the bare machine: a TEE cannot be started from inside another VM", "%s, seen from inside a VM", name))
	case tee == "":
		out = append(out, fail(forProduction, id, "use a server with Intel TDX (4th generation Xeon or newer) or AMD SEV-SNP (3rd generation EPYC or newer)", "%s has neither TDX nor SNP", name))
	case tee == "tdx" && !h.flags["tdx_host_platform"]:
		out = append(out, fail(forProduction, id, biosTDX, "%s can do TDX, and the BIOS or the kernel has it off", name))
	case tee == "snp" && !h.flags["sev_snp"]:
		out = append(out, fail(forProduction, id, biosSNP, "%s can do SNP, and the BIOS or the kernel has it off", name))
	default:
		out = append(out, pass(id, "%s, %s", name, strings.ToUpper(tee)))
	}
	if h.microcode == "" {
		return append(out, skip("cpu.microcode", "the kernel does not say which microcode runs"))
	}
	return append(out, pass("cpu.microcode", "microcode %s; whether it is recent enough is what tcb.forecast says", h.microcode))
}

var moduleRE = regexp.MustCompile(`TDX module: .*major_version (\d+), minor_version (\d+), build_date (\d+), build_num (\d+)`)

func tdxChecks(ctx context.Context, h *host, o *Options) []item {
	ids := []string{"tdx.host", "tdx.module", "sgx.devices", "sgx.registration", "sgx.pccs", "sgx.known", "tdx.qgs"}
	if h.tee() != "tdx" {
		out := make([]item, 0, len(ids))
		for _, id := range ids {
			out = append(out, skip(id, "not a TDX machine"))
		}
		return out
	}
	return []item{tdxHost(h), tdxModule(h), sgxDevices(h), sgxRegistration(ctx, h), sgxPCCS(ctx, h), sgxKnown(ctx, h, o), tdxQGS(h)}
}

func tdxHost(h *host) item {
	const id, param = "tdx.host", "sys/module/kvm_intel/parameters/tdx"
	switch h.text(param) {
	case "Y", "1":
		return pass(id, "/%s = Y", param)
	case "":
		return fail(forProduction, id, "use Linux 6.16 or newer with CONFIG_INTEL_TDX_HOST and CONFIG_KVM_INTEL_TDX", "kvm_intel knows no TDX: there is no /%s", param)
	}
	if l := h.logLine("virt/tdx: BIOS not enabled"); l != "" {
		return fail(forProduction, id, biosTDX, "/%s = N; the kernel says: %s", param, l)
	}
	return fail(forProduction, id, `echo "options kvm_intel tdx=1" > /etc/modprobe.d/kvm-tdx.conf, then boot with nohibernate; `+biosTDX, "/%s = N", param)
}

func tdxModule(h *host) item {
	const id = "tdx.module"
	if h.log == "" {
		return unseen(forProduction, id, "run as root", "the kernel's log may not be read")
	}
	if l := h.logLine("virt/tdx: module initialization failed"); l != "" {
		return fail(forProduction, id, "update the BIOS, which carries the SEAM loader and the TDX module", "%s", l)
	}
	m := moduleRE.FindStringSubmatch(h.log)
	if m == nil || h.logLine("virt/tdx: module initialized") == "" {
		return fail(forProduction, id, "modprobe kvm_intel, which initialises the module; see dmesg for virt/tdx and seamldr", "the TDX module is not initialised")
	}
	return pass(id, "TDX module %s.%s, build %s of %s, initialised", m[1], m[2], m[4], m[3])
}

func sgxDevices(h *host) item {
	const id = "sgx.devices"
	if !h.flags["sgx"] || !h.exists("dev/sgx_enclave") || !h.exists("dev/sgx_provision") {
		return fail(forProduction, id, biosTDX, "no /dev/sgx_enclave and /dev/sgx_provision: without SGX nothing signs a TDX quote")
	}
	return pass(id, "/dev/sgx_enclave and /dev/sgx_provision")
}

func sgxRegistration(ctx context.Context, h *host) item {
	const id = "sgx.registration"
	const remedy = "install sgx-ra-service and see /var/log/mpa_registration.log; or BIOS: SGX factory reset, then boot once with a network"
	b, err := h.sys.Run(ctx, "mpa_manage", "-get_registration_status")
	text := strings.TrimSpace(string(b))
	switch {
	case err != nil:
		return warn(id, remedy, "whether Intel knows this platform is not known: mpa_manage gives no answer")
	case strings.Contains(text, "completed successfully"):
		return pass(id, "registered with Intel")
	}
	return fail(forProduction, id, remedy, "not registered with Intel: %.200s", oneLine(text))
}

// sgxPCCS asks the caching service that the quote generation service uses
// (sgx_default_qcnl.conf; the file is JSON with comments).
func sgxPCCS(ctx context.Context, h *host) item {
	const id, file = "sgx.pccs", qcnl
	const remedy = "install sgx-dcap-pccs or name a PCCS in /" + file + "; systemctl restart qgsd"
	u, _, err := h.pccs()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail(forProduction, id, remedy, "there is no /%s: the quote generation service does not know whom to ask for its certificate", file)
	case err != nil:
		return fail(forProduction, id, remedy, "/%s names no pccs_url that could be read", file)
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	addr := net.JoinHostPort(u.Hostname(), port)
	if err := h.sys.Dial(ctx, addr); err != nil {
		return fail(forProduction, id, "systemctl start pccs, or name another in /"+file, "the PCCS at %s does not answer", addr)
	}
	return pass(id, "the PCCS at %s answers", addr)
}

// qcnl says whom the quote generation service asks.
const qcnl = "etc/sgx_default_qcnl.conf"

// pccs returns the caching service's base, and whether any TLS certificate of
// it is taken.
func (h *host) pccs() (*url.URL, bool, error) {
	text := h.text(qcnl)
	if text == "" {
		return nil, false, fs.ErrNotExist
	}
	var doc struct {
		URL    string `json:"pccs_url"`
		Secure *bool  `json:"use_secure_cert"`
	}
	var plain strings.Builder
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(strings.TrimSpace(line), "//") {
			plain.WriteString(line)
		}
	}
	if err := json.Unmarshal([]byte(plain.String()), &doc); err != nil {
		return nil, false, err
	}
	u, err := url.Parse(doc.URL)
	if err != nil || u.Hostname() == "" {
		return nil, false, fmt.Errorf("pccs_url %.200q is no address", doc.URL)
	}
	return u, doc.Secure != nil && !*doc.Secure, nil
}

// sgxKnown asks the caching service for this platform's certificate.
func sgxKnown(ctx context.Context, h *host, o *Options) item {
	const id = "sgx.known"
	if o == nil || o.Platform == nil {
		return skip(id, "not asked: name the platform's identifiers with --pckid (PCKIDRetrievalTool -f pckid.csv); the first quote shows it, too")
	}
	base, insecure := "", false
	if u, any, err := h.pccs(); err == nil {
		base, insecure = u.String(), any
	}
	fmspc, err := o.Platform(ctx, base, insecure)
	switch {
	case err == nil:
		return pass(id, "the PCCS has this platform's certificate, FMSPC %s", fmspc)
	case fault.ExitCode(err) == fault.ExitNetwork || ctx.Err() != nil:
		return warn(id, "see sgx.pccs", "not known: %s", firstFault(err))
	}
	remedy := "follow docs/operators.md"
	if all := fault.All(err); len(all) > 0 && all[0].Remedy != "" {
		remedy = all[0].Remedy
	}
	return fail(forProduction, id, remedy, "%s", firstFault(err))
}

func tdxQGS(h *host) item {
	const id, socket = "tdx.qgs", "var/run/tdx-qgs/qgs.socket"
	if !h.exists(socket) {
		return fail(forProduction, id, "install tdx-qgs and set port = 0 in /etc/qgs.conf, which makes it listen on the socket; systemctl restart qgsd", "no quote generation service at /%s", socket)
	}
	return pass(id, "/%s", socket)
}

var snpAPIRE = regexp.MustCompile(`SEV-SNP API:(\d+\.\d+) build:(\d+)`)

func snpChecks(ctx context.Context, h *host, _ *Options) []item {
	if h.tee() != "snp" {
		return []item{skip("snp.host", "not an SNP machine"), skip("snp.firmware", "not an SNP machine"), skip("snp.kds", "not an SNP machine")}
	}
	return []item{snpHost(h), snpFirmware(h), snpKDS(ctx, h)}
}

func snpHost(h *host) item {
	const id, param = "snp.host", "sys/module/kvm_amd/parameters/sev_snp"
	switch v := h.text(param); {
	case v == "":
		return fail(forProduction, id, "use Linux 6.11 or newer with CONFIG_KVM_AMD_SEV", "kvm_amd knows no SNP: there is no /%s", param)
	case v != "Y" && v != "1":
		return fail(forProduction, id, "boot without iommu=pt; "+biosSNP, "/%s = %s", param, v)
	case !h.exists("dev/sev"):
		return fail(forProduction, id, "modprobe ccp, and see dmesg for what it says", "/%s = Y, and there is no /dev/sev", param)
	}
	return pass(id, "/%s = Y", param)
}

// snpFirmware checks against the oldest firmware that Linux starts SNP guests
// with, 1.51 (drivers/crypto/ccp/sev-dev.h).
func snpFirmware(h *host) item {
	const id = "snp.firmware"
	if h.log == "" {
		return unseen(forProduction, id, "run as root", "the kernel's log may not be read")
	}
	m := snpAPIRE.FindStringSubmatch(h.log)
	const remedy = "update the BIOS, or put AMD's newest firmware for this family into /lib/firmware/amd and load ccp again"
	switch {
	case m == nil:
		return fail(forProduction, id, remedy, "the secure processor did not report an SNP firmware")
	case !atLeast(version(m[1]), 1, 51):
		return fail(forProduction, id, remedy, "SNP firmware API %s build %s, want 1.51 or newer", m[1], m[2])
	}
	return pass(id, "SNP firmware API %s build %s", m[1], m[2])
}

func snpKDS(ctx context.Context, h *host) item {
	const id, addr = "snp.kds", "kdsintf.amd.com:443"
	if err := h.sys.Dial(ctx, addr); err != nil {
		return warn(id, "let this host reach "+addr+", or see that every verifier has this chip's VCEK", "AMD's key service does not answer")
	}
	return pass(id, "%s answers", addr)
}

func oneLine(s string) string { return strings.Join(strings.Fields(s), " ") }

package spec

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cocoon/measurements/snp"
)

// DefaultVCPUType is the processor that SNP guests see where a spec names
// none: the launch digest depends on it, so "host" is no choice.
const DefaultVCPUType = "EPYC-v4"

// DefaultSNPPolicy allows SMT and nothing else: no debugging, no migration
// agent (AMD 56860, section 4.3; bit 17 is always one).
const DefaultSNPPolicy = 0x30000

const snpPolicyDebug = 1 << 19

// DefaultQuoteSocket is where Intel's quote generation service listens.
const DefaultQuoteSocket = "/var/run/tdx-qgs/qgs.socket"

// Modes of GPUs.
const (
	GPUModeOff   = "off"
	GPUModeCC    = "cc"
	GPUModePPCIE = "ppcie"
)

// GPUs are PCI devices that the VM gets whole.
type GPUs struct {
	Devices []string `json:"devices"` // addresses as in lspci -D
	Mode    string   `json:"mode"`    // cc or ppcie; off for vtpm
	// GiveBack gives them back to their owner's drivers when the VM has ended.
	GiveBack bool `json:"give_back,omitempty"`
}

// Node is one NUMA node of the guest and where it lies on the host.
type Node struct {
	HostNode  int    `json:"host_node"`
	MemoryMiB int    `json:"memory_mib"`
	CPUs      int    `json:"cpus"`
	HostCPUs  string `json:"host_cpus,omitempty"` // "0-15,32-47": the node's vCPUs run there alone; empty: anywhere
}

// SNP is how an SNP guest is launched.
type SNP struct {
	VCPUType string `json:"vcpu_type,omitempty"` // QEMU's -cpu; default EPYC-v4
	Policy   string `json:"policy,omitempty"`    // guest policy, 0x and hex; default 0x30000
	CBitPos  int    `json:"cbitpos,omitempty"`   // default 51
	IDBlock  string `json:"id_block,omitempty"`  // file of 96 bytes
	IDAuth   string `json:"id_auth,omitempty"`   // file of 4096 bytes
}

// TDX is how a TDX guest is launched.
type TDX struct {
	QuoteSocket string `json:"quote_socket,omitempty"` // of the quote generation service
}

// maxDevices is a board in protected PCIe: eight GPUs and four switches.
const maxDevices = 12

var (
	bdfRE = regexp.MustCompile(`^[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]$`)
	cpuRE = regexp.MustCompile(`^\d{1,4}(-\d{1,4})?(,\d{1,4}(-\d{1,4})?)*$`)
)

// Confidential says whether the guest's memory is hidden from the host.
func (s *Spec) Confidential() bool { return s.TEE == TEETDX || s.TEE == TEESNP }

// SNPPolicy returns the guest policy.
func (s *Spec) SNPPolicy() uint64 {
	if s.SNP == nil || s.SNP.Policy == "" {
		return DefaultSNPPolicy
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(s.SNP.Policy, "0x"), 16, 64)
	if err != nil {
		return DefaultSNPPolicy // Validate has refused it
	}
	return n
}

// ParseCPUs reads a list such as "0-3,8". At most 4096 are in it.
func ParseCPUs(s string) ([]int, error) {
	if !cpuRE.MatchString(s) || len(s) > 1024 {
		return nil, fmt.Errorf("%.64q is no list of CPUs such as 0-3,8", s)
	}
	var out []int
	for part := range strings.SplitSeq(s, ",") {
		a, b, ok := strings.Cut(part, "-")
		lo, err := strconv.Atoi(a)
		hi := lo
		if err == nil && ok {
			hi, err = strconv.Atoi(b)
		}
		if err != nil || hi < lo || hi >= 4096 {
			return nil, fmt.Errorf("%.64q is no list of CPUs below 4096", s)
		}
		for n := lo; n <= hi; n++ {
			if slices.Contains(out, n) {
				return nil, fmt.Errorf("CPU %d is in %.64q twice", n, s)
			}
			out = append(out, n)
		}
	}
	return out, nil
}

// validateHardware reports what is wrong with placement, devices and TEE.
func (s *Spec) validateHardware() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	switch s.Hugepages {
	case "", "2M":
	case "1G":
		if s.MemoryMiB%1024 != 0 {
			bad("memory_mib %d is no multiple of hugepages 1G", s.MemoryMiB)
		}
	default:
		bad("hugepages %.16q, want 2M or 1G", s.Hugepages)
	}
	if s.MMIO64MiB < 0 || s.MMIO64MiB > 64<<20 || s.MMIO64MiB&(s.MMIO64MiB-1) != 0 {
		bad("mmio64_mib %d, want a power of two up to %d", s.MMIO64MiB, 64<<20)
	}
	errs = append(errs, s.validateNUMA()...)
	errs = append(errs, s.validateGPUs()...)
	if s.SNP != nil {
		errs = append(errs, s.validateSNP()...)
	}
	if t := s.TDX; t != nil {
		if s.TEE != TEETDX {
			bad("tdx is given and tee is %.16q", s.TEE)
		}
		if t.QuoteSocket != "" && (!filepath.IsAbs(t.QuoteSocket) || len(t.QuoteSocket) > 107 || strings.ContainsAny(t.QuoteSocket, "\x00\n")) {
			bad("quote_socket %.128q: want an absolute path of at most 107 bytes", t.QuoteSocket)
		}
	}
	return errs
}

func (s *Spec) validateNUMA() []error {
	if len(s.NUMA) == 0 {
		return nil
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(s.NUMA) > 16 {
		bad("%d NUMA nodes, at most 16", len(s.NUMA))
	}
	memory, cpus := 0, 0
	used := map[int]bool{}
	for i, n := range s.NUMA {
		if n.HostNode < 0 || n.HostNode > 1023 || n.MemoryMiB < 1 || n.CPUs < 1 {
			bad("NUMA node %d: host_node %d, memory_mib %d or cpus %d is out of range", i, n.HostNode, n.MemoryMiB, n.CPUs)
		}
		if s.Hugepages == "1G" && n.MemoryMiB%1024 != 0 || s.Hugepages == "2M" && n.MemoryMiB%2 != 0 {
			bad("NUMA node %d: memory_mib %d is no multiple of hugepages %s", i, n.MemoryMiB, s.Hugepages)
		}
		memory, cpus = memory+n.MemoryMiB, cpus+n.CPUs
		if n.HostCPUs == "" {
			continue
		}
		list, err := ParseCPUs(n.HostCPUs)
		if err != nil {
			bad("NUMA node %d: host_cpus: %w", i, err)
		}
		if err == nil && len(list) < n.CPUs {
			bad("NUMA node %d: %d host_cpus for %d cpus", i, len(list), n.CPUs)
		}
		for _, c := range list {
			if used[c] {
				bad("NUMA node %d: host CPU %d is used twice", i, c)
			}
			used[c] = true
		}
	}
	if memory != s.MemoryMiB || cpus != s.CPUs {
		bad("the NUMA nodes have %d MiB and %d CPUs, the VM %d and %d", memory, cpus, s.MemoryMiB, s.CPUs)
	}
	return errs
}

func (s *Spec) validateGPUs() []error {
	g := s.GPUs
	if g == nil {
		return nil
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if len(g.Devices) < 1 || len(g.Devices) > maxDevices {
		bad("%d gpus devices, want 1 to %d", len(g.Devices), maxDevices)
	}
	for i, d := range g.Devices {
		if !bdfRE.MatchString(d) {
			bad("gpus device %.64q is no PCI address such as 0000:1b:00.0", d)
		}
		if slices.Contains(g.Devices[:i], d) {
			bad("gpus device %.64q is named twice", d)
		}
	}
	switch {
	case g.Mode == GPUModeOff && s.Confidential():
		bad("gpus mode off: a %s guest would read through a bus that the host sees; use cc or ppcie", s.TEE)
	case g.Mode == GPUModeOff:
	case g.Mode != GPUModeCC && g.Mode != GPUModePPCIE:
		bad("gpus mode %.16q, want cc, ppcie or off", g.Mode)
	case !s.Confidential():
		bad("gpus mode %s needs tee tdx or snp", g.Mode)
	case g.Mode == GPUModePPCIE && len(g.Devices) != maxDevices:
		bad("%d gpus devices in mode ppcie, want all of the board: 8 GPUs and 4 NVSwitches", len(g.Devices))
	}
	return errs
}

func (s *Spec) validateSNP() []error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	n := s.SNP
	if s.TEE != TEESNP {
		bad("snp is given and tee is %.16q", s.TEE)
	}
	if n.VCPUType != "" {
		if _, err := snp.Signature(n.VCPUType); err != nil {
			bad("snp vcpu_type: %w", err)
		}
	}
	if n.Policy != "" {
		p, err := strconv.ParseUint(strings.TrimPrefix(n.Policy, "0x"), 16, 64)
		switch {
		case err != nil || !strings.HasPrefix(n.Policy, "0x"):
			bad("snp policy %.32q, want 0x and hex digits", n.Policy)
		case p&(1<<17) == 0:
			bad("snp policy %#x: bit 17 must be one", p)
		case p&snpPolicyDebug != 0:
			bad("snp policy %#x lets the host debug the guest, which no verifier accepts", p)
		}
	}
	if n.CBitPos != 0 && (n.CBitPos < 32 || n.CBitPos > 63) {
		bad("snp cbitpos %d, want 32 to 63", n.CBitPos)
	}
	if (n.IDBlock == "") != (n.IDAuth == "") {
		bad("snp id_block and id_auth go together")
	}
	return errs
}

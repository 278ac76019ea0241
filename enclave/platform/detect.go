package platform

import (
	"encoding/binary"
	"os"

	"cocoon/internal/fault"
	"cocoon/verifier/evidence"
)

// Kind says what protects the machine.
type Kind string

// Kinds.
const (
	TDX  Kind = evidence.PlatformTDX
	SNP  Kind = evidence.PlatformSNP
	VTPM Kind = evidence.PlatformVTPM // nothing does: measured boot into a software TPM, for development
)

// Codes of faults.
const (
	CodeUnclear = "platform.unclear"       // CPU and kernel say different things
	CodeDriver  = "platform.driver_absent" // the kernel has no driver for the TEE
	CodeKind    = "platform.kind_differs"  // the config names another kind
)

// Devices of the kernel's guest drivers. The kernel makes them only where its
// own early check of the hardware succeeded: the TDX module's CPUID leaf
// (arch/x86/coco/tdx), and the SNP bit of the SEV_STATUS register C001_0131
// (arch/x86/coco/sev).
const (
	DeviceTDX = "/dev/tdx_guest"
	DeviceSNP = "/dev/sev-guest"
)

// Probe is what detection asks of the machine.
type Probe interface {
	CPUID(leaf, sub uint32) (eax, ebx, ecx, edx uint32)
	Exists(path string) bool
}

// Linux is the running machine.
type Linux struct{}

func cpuid(leaf, sub uint32) (eax, ebx, ecx, edx uint32)

// CPUID runs the instruction. In a TD leaf 0x21 is answered by the TDX module,
// in an SNP guest by the page that the firmware checked at launch.
func (Linux) CPUID(leaf, sub uint32) (eax, ebx, ecx, edx uint32) { return cpuid(leaf, sub) }

// Exists reports whether a path is there.
func (Linux) Exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// CPUID leaves.
const (
	leafTDX      = 0x21 // Intel TDX Module Base Architecture Specification: "IntelTDX    " in EBX, EDX, ECX
	leafExtended = 0x80000000
	leafSEV      = 0x8000001f // AMD APM volume 3, E.4.17: EAX bit 4 is SEV-SNP
	bitSNP       = 1 << 4
)

// Detect says what the machine is, from the CPU and the kernel alone (DESIGN
// section 2: nothing unmeasured decides anything). A host that lies to an
// unprotected machine about its CPU gets a boot that ends, or evidence that
// nobody accepts. Where CPU and kernel do not agree the machine is refused
// rather than taken for the lesser kind.
func Detect(p Probe) (Kind, error) {
	cpuTDX, cpuSNP := isTDX(p), isSNP(p)
	devTDX, devSNP := p.Exists(DeviceTDX), p.Exists(DeviceSNP)
	switch {
	case cpuTDX && cpuSNP, devTDX && !cpuTDX, devSNP && !cpuSNP, devTDX && devSNP:
		return "", fault.New(fault.ExitRefused, CodeUnclear, "report this with the console log and the host's hypervisor version",
			"detecting the platform: CPU says TDX %v, SNP %v; the kernel has %s %v, %s %v", cpuTDX, cpuSNP, DeviceTDX, devTDX, DeviceSNP, devSNP)
	case cpuTDX && !devTDX, cpuSNP && !devSNP:
		kind := TDX
		if cpuSNP {
			kind = SNP
		}
		return "", fault.New(fault.ExitNotReady, CodeDriver, "boot the published image, which has the modules tdx_guest and sev_guest",
			"detecting the platform: the CPU says %s, and the kernel has no device for it", kind)
	case cpuTDX:
		return TDX, nil
	case cpuSNP:
		return SNP, nil
	}
	return VTPM, nil
}

func isTDX(p Probe) bool {
	highest, _, _, _ := p.CPUID(0, 0)
	if highest < leafTDX {
		return false
	}
	_, b, c, d := p.CPUID(leafTDX, 0)
	text := binary.LittleEndian.AppendUint32(nil, b)
	text = binary.LittleEndian.AppendUint32(text, d)
	text = binary.LittleEndian.AppendUint32(text, c)
	return string(text) == "IntelTDX    "
}

func isSNP(p Probe) bool {
	if highest, _, _, _ := p.CPUID(leafExtended, 0); highest < leafSEV {
		return false
	}
	a, _, _, _ := p.CPUID(leafSEV, 0)
	return a&bitSNP != 0
}

// Wanted refuses a machine of another kind than the config names. A config
// that names none runs on any; what it may show is the verifier's to say.
func Wanted(c *evidence.Config, k Kind) error {
	if c.Platform == "" || Kind(c.Platform) == k {
		return nil
	}
	return fault.Mismatch(fault.ExitRefused, CodeKind, "the machine's kind", c.Platform, string(k),
		"start the machine as the config says, or with a config for this kind")
}

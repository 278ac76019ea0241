package snp

import (
	"encoding/binary"
	"fmt"

	"cocoon/measurements/tdvf"
)

// VMM is the virtual machine monitor: each sets the registers of a new
// processor a little differently.
type VMM string

// Monitors that are known.
const (
	QEMU VMM = "qemu"
	EC2  VMM = "ec2"
	GCE  VMM = "gce"
)

// MaxVCPUs bounds the processors of a guest.
const MaxVCPUs = 1024

// Features of a guest (SEV_FEATURES, APM volume 2, appendix B): SNPActive
// alone is what QEMU and Linux 6.11 and newer set without an option.
const (
	FeatureSNP              = 1 << 0
	FeatureDebugSwap        = 1 << 5
	DefaultFeatures  uint64 = FeatureSNP
)

// Shape is the part of a machine that its launch digest depends on.
type Shape struct {
	VMM      VMM    `json:"vmm"`
	VCPUs    int    `json:"vcpus"`
	VCPUType string `json:"vcpu_type,omitempty"` // QEMU's -cpu, see Signatures; unused on EC2 and GCE
	Features uint64 `json:"guest_features"`      // SEV_FEATURES
}

// Validate refuses shapes that cannot be measured.
func (s *Shape) Validate() error {
	if s.VCPUs < 1 || s.VCPUs > MaxVCPUs {
		return fmt.Errorf("%w: %d vCPUs, want 1 to %d", ErrShape, s.VCPUs, MaxVCPUs)
	}
	switch s.VMM {
	case QEMU:
		if _, err := Signature(s.VCPUType); err != nil {
			return err
		}
	case EC2, GCE:
	default:
		return fmt.Errorf("%w: VMM %.32q is unknown, want qemu, ec2 or gce", ErrShape, s.VMM)
	}
	return nil
}

// String names the shape for people: "4xEPYC-Milan qemu".
func (s Shape) String() string {
	if s.VMM == QEMU {
		return fmt.Sprintf("%dx%s qemu features %#x", s.VCPUs, s.VCPUType, s.Features)
	}
	return fmt.Sprintf("%d vCPUs %s features %#x", s.VCPUs, s.VMM, s.Features)
}

// Signature returns the CPUID signature (Fn0000_0001_EAX) of a processor
// model of QEMU (target/i386/cpu.c).
func Signature(model string) (uint32, error) {
	switch model {
	case "EPYC", "EPYC-v1", "EPYC-v2", "EPYC-v3", "EPYC-v4", "EPYC-v5", "EPYC-IBPB":
		return cpuid(0x17, 0x01, 2), nil
	case "EPYC-Rome", "EPYC-Rome-v1", "EPYC-Rome-v2", "EPYC-Rome-v3", "EPYC-Rome-v4", "EPYC-Rome-v5":
		return cpuid(0x17, 0x31, 0), nil
	case "EPYC-Milan", "EPYC-Milan-v1", "EPYC-Milan-v2", "EPYC-Milan-v3":
		return cpuid(0x19, 0x01, 1), nil
	case "EPYC-Genoa", "EPYC-Genoa-v1", "EPYC-Genoa-v2":
		return cpuid(0x19, 0x11, 0), nil
	case "EPYC-Turin", "EPYC-Turin-v1":
		return cpuid(0x1a, 0x00, 0), nil
	}
	return 0, fmt.Errorf("%w: vCPU type %.32q is unknown, want one of %v", ErrShape, model, VCPUTypes())
}

// VCPUTypes returns the processor models whose signature is known, one name
// each.
func VCPUTypes() []string {
	return []string{"EPYC", "EPYC-v4", "EPYC-Rome", "EPYC-Milan", "EPYC-Genoa", "EPYC-Turin"}
}

// cpuid packs family, model and stepping (AMD 25481, CPUID Fn0000_0001_EAX).
func cpuid(family, model, stepping uint32) uint32 {
	base, extended := family, uint32(0)
	if family > 0xf {
		base, extended = 0xf, family-0xf
	}
	return extended<<20 | model>>4<<16 | base<<8 | model&0xf<<4 | stepping
}

// Offsets in a VMSA (APM volume 2, table B-4).
const (
	offES, offCS, offSS, offDS, offFS = 0x00, 0x10, 0x20, 0x30, 0x40
	offGS, offGDTR, offLDTR, offIDTR  = 0x50, 0x60, 0x70, 0x80
	offTR                             = 0x90
	offEFER                           = 0xd0
	offCR4                            = 0x148
	offCR0                            = 0x158
	offDR7                            = 0x160
	offDR6                            = 0x168
	offRFLAGS                         = 0x170
	offRIP                            = 0x178
	offGPAT                           = 0x268
	offRDX                            = 0x310
	offFeatures                       = 0x3b0
	offXCR0                           = 0x3e8
	offMXCSR                          = 0x408
	offFCW                            = 0x410
)

// bspEIP is where the first processor starts: the reset vector.
const bspEIP = 0xfffffff0

// page is a VMSA that is being filled.
type page [tdvf.PageSize]byte

func (p *page) u16(off int, v uint16) { binary.LittleEndian.PutUint16(p[off:], v) }
func (p *page) u32(off int, v uint32) { binary.LittleEndian.PutUint32(p[off:], v) }
func (p *page) u64(off int, v uint64) { binary.LittleEndian.PutUint64(p[off:], v) }

// segment writes a segment register: selector, attributes, limit, base.
func (p *page) segment(off int, selector, attrs uint16, limit uint32, base uint64) {
	p.u16(off, selector)
	p.u16(off+2, attrs)
	p.u32(off+4, limit)
	p.u64(off+8, base)
}

// common writes what every monitor sets: KVM turns EFER.SVME and CR4.MCE on.
func (p *page) common(shape Shape) {
	p.segment(offGDTR, 0, 0, 0xffff, 0)
	p.segment(offIDTR, 0, 0, 0xffff, 0)
	p.segment(offLDTR, 0, 0x82, 0xffff, 0)
	p.u64(offEFER, 0x1000)
	p.u64(offCR4, 0x40)
	p.u64(offDR7, 0x400)
	p.u64(offDR6, 0xffff0ff0)
	p.u64(offRFLAGS, 0x2)
	p.u64(offFeatures, shape.Features)
	p.u64(offXCR0, 0x1)
}

// patDefault is the reset value of the PAT register (APM volume 2, section 7.8.2).
const patDefault = 0x0007040600070406

// vmsa returns the save area of a processor that starts in real mode at eip.
func vmsa(eip uint32, shape Shape) []byte {
	var p page
	p.common(shape)
	cs, ss, tr := uint16(0x9b), uint16(0x93), uint16(0x8b)
	pat, rdx, mxcsr, fcw := uint64(patDefault), uint64(0x600), uint32(0), uint16(0)
	switch shape.VMM {
	case EC2:
		if eip == bspEIP {
			cs = 0x9a
		}
		ss, tr = 0x92, 0x83
	case GCE:
		pat = 0x00070106
	default: // QEMU; Validate has let nothing else through
		signature, _ := Signature(shape.VCPUType)
		rdx, mxcsr, fcw = uint64(signature), 0x1f80, 0x37f
	}
	for _, off := range []int{offES, offDS, offFS, offGS} {
		p.segment(off, 0, 0x93, 0xffff, 0)
	}
	p.segment(offCS, 0xf000, cs, 0xffff, uint64(eip&0xffff0000))
	p.segment(offSS, 0, ss, 0xffff, 0)
	p.segment(offTR, 0, tr, 0xffff, 0)
	p.u64(offCR0, 0x10)
	p.u64(offRIP, uint64(eip&0xffff))
	p.u64(offGPAT, pat)
	p.u64(offRDX, rdx)
	p.u32(offMXCSR, mxcsr)
	p.u16(offFCW, fcw)
	return p[:]
}

// vmsaSVSM returns the save area of a processor that starts in an SVSM: 32-bit
// protected mode with flat segments. SEV_FEATURES is SNPActive alone, and the
// x87 control word is 0, unlike that of a processor that starts in firmware.
func vmsaSVSM(rip uint64, shape Shape) []byte {
	var p page
	shape.Features = FeatureSNP
	p.common(shape)
	for _, off := range []int{offES, offSS, offDS, offFS} {
		p.segment(off, 0x10, 0xc93, 0xffffffff, 0)
	}
	p.segment(offCS, 0x08, 0xc9b, 0xffffffff, 0)
	p.segment(offGS, 0, 0x93, 0xffff, 0)
	p.segment(offTR, 0, 0x8b, 0xffff, 0)
	p.u64(offCR0, 0x11)
	p.u64(offRIP, rip)
	p.u64(offGPAT, patDefault)
	signature, _ := Signature(shape.VCPUType)
	p.u64(offRDX, uint64(signature))
	p.u32(offMXCSR, 0x1f80)
	return p[:]
}

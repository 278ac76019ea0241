// Package snp computes what an AMD secure processor reports for a guest at
// launch: the launch digest of SEV-SNP, with or without an SVSM, and the
// launch measurements of SEV and SEV-ES; and it builds, signs and verifies the
// ID block that names a launch digest. In come a firmware file, the hashes of
// kernel, initrd and command line, and the virtual processors; out come
// digests and structures.
//
// Definitions: AMD SEV-SNP Firmware ABI Specification 56860 1.58, sections
// 8.17 (SNP_LAUNCH_UPDATE, tables "PAGE_INFO" and "PAGE_TYPE") and 8.18
// (SNP_LAUNCH_FINISH, tables "ID block" and "ID authentication information");
// AMD64 Architecture Programmer's Manual volume 2, 24593, appendix B, table
// B-4 (VMSA); SEV API Specification 55766, section 6.4 (LAUNCH_MEASURE).
package snp

import (
	"crypto/sha512"
	"encoding/binary"
	"fmt"

	"cocoon/measurements/digest"
	"cocoon/measurements/tdvf"
)

// Page types of SNP_LAUNCH_UPDATE (section 8.17, table "PAGE_TYPE").
const (
	pageNormal     = 1
	pageVMSA       = 2
	pageZero       = 3
	pageUnmeasured = 4
	pageSecrets    = 5
	pageCPUID      = 6
)

// vmsaGPA is the address that a VMSA is measured with: all ones, cut to the
// 52 bits of a physical address and to a page.
const vmsaGPA = 0xFFFFFFFFF000

// launch is a launch digest that grows page by page.
type launch struct{ ld digest.SHA384 }

// update adds one page: the new digest is SHA-384 over the PAGE_INFO structure
// with the old one in it (section 8.17).
func (l *launch) update(typ uint8, gpa uint64, contents digest.SHA384) {
	const size = 0x70
	var b [size]byte
	copy(b[0:], l.ld[:])
	copy(b[48:], contents[:])
	binary.LittleEndian.PutUint16(b[96:], size)
	b[98] = typ
	// 99: IMI_PAGE; 100 to 102: permissions of VMPL 3, 2 and 1; all 0.
	binary.LittleEndian.PutUint64(b[104:], gpa)
	l.ld = sha512.Sum384(b[:])
}

// data adds pages with contents.
func (l *launch) data(gpa uint64, b []byte) {
	for off := 0; off < len(b); off += tdvf.PageSize {
		l.update(pageNormal, gpa+uint64(off), digest.Sum384(b[off:off+tdvf.PageSize]))
	}
}

// fill adds pages of a type that has no contents.
func (l *launch) fill(typ uint8, gpa uint64, size uint32) {
	for off := uint64(0); off < uint64(size); off += tdvf.PageSize {
		l.update(typ, gpa+off, digest.SHA384{})
	}
}

// Firmware is what a launch digest needs of a firmware file: enough to compute
// it without the file.
type Firmware struct {
	Digest   digest.SHA384     `json:"ovmf_digest"`    // launch digest after the firmware's own pages
	Sections []tdvf.SEVSection `json:"sections"`       // in the order of the file
	HashGPA  uint32            `json:"hash_table_gpa"` // address of the table of kernel hashes, 0: none is read
	ResetEIP uint32            `json:"reset_eip"`      // where application processors start
}

// ReadFirmware returns the components of a firmware file that ends at 4 GiB.
func ReadFirmware(f *tdvf.Firmware) (Firmware, error) {
	var l launch
	l.data(1<<32-uint64(len(f.Data)), f.Data)
	return readFirmware(f, l.ld)
}

func readFirmware(f *tdvf.Firmware, ld digest.SHA384) (Firmware, error) {
	out := Firmware{Digest: ld}
	var err error
	if out.Sections, err = f.SEV(); err != nil {
		return out, fmt.Errorf("measuring firmware for SEV-SNP: %w", err)
	}
	if out.HashGPA, err = f.SEVHashTable(); err != nil {
		return out, fmt.Errorf("measuring firmware for SEV-SNP: %w", err)
	}
	if out.ResetEIP, err = f.SEVResetEIP(); err != nil {
		return out, fmt.Errorf("measuring firmware for SEV-SNP: %w", err)
	}
	return out, nil
}

// Validate refuses components that no launch digest follows from.
func (f *Firmware) Validate() error {
	if len(f.Sections) > 64 {
		return fmt.Errorf("%w: %d ranges of SEV metadata", ErrShape, len(f.Sections))
	}
	for i, s := range f.Sections {
		if err := s.Validate(); err != nil {
			return fmt.Errorf("range %d of SEV metadata: %w", i, err)
		}
	}
	return nil
}

// MeasuresKernel reports whether the firmware has a measured table of kernel
// hashes and a place for it.
func (f *Firmware) MeasuresKernel() bool {
	for _, s := range f.Sections {
		if s.Type == tdvf.SEVKernelHashes && s.Size > 0 {
			return f.HashGPA != 0
		}
	}
	return false
}

// Measure returns the launch digest of an SEV-SNP guest. kernel is nil where
// the firmware boots from a disk.
func Measure(f Firmware, kernel *Kernel, shape Shape) (digest.SHA384, error) {
	if err := f.Validate(); err != nil {
		return digest.SHA384{}, fmt.Errorf("computing launch digest: %w", err)
	}
	if err := shape.Validate(); err != nil {
		return digest.SHA384{}, fmt.Errorf("computing launch digest: %w", err)
	}
	if kernel != nil && !f.MeasuresKernel() {
		return digest.SHA384{}, fmt.Errorf("computing launch digest: %w", ErrNoHashes)
	}
	if shape.VCPUs > 1 && f.ResetEIP == 0 {
		return digest.SHA384{}, fmt.Errorf("computing launch digest: %w: firmware does not say where processors start", ErrShape)
	}
	l := launch{f.Digest}
	if err := l.sections(&f, kernel, shape.VMM); err != nil {
		return digest.SHA384{}, fmt.Errorf("computing launch digest: %w", err)
	}
	for i := range shape.VCPUs {
		eip := uint32(bspEIP)
		if i > 0 {
			eip = f.ResetEIP
		}
		l.update(pageVMSA, vmsaGPA, digest.Sum384(vmsa(eip, shape)))
	}
	return l.ld, nil
}

// sections adds the ranges of the SEV metadata. EC2 adds the CPUID page after
// all others, GCE leaves the firmware's own memory unmeasured.
func (l *launch) sections(f *Firmware, kernel *Kernel, vmm VMM) error {
	var late []tdvf.SEVSection
	for _, s := range f.Sections {
		gpa := uint64(s.GPA)
		switch s.Type {
		case tdvf.SEVMemory:
			if vmm == GCE {
				l.fill(pageUnmeasured, gpa, s.Size)
			} else {
				l.fill(pageZero, gpa, s.Size)
			}
		case tdvf.SEVSecrets:
			l.update(pageSecrets, gpa, digest.SHA384{})
		case tdvf.SEVCPUID:
			if vmm == EC2 {
				late = append(late, s)
			} else {
				l.update(pageCPUID, gpa, digest.SHA384{})
			}
		case tdvf.SEVCallingArea:
			l.fill(pageZero, gpa, s.Size)
		case tdvf.SEVKernelHashes:
			if kernel == nil {
				l.fill(pageZero, gpa, s.Size)
				break
			}
			page, err := kernel.page(f.HashGPA, s.Size)
			if err != nil {
				return err
			}
			l.data(gpa, page)
		}
	}
	for _, s := range late {
		l.update(pageCPUID, uint64(s.GPA), digest.SHA384{})
	}
	return nil
}

// MeasureSVSM returns the launch digest of a guest whose firmware runs under
// an SVSM: the SVSM's file ends below the firmware's variables and is what
// starts. Defined for QEMU (coconut-svsm's branch, IGVM not used).
func MeasureSVSM(firmware, svsm *tdvf.Firmware, varsSize uint32, shape Shape) (digest.SHA384, error) {
	if err := shape.Validate(); err != nil {
		return digest.SHA384{}, fmt.Errorf("computing launch digest with SVSM: %w", err)
	}
	if shape.VMM != QEMU || varsSize%tdvf.PageSize != 0 {
		return digest.SHA384{}, fmt.Errorf("computing launch digest with SVSM: %w: VMM %q, variables of %d bytes", ErrShape, shape.VMM, varsSize)
	}
	base := int64(1<<32) - int64(len(firmware.Data))
	at := base - int64(varsSize) - int64(len(svsm.Data))
	if at <= 0 {
		return digest.SHA384{}, fmt.Errorf("computing launch digest with SVSM: %w: files do not fit below 4 GiB", ErrShape)
	}
	var l launch
	l.data(uint64(base), firmware.Data)
	l.data(uint64(at), svsm.Data)
	sections, err := svsm.SEV()
	if err != nil {
		return digest.SHA384{}, fmt.Errorf("computing launch digest with SVSM: %w", err)
	}
	entry, err := svsm.SVSMEntry()
	if err != nil {
		return digest.SHA384{}, fmt.Errorf("computing launch digest with SVSM: %w", err)
	}
	if err := l.sections(&Firmware{Sections: sections}, nil, QEMU); err != nil {
		return digest.SHA384{}, fmt.Errorf("computing launch digest with SVSM: %w", err)
	}
	page := digest.Sum384(vmsaSVSM(uint64(at)+uint64(entry), shape))
	for range shape.VCPUs {
		l.update(pageVMSA, vmsaGPA, page)
	}
	return l.ld, nil
}

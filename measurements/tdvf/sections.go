package tdvf

import (
	"encoding/binary"
	"fmt"
)

// Types of the sections of a TD's memory (Design Guide section 11.2, table
// "TDVF_SECTION.Type").
const (
	BFV     = 0 // boot firmware volume: code
	CFV     = 1 // configuration firmware volume: variables
	TDHOB   = 2 // where the machine's memory is described
	TempMem = 3 // stack and heap
)

// Attributes of a section of a TD's memory.
const (
	AttrExtend  = 1 // MR.EXTEND: contents are measured
	AttrPageAug = 2 // PAGE.AUG: pages are added later, without a measurement
)

// Section is one range of a TD's memory.
type Section struct {
	Offset  uint32 // in the file
	RawSize uint32 // bytes in the file
	GPA     uint64 // guest physical address
	Size    uint64 // bytes in memory, whole pages
	Type    uint32
	Attrs   uint32
}

// TDX returns the sections of a TD's memory, in the order of the file.
func (f *Firmware) TDX() ([]Section, error) {
	const header, entry = 16, 32
	b, err := f.at(guidTDX, header)
	if err != nil {
		return nil, fmt.Errorf("reading TDVF descriptor: %w", err)
	}
	size, version, n := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	if string(b[:4]) != "TDVF" || version != 1 || n == 0 || n > maxSections || int64(size) != header+int64(n)*entry || int64(size) > int64(len(b)) {
		return nil, fmt.Errorf("reading TDVF descriptor: %w: version %d, %d sections, %d bytes", ErrFormat, version, n, size)
	}
	out := make([]Section, n)
	for i := range out {
		e := b[header+i*entry:]
		s := Section{
			Offset: binary.LittleEndian.Uint32(e), RawSize: binary.LittleEndian.Uint32(e[4:]), GPA: binary.LittleEndian.Uint64(e[8:]),
			Size: binary.LittleEndian.Uint64(e[16:]), Type: binary.LittleEndian.Uint32(e[24:]), Attrs: binary.LittleEndian.Uint32(e[28:]),
		}
		if err := s.check(len(f.Data)); err != nil {
			return nil, fmt.Errorf("reading TDVF section %d: %w", i, err)
		}
		out[i] = s
	}
	return out, nil
}

// check holds a section against the rules of Design Guide section 11.2.
func (s *Section) check(file int) error {
	if s.GPA%PageSize != 0 || s.Size%PageSize != 0 || s.Size == 0 || s.GPA >= fourGiB || s.Size > fourGiB-s.GPA {
		return fmt.Errorf("%w: memory %#x of %#x bytes", ErrFormat, s.GPA, s.Size)
	}
	if int64(s.Offset)+int64(s.RawSize) > int64(file) || uint64(s.RawSize) > s.Size {
		return fmt.Errorf("%w: %#x bytes at %#x of the file", ErrFormat, s.RawSize, s.Offset)
	}
	if s.Type > 7 || s.Attrs&^(AttrExtend|AttrPageAug) != 0 || s.Attrs == AttrExtend|AttrPageAug {
		return fmt.Errorf("%w: type %d with attributes %#x", ErrFormat, s.Type, s.Attrs)
	}
	// What is measured is read from the file, page by page.
	if s.Attrs&AttrExtend != 0 && uint64(s.RawSize) != s.Size {
		return fmt.Errorf("%w: %#x measured bytes, %#x in the file", ErrFormat, s.Size, s.RawSize)
	}
	return nil
}

// Types of the ranges of an SEV-SNP guest's memory (OvmfSevMetadata.asm).
const (
	SEVMemory       = 1    // SNP_SEC_MEM: pages that firmware uses before it can validate
	SEVSecrets      = 2    // SNP_SECRETS
	SEVCPUID        = 3    // CPUID
	SEVCallingArea  = 4    // SVSM_CAA
	SEVKernelHashes = 0x10 // SNP_KERNEL_HASHES
)

// SEVSection is one range of an SEV-SNP guest's memory.
type SEVSection struct {
	GPA  uint32 `json:"gpa"`  // guest physical address, whole pages
	Size uint32 `json:"size"` // bytes, whole pages
	Type uint32 `json:"type"`
}

// SEV returns the ranges of an SEV-SNP guest's memory, in the order of the
// file. A firmware without SEV metadata has none.
func (f *Firmware) SEV() ([]SEVSection, error) {
	if _, ok := f.entries[guidSEV]; !ok {
		return nil, nil
	}
	const header, entry = 16, 12
	b, err := f.at(guidSEV, header)
	if err != nil {
		return nil, fmt.Errorf("reading SEV metadata: %w", err)
	}
	size, version, n := binary.LittleEndian.Uint32(b[4:]), binary.LittleEndian.Uint32(b[8:]), binary.LittleEndian.Uint32(b[12:])
	if string(b[:4]) != "ASEV" || version != 1 || n > maxSections || int64(size) < header+int64(n)*entry || int64(size) > int64(len(b)) {
		return nil, fmt.Errorf("reading SEV metadata: %w: version %d, %d ranges, %d bytes", ErrFormat, version, n, size)
	}
	out := make([]SEVSection, n)
	for i := range out {
		e := b[header+i*entry:]
		s := SEVSection{GPA: binary.LittleEndian.Uint32(e), Size: binary.LittleEndian.Uint32(e[4:]), Type: binary.LittleEndian.Uint32(e[8:])}
		if err := s.Validate(); err != nil {
			return nil, fmt.Errorf("reading SEV metadata, range %d: %w", i, err)
		}
		out[i] = s
	}
	return out, nil
}

// maxSEVMemory bounds one range: more would be no firmware's.
const maxSEVMemory = 64 << 20

// Validate refuses a range that is not of whole pages below 4 GiB or whose
// type is not known: how it would be measured is not known then either.
func (s SEVSection) Validate() error {
	if s.GPA == 0 && s.Size == 0 && (s.Type == SEVMemory || s.Type == SEVCallingArea || s.Type == SEVKernelHashes) {
		return nil // a range that this build of the firmware leaves out
	}
	if s.GPA%PageSize != 0 || s.Size%PageSize != 0 || s.Size == 0 || s.Size > maxSEVMemory || int64(s.GPA)+int64(s.Size) > fourGiB {
		return fmt.Errorf("%w: memory %#x of %#x bytes", ErrFormat, s.GPA, s.Size)
	}
	switch s.Type {
	case SEVMemory, SEVSecrets, SEVCPUID, SEVCallingArea, SEVKernelHashes:
		return nil
	}
	return fmt.Errorf("%w: type %#x", ErrFormat, s.Type)
}

// SEVHashTable returns the address at which the table of kernel hashes is
// put, 0 where the firmware does not look at one.
func (f *Firmware) SEVHashTable() (uint32, error) {
	if _, ok := f.entries[guidSEVHash]; !ok {
		return 0, nil
	}
	return f.u32(guidSEVHash)
}

// SEVResetEIP returns the address at which application processors start.
func (f *Firmware) SEVResetEIP() (uint32, error) { return f.u32(guidSEVReset) }

// SVSMEntry returns the offset in the file at which an SVSM starts.
func (f *Firmware) SVSMEntry() (uint32, error) { return f.u32(guidSVSM) }

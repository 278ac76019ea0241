// Package rtmr has what only a TD measures: the TD HOB, the list of the
// machine's memory that QEMU hands to TDVF and that TDVF extends into RTMR0
// first. In come the firmware's sections and a memory size, out come the bytes
// of the list. The events of all four registers are in package launch, which
// has them for TPM and TD at once.
//
// Definitions: Intel TDX Virtual Firmware Design Guide 344991-004, section 8
// (measurement registers) and 4.2 (TD HOB); PI Specification 1.8, volume 3,
// section 5 (HOB structures).
package rtmr

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sort"

	"cocoon/measurements/tdvf"
)

// ErrMachine is returned for machines whose measurements are not defined.
var ErrMachine = errors.New("machine cannot be measured")

// Range is memory that the TD accepts before the firmware runs.
type Range struct {
	Start  uint64 `json:"start"`  // guest physical address, whole pages
	Length uint64 `json:"length"` // bytes, whole pages
}

// HOB says where a firmware wants the list of the machine's memory, and which
// memory it uses before it reads that list.
type HOB struct {
	Base     uint64  `json:"base"`
	Accepted []Range `json:"accepted"` // sorted, not overlapping
}

// ReadHOB returns the layout of a firmware.
func ReadHOB(f *tdvf.Firmware) (HOB, error) {
	sections, err := f.TDX()
	if err != nil {
		return HOB{}, fmt.Errorf("reading TD HOB layout: %w", err)
	}
	var h HOB
	for _, s := range sections {
		switch s.Type {
		case tdvf.TDHOB:
			if h.Base != 0 {
				return HOB{}, fmt.Errorf("reading TD HOB layout: %w: two TD HOB sections", tdvf.ErrFormat)
			}
			h.Base = s.GPA
		case tdvf.TempMem:
		default:
			continue
		}
		h.Accepted = append(h.Accepted, Range{s.GPA, s.Size})
	}
	sort.Slice(h.Accepted, func(i, j int) bool { return h.Accepted[i].Start < h.Accepted[j].Start })
	if err := h.Validate(); err != nil {
		return HOB{}, fmt.Errorf("reading TD HOB layout: %w", err)
	}
	return h, nil
}

const (
	fourGiB   = 1 << 32
	maxRanges = 64
	// splitAt is the memory size from which QEMU's q35 machine keeps 2 GiB below
	// 4 GiB and puts the rest above (hw/i386/pc_q35.c).
	splitAt  = 0xb0000000
	lowSplit = 0x80000000
)

// Validate refuses layouts that no list follows from.
func (h *HOB) Validate() error {
	if h.Base == 0 || len(h.Accepted) == 0 || len(h.Accepted) > maxRanges {
		return fmt.Errorf("%w: TD HOB at %#x with %d ranges", ErrMachine, h.Base, len(h.Accepted))
	}
	end := uint64(0)
	for _, r := range h.Accepted {
		if r.Start%tdvf.PageSize != 0 || r.Length%tdvf.PageSize != 0 || r.Length == 0 || r.Start < end || r.Start >= fourGiB || r.Length > fourGiB-r.Start {
			return fmt.Errorf("%w: range %#x of %#x bytes", ErrMachine, r.Start, r.Length)
		}
		end = r.Start + r.Length
	}
	return nil
}

// Types of memory in the list: accepted is EFI_RESOURCE_SYSTEM_MEMORY, the rest
// EFI_RESOURCE_MEMORY_UNACCEPTED.
const (
	resourceMemory     = 0
	resourceUnaccepted = 7
)

// Bytes returns the TD HOB that QEMU makes for a machine with this many bytes
// of memory (hw/i386/tdvf-hob.c): a hand-off HOB, then one resource HOB for
// each stretch of memory in the order of addresses.
func (h *HOB) Bytes(memory uint64) ([]byte, error) {
	if err := h.Validate(); err != nil {
		return nil, err
	}
	last := h.Accepted[len(h.Accepted)-1]
	if memory%(1<<20) != 0 || memory <= last.Start+last.Length || memory > 1<<46 {
		return nil, fmt.Errorf("%w: %d bytes of memory", ErrMachine, memory)
	}
	low, high := memory, uint64(0)
	if memory >= splitAt {
		low, high = lowSplit, memory-lowSplit
	}
	if last.Start+last.Length > low {
		return nil, fmt.Errorf("%w: firmware uses memory at %#x, the machine has %#x bytes there", ErrMachine, last.Start, low)
	}
	const handoff = 56
	b := make([]byte, handoff)
	binary.LittleEndian.PutUint16(b[0:], 1) // EFI_HOB_TYPE_HANDOFF
	binary.LittleEndian.PutUint16(b[2:], handoff)
	binary.LittleEndian.PutUint32(b[8:], 9) // version of the HOB definition
	at := uint64(0)
	for _, r := range h.Accepted {
		b = resource(b, resourceUnaccepted, at, r.Start-at)
		b = resource(b, resourceMemory, r.Start, r.Length)
		at = r.Start + r.Length
	}
	b = resource(b, resourceUnaccepted, at, low-at)
	b = resource(b, resourceUnaccepted, fourGiB, high)
	// EfiEndOfHobList is the address behind the end HOB of 8 bytes, which is not
	// measured.
	binary.LittleEndian.PutUint64(b[48:], h.Base+uint64(len(b))+8)
	return b, nil
}

// resource appends a resource descriptor HOB: owner 0, attributes present,
// initialized and tested. Empty stretches have none.
func resource(b []byte, typ uint32, start, length uint64) []byte {
	if length == 0 {
		return b
	}
	const size = 48
	b = binary.LittleEndian.AppendUint16(b, 3) // EFI_HOB_TYPE_RESOURCE_DESCRIPTOR
	b = binary.LittleEndian.AppendUint16(b, size)
	b = append(b, make([]byte, 4+16)...)
	b = binary.LittleEndian.AppendUint32(b, typ)
	b = binary.LittleEndian.AppendUint32(b, 7)
	b = binary.LittleEndian.AppendUint64(b, start)
	return binary.LittleEndian.AppendUint64(b, length)
}

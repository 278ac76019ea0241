// Package uki assembles a unified kernel image: one EFI application that
// carries kernel, initrd and command line as PE sections behind systemd's
// stub, which measures them into PCR 11 and starts the kernel.
//
// In go the stub and the contents, out come the image's bytes, which depend
// on nothing else: no time, no signature, no tool's version. Definitions: the
// UAPI Group's Specification 5 "Unified Kernel Image", systemd-stub(7), and
// Microsoft's PE Format, sections "Optional Header" and "Section Table".
package uki

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// MaxSize bounds stub, sections and result, in bytes.
const MaxSize = 512 << 20

// Names of sections that this package writes, and the stub's own of SBAT.
const (
	SectionCmdline = ".cmdline"
	SectionUname   = ".uname"
	SectionInitrd  = ".initrd"
	SectionLinux   = ".linux"
	SectionSBAT    = ".sbat"
)

// ErrStub is returned for a stub that cannot be extended.
var ErrStub = errors.New("not a stub that sections can be added to")

// Contents are what an image carries. There is no .osrel on purpose: the stub
// would wrap it into an archive of its own making and append that to the
// initrd. Without it the initrd that runs, and that PCR 9 measures, is the
// file.
type Contents struct {
	Cmdline string // exact bytes, no newline; the stub takes no other
	Uname   string // uname -r of the kernel
	Initrd  []byte
	Kernel  []byte // a PE image: bzImage with EFI stub
}

// Section is one named part of an image.
type Section struct {
	Name string // at most 8 bytes
	Data []byte
}

// Sections returns the contents in the order in which they lie in the file.
func (c Contents) Sections() []Section {
	return []Section{
		{SectionCmdline, []byte(c.Cmdline)},
		{SectionUname, []byte(c.Uname)},
		{SectionLinux, c.Kernel},
		{SectionInitrd, c.Initrd},
	}
}

// Layout of the headers (PE Format).
const (
	offLfanew     = 0x3c
	coffSize      = 24 // signature and COFF file header
	offSections   = 6  // from the signature: NumberOfSections
	offOptSize    = 20 // from the signature: SizeOfOptionalHeader
	magic64       = 0x20b
	offInitData   = 8 // from the optional header: SizeOfInitializedData
	offSecAlign   = 32
	offFileAlign  = 36
	offImageSize  = 56
	offHeaderSize = 60
	offChecksum   = 64
	offDLLChars   = 70
	offDirCount   = 108
	dirSecurity   = 4
	sectionSize   = 40
	minOptSize    = offDirCount + 4

	charCode     = 0x00000020 // IMAGE_SCN_CNT_CODE
	charInitData = 0x00000040 // IMAGE_SCN_CNT_INITIALIZED_DATA
	charRead     = 0x40000000 // IMAGE_SCN_MEM_READ
	dllNXCompat  = 0x0100     // IMAGE_DLLCHARACTERISTICS_NX_COMPAT
)

// headers are the stub's headers, as far as they matter here.
type headers struct {
	opt, table, count    int // offsets of optional header and section table; sections
	secAlign, fileAlign  uint32
	headerSize, imageEnd uint32 // SizeOfHeaders; end of the last section in memory
}

// Assemble returns the image.
func Assemble(stub []byte, c Contents) ([]byte, error) {
	h, err := parse(stub)
	if err != nil {
		return nil, fmt.Errorf("assembling an image: %w", err)
	}
	sections := c.Sections()
	total := len(stub)
	for _, s := range sections {
		if len(s.Data) == 0 {
			return nil, fmt.Errorf("assembling an image: section %s is empty", s.Name)
		}
		total += len(s.Data) + int(h.fileAlign)
	}
	if total > MaxSize {
		return nil, fmt.Errorf("assembling an image: %d bytes, limit %d", total, MaxSize)
	}
	if h.table+(h.count+len(sections))*sectionSize > int(h.headerSize) {
		return nil, fmt.Errorf("assembling an image: %w: no room for %d section headers", ErrStub, len(sections))
	}
	inner, err := nxCompatible(c.Kernel)
	if err != nil {
		return nil, fmt.Errorf("assembling an image: reading the kernel: %w", err)
	}
	le := binary.LittleEndian
	out := make([]byte, 0, total)
	out = append(out, stub...)
	if err := h.mergeSBAT(out, c.Kernel); err != nil {
		return nil, fmt.Errorf("assembling an image: %w", err)
	}
	initData := le.Uint32(out[h.opt+offInitData:])
	address := h.imageEnd
	for i, s := range sections {
		out = pad(out, h.fileAlign)
		address = roundUp(address, h.secAlign)
		chars := uint32(charRead | charInitData)
		if s.Name == SectionLinux {
			chars = charRead | charCode
		}
		head := out[h.table+(h.count+i)*sectionSize:][:sectionSize]
		copy(head, make([]byte, sectionSize))
		copy(head, s.Name)
		le.PutUint32(head[8:], uint32(len(s.Data)))
		le.PutUint32(head[12:], address)
		le.PutUint32(head[16:], roundUp(uint32(len(s.Data)), h.fileAlign))
		le.PutUint32(head[20:], uint32(len(out)))
		le.PutUint32(head[36:], chars)
		out = append(out, s.Data...)
		address += uint32(len(s.Data))
		initData += uint32(len(s.Data))
	}
	out = pad(out, h.fileAlign)
	pe := h.opt - coffSize
	le.PutUint16(out[pe+offSections:], uint16(h.count+len(sections)))
	le.PutUint32(out[h.opt+offInitData:], initData)
	le.PutUint32(out[h.opt+offImageSize:], roundUp(address, h.secAlign))
	le.PutUint32(out[h.opt+offChecksum:], 0)
	if !inner { // both must say the same, or firmware that enforces it refuses
		le.PutUint16(out[h.opt+offDLLChars:], le.Uint16(out[h.opt+offDLLChars:])&^dllNXCompat)
	}
	return out, nil
}

// parse reads the stub's headers and refuses what Assemble could not extend
// correctly: another machine's, signed, or with sections out of order.
func parse(b []byte) (headers, error) {
	var h headers
	le := binary.LittleEndian
	if len(b) < offLfanew+4 || len(b) > MaxSize || !bytes.HasPrefix(b, []byte("MZ")) {
		return h, fmt.Errorf("%w: no DOS header", ErrStub)
	}
	pe := int64(le.Uint32(b[offLfanew:]))
	if pe+coffSize+minOptSize > int64(len(b)) || string(b[pe:pe+4]) != "PE\x00\x00" {
		return h, fmt.Errorf("%w: no PE header", ErrStub)
	}
	optSize := int(le.Uint16(b[pe+offOptSize:]))
	h.count, h.opt = int(le.Uint16(b[pe+offSections:])), int(pe)+coffSize
	h.table = h.opt + optSize
	if optSize < minOptSize || le.Uint16(b[h.opt:]) != magic64 || h.count == 0 || h.table+h.count*sectionSize > len(b) {
		return h, fmt.Errorf("%w: headers do not fit", ErrStub)
	}
	h.secAlign, h.fileAlign = le.Uint32(b[h.opt+offSecAlign:]), le.Uint32(b[h.opt+offFileAlign:])
	h.headerSize = le.Uint32(b[h.opt+offHeaderSize:])
	for _, a := range []uint32{h.secAlign, h.fileAlign} {
		if a < 16 || a > 1<<16 || a&(a-1) != 0 {
			return h, fmt.Errorf("%w: alignment %d", ErrStub, a)
		}
	}
	if dirs := le.Uint32(b[h.opt+offDirCount:]); dirs > dirSecurity {
		entry := h.opt + offDirCount + 4 + dirSecurity*8
		if entry+8 > h.table || le.Uint64(b[entry:]) != 0 {
			return h, fmt.Errorf("%w: it is signed", ErrStub)
		}
	}
	raw := h.headerSize
	for i := range h.count {
		s := b[h.table+i*sectionSize:]
		size, addr := le.Uint32(s[8:]), le.Uint32(s[12:])
		rawSize, rawAt := le.Uint32(s[16:]), le.Uint32(s[20:])
		if addr < h.imageEnd || size > MaxSize || addr > MaxSize || rawAt < raw || rawSize > MaxSize || int64(rawAt)+int64(rawSize) > int64(len(b)) {
			return h, fmt.Errorf("%w: section %d is out of order", ErrStub, i)
		}
		h.imageEnd, raw = addr+size, rawAt+rawSize
	}
	if int64(h.headerSize) > int64(len(b)) || int(h.headerSize) < h.table+h.count*sectionSize {
		return h, fmt.Errorf("%w: headers of %d bytes", ErrStub, h.headerSize)
	}
	return h, nil
}

// Lines of a section for revocation by generation (shim's SBAT.md): the first
// of every such section, and the component that every unified image adds.
const (
	sbatFirst = "sbat,1,SBAT Version,sbat,1,https://github.com/rhboot/shim/blob/main/SBAT.md"
	sbatUKI   = "uki,1,UKI,uki,1,https://uapi-group.org/specifications/specs/unified_kernel_image/"
)

// mergeSBAT puts the components of stub, kernel and image into the stub's own
// section in out; the padding of that section is the room for them.
func (h headers) mergeSBAT(out, kernel []byte) error {
	text := sbatFirst + "\n"
	for _, image := range [][]byte{out, kernel} {
		// A kernel's sections may lie as they like; only a well-formed list counts.
		sections, err := Read(image)
		if err != nil {
			continue
		}
		for _, s := range sections {
			if lines, ok := strings.CutPrefix(string(bytes.TrimRight(s.Data, "\x00")), sbatFirst+"\n"); ok && s.Name == SectionSBAT {
				text += strings.TrimSuffix(lines, "\n") + "\n"
			}
		}
	}
	text += sbatUKI + "\n\x00"
	for i := range h.count {
		head := out[h.table+i*sectionSize:]
		if string(bytes.TrimRight(head[:8], "\x00")) != SectionSBAT {
			continue
		}
		size, at := binary.LittleEndian.Uint32(head[16:]), binary.LittleEndian.Uint32(head[20:])
		if len(text) > int(size) {
			return fmt.Errorf("%w: no room for %d bytes of %s", ErrStub, len(text), SectionSBAT)
		}
		clear(out[at : at+size])
		copy(out[at:], text)
		binary.LittleEndian.PutUint32(head[8:], uint32(len(text)))
		return nil
	}
	return fmt.Errorf("%w: it has no section %s", ErrStub, SectionSBAT)
}

// nxCompatible reports whether a kernel says that its data need not be
// executable.
func nxCompatible(b []byte) (bool, error) {
	le := binary.LittleEndian
	if len(b) < offLfanew+4 || !bytes.HasPrefix(b, []byte("MZ")) {
		return false, errors.New("not a PE image")
	}
	pe := int64(le.Uint32(b[offLfanew:]))
	if pe+coffSize+offDLLChars+2 > int64(len(b)) || string(b[pe:pe+4]) != "PE\x00\x00" {
		return false, errors.New("not a PE image")
	}
	return le.Uint16(b[pe+coffSize+offDLLChars:])&dllNXCompat != 0, nil
}

// Read returns the sections of an image in the order of its section table,
// without padding: what the stub measures.
func Read(b []byte) ([]Section, error) {
	h, err := parse(b)
	if err != nil {
		return nil, fmt.Errorf("reading an image: %w", err)
	}
	le := binary.LittleEndian
	var out []Section
	for i := range h.count {
		s := b[h.table+i*sectionSize:]
		size, rawSize, at := le.Uint32(s[8:]), le.Uint32(s[16:]), le.Uint32(s[20:])
		name := string(bytes.TrimRight(s[:8], "\x00"))
		out = append(out, Section{Name: name, Data: b[at : at+min(size, rawSize)]})
	}
	return out, nil
}

func roundUp(n, align uint32) uint32 { return (n + align - 1) &^ (align - 1) }

func pad(b []byte, align uint32) []byte {
	return append(b, make([]byte, int(roundUp(uint32(len(b)), align))-len(b))...)
}

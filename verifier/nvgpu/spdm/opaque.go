package spdm

import (
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
)

// Types of opaque data elements, as NVIDIA's attestation SDK names them.
const (
	TagDriverVersion      = 3  // GPU: ASCII, NUL-terminated
	TagVBIOSVersion       = 6  // GPU: 8 bytes; switch: ASCII
	TagNVDEC0             = 11 // GPU: 1 byte, see NVDEC0
	TagChipSKU            = 15 // GPU: ASCII, padded, as the next four
	TagProject            = 17
	TagProjectSKU         = 18
	TagFWID               = 20 // 48 bytes; absent with old drivers
	TagProtectedPCIe      = 21 // Hopper: 1 byte, 0xAA on, 0x55 off
	TagSwitchPDI          = 22 // GPU: 18 reversed PDIs, one for each NVLink; switch: its own
	TagSwitchGPUPDIs      = 26 // switch: 8 GPUs' PDIs and a port map
	TagOpaqueVersion      = 34 // 2 bytes
	TagChipInfo           = 35 // Blackwell: ASCII, "GB100"
	TagFeatureFlag        = 36 // 2 bytes, from opaque data version 1 on
	maxElements           = 64
	links                 = 18
	pdiSize               = 8
	switchGPUs            = 8
	on, off          byte = 0xAA, 0x55
)

// Element is one type-length-value of the opaque data.
type Element struct {
	Type  uint16
	Value []byte
}

// Opaque is the opaque data of a response, in its order; no type is there
// twice. Types that this package does not know are kept.
type Opaque []Element

// ParseOpaque reads opaque data: elements of a type (2 bytes), a length (2
// bytes) and a value, without padding, to the last byte.
func ParseOpaque(p []byte) (Opaque, error) {
	var o Opaque
	for len(p) > 0 {
		if len(p) < 4 {
			return nil, bad("%d bytes after the last opaque data element", len(p))
		}
		e := Element{Type: binary.LittleEndian.Uint16(p)}
		n := int(binary.LittleEndian.Uint16(p[2:]))
		if n > len(p)-4 {
			return nil, bad("opaque data element %d of %d bytes does not fit", e.Type, n)
		}
		if len(o) == maxElements {
			return nil, bad("more than %d opaque data elements", maxElements)
		}
		if _, ok := o.Get(e.Type); ok {
			return nil, bad("opaque data element %d is there twice", e.Type)
		}
		e.Value = p[4 : 4+n : 4+n]
		o = append(o, e)
		p = p[4+n:]
	}
	return o, nil
}

// Get returns the value of a type.
func (o Opaque) Get(tag uint16) ([]byte, bool) {
	i := slices.IndexFunc(o, func(e Element) bool { return e.Type == tag })
	if i < 0 {
		return nil, false
	}
	return o[i].Value, true
}

// PDI is the 8-byte per-device identifier of a GPU or switch, in the order in
// which certificates have it.
type PDI [pdiSize]byte

// String returns lower-case hex.
func (p PDI) String() string { return hex.EncodeToString(p[:]) }

// MarshalText returns lower-case hex.
func (p PDI) MarshalText() ([]byte, error) { return []byte(p.String()), nil }

// NVDEC0 says whether measurement 35 is to be compared.
type NVDEC0 byte

// States of NVDEC0 that NVIDIA's verifiers know.
const (
	NVDEC0Absent   NVDEC0 = 0
	NVDEC0Enabled         = NVDEC0(on)
	NVDEC0Disabled        = NVDEC0(off)
)

// Values of the feature flag.
const (
	FeatureSPT   = 0 // single GPU passthrough
	FeatureMPT   = 1 // multi GPU passthrough, encrypted NVLink
	FeaturePPCIE = 2 // protected PCIe: all GPUs and switches of a board in one VM
)

// GPU is what a GPU's opaque data says.
type GPU struct {
	Driver, VBIOS                string // "550.90.07", "96.00.9F.00.01"
	Project, ProjectSKU, ChipSKU string
	ChipInfo                     string // "GB100"; empty before Blackwell
	NVDEC0                       NVDEC0
	FWID                         []byte // 48 bytes; nil: absent
	ProtectedPCIe                *bool  // Hopper; nil: absent
	Feature                      *int   // FeatureSPT …; nil: absent
	Switches                     []PDI  // at the other ends of the enabled NVLinks, distinct, sorted
}

// Switch is what an NVSwitch's opaque data says.
type Switch struct {
	BIOS string // "96.10.55.00.01"
	PDI  PDI
	GPUs []PDI // of the attached GPUs, as listed; nil: absent
}

// GPU reads the opaque data as a GPU's.
func (o Opaque) GPU() (*GPU, error) {
	d := decoder{o: o}
	g := &GPU{
		Driver: d.text(TagDriverVersion, true), VBIOS: vbios(d.fixed(TagVBIOSVersion, 8, true)),
		Project: d.text(TagProject, false), ProjectSKU: d.text(TagProjectSKU, false), ChipSKU: d.text(TagChipSKU, false),
		ChipInfo: d.text(TagChipInfo, false), FWID: d.fixed(TagFWID, ValueSize, false),
	}
	if v := d.fixed(TagNVDEC0, 1, false); v != nil {
		if g.NVDEC0 = NVDEC0(v[0]); g.NVDEC0 == NVDEC0Absent {
			d.fail(TagNVDEC0, "zero")
		}
	}
	if v := d.fixed(TagProtectedPCIe, 1, false); v != nil {
		is := v[0] == on
		g.ProtectedPCIe = &is
		if !is && v[0] != off {
			d.fail(TagProtectedPCIe, "neither on nor off")
		}
	}
	// The flag counts from version 1 on; before it nobody has seen one.
	version := d.fixed(TagOpaqueVersion, 2, false)
	if v := d.fixed(TagFeatureFlag, 2, version != nil && binary.LittleEndian.Uint16(version) >= 1); v != nil {
		n := int(binary.LittleEndian.Uint16(v))
		g.Feature = &n
	}
	if v := d.fixed(TagSwitchPDI, links*pdiSize, false); v != nil {
		for i := range links {
			p := PDI(v[i*pdiSize:])
			slices.Reverse(p[:])
			if p != (PDI{}) {
				g.Switches = append(g.Switches, p)
			}
		}
		slices.SortFunc(g.Switches, func(a, b PDI) int { return slices.Compare(a[:], b[:]) })
		g.Switches = slices.Compact(g.Switches)
	}
	return g, d.err
}

// Switch reads the opaque data as an NVSwitch's.
func (o Opaque) Switch() (*Switch, error) {
	d := decoder{o: o}
	s := &Switch{BIOS: d.text(TagVBIOSVersion, true)}
	if v := d.fixed(TagSwitchPDI, pdiSize, true); v != nil {
		s.PDI = PDI(v)
	}
	if v := d.fixed(TagSwitchGPUPDIs, 2*switchGPUs*pdiSize, false); v != nil {
		for i := range switchGPUs {
			s.GPUs = append(s.GPUs, PDI(v[i*pdiSize:]))
		}
	}
	if _, ok := o.Get(TagDriverVersion); ok {
		d.fail(TagDriverVersion, "not an element of a switch")
	}
	return s, d.err
}

// vbios writes the GPU's VBIOS version as NVIDIA does: bytes 3, 2, 1, 0 and 4
// in hex.
func vbios(b []byte) string {
	if b == nil {
		return ""
	}
	return fmt.Sprintf("%02X.%02X.%02X.%02X.%02X", b[3], b[2], b[1], b[0], b[4])
}

// decoder reads elements and keeps the first fault.
type decoder struct {
	o   Opaque
	err error
}

func (d *decoder) fail(tag uint16, what string) {
	if d.err == nil {
		d.err = bad("opaque data element %d is %s", tag, what)
	}
}

func (d *decoder) get(tag uint16, need bool) []byte {
	v, ok := d.o.Get(tag)
	if !ok && need {
		d.fail(tag, "missing")
	}
	return v
}

// fixed returns a value of exactly n bytes; nil: absent.
func (d *decoder) fixed(tag uint16, n int, need bool) []byte {
	v := d.get(tag, need)
	if v != nil && len(v) != n {
		d.fail(tag, fmt.Sprintf("%d bytes, want %d", len(v), n))
		return nil
	}
	return v
}

// text returns printable ASCII without the NUL bytes and blanks behind it.
// Versions and identifiers are short and of letters, digits and a few signs.
func (d *decoder) text(tag uint16, need bool) string {
	v := d.get(tag, need)
	s := strings.TrimRight(string(v), "\x00 ")
	if need && v != nil && s == "" {
		d.fail(tag, "empty")
	}
	if len(s) > 32 || strings.ContainsFunc(s, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && r != '.' && r != '_' && r != '-'
	}) {
		d.fail(tag, "not a short text of letters and digits")
		return ""
	}
	return s
}

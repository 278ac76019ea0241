// Package tdvf reads what an OVMF or TDVF binary says of itself: the table of
// GUIDed entries at its end, and the two descriptions of its memory layout
// that a virtual machine monitor follows when it builds a guest, that of
// Intel TDX and that of AMD SEV. In come the untrusted bytes of the file; out
// come the entries, checked to lie in the file and below 4 GiB.
//
// Definitions: edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm (table of
// GUIDed structures); Intel TDX Virtual Firmware Design Guide 344991-004,
// section 11 (TDVF descriptor and sections); edk2
// OvmfPkg/ResetVector/X64/OvmfSevMetadata.asm (SEV metadata).
package tdvf

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"

	"cocoon/measurements/digest"
)

// Limits on a firmware.
const (
	MaxSize     = 64 << 20 // bytes
	maxEntries  = 64       // of the table
	maxSections = 64       // of a description
	PageSize    = 4096
	fourGiB     = 1 << 32
)

// Errors of this package, by kind.
var (
	ErrFormat = errors.New("firmware has a wrong form")
	ErrAbsent = errors.New("firmware does not carry this description")
)

// GUID is an identifier in the mixed byte order of UEFI.
type GUID [16]byte

// The entries of the table that are used.
var (
	guidFooter   = GUID{0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d} // 96b582de-1fb2-45f7-baea-a366c55a082d
	guidTDX      = GUID{0x35, 0x65, 0x7a, 0xe4, 0x4a, 0x98, 0x98, 0x47, 0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2} // e47a6535-984a-4798-865e-4685a7bf8ec2
	guidSEV      = GUID{0x66, 0x65, 0x88, 0xdc, 0x4a, 0x98, 0x98, 0x47, 0xa7, 0x5e, 0x55, 0x85, 0xa7, 0xbf, 0x67, 0xcc} // dc886566-984a-4798-a75e-5585a7bf67cc
	guidSEVHash  = GUID{0x1f, 0x37, 0x55, 0x72, 0x3b, 0x3a, 0x04, 0x4b, 0x92, 0x7b, 0x1d, 0xa6, 0xef, 0xa8, 0xd4, 0x54} // 7255371f-3a3b-4b04-927b-1da6efa8d454
	guidSEVReset = GUID{0xde, 0x71, 0xf7, 0x00, 0x7e, 0x1a, 0xcb, 0x4f, 0x89, 0x0e, 0x68, 0xc7, 0x7e, 0x2f, 0xb4, 0x4e} // 00f771de-1a7e-4fcb-890e-68c77e2fb44e
	guidSVSM     = GUID{0x12, 0xa6, 0x89, 0xa7, 0x97, 0x05, 0x4b, 0x4c, 0xa4, 0x9f, 0xcb, 0xb1, 0xfe, 0x9d, 0x1d, 0xdd} // a789a612-0597-4c4b-a49f-cbb1fe9d1ddd
)

// ParseGUID reads the text form of a GUID.
func ParseGUID(s string) (GUID, error) {
	var g GUID
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return g, fmt.Errorf("reading GUID %.40q: %w", s, ErrFormat)
	}
	b, err := hex.DecodeString(s[0:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return g, fmt.Errorf("reading GUID %.40q: %w", s, ErrFormat)
	}
	copy(g[:], b)
	g[0], g[1], g[2], g[3] = b[3], b[2], b[1], b[0]
	g[4], g[5] = b[5], b[4]
	g[6], g[7] = b[7], b[6]
	return g, nil
}

// String returns the text form.
func (g GUID) String() string {
	return fmt.Sprintf("%08x-%04x-%04x-%x-%x", binary.LittleEndian.Uint32(g[0:]), binary.LittleEndian.Uint16(g[4:]), binary.LittleEndian.Uint16(g[6:]), g[8:10], g[10:])
}

// Firmware is a parsed binary.
type Firmware struct {
	Data    []byte // the file
	entries map[GUID][]byte
}

// Parse reads the table of GUIDed entries. A binary without one is a firmware
// that carries no description; a table that is not well-formed is an error.
func Parse(b []byte) (*Firmware, error) {
	f := &Firmware{Data: b, entries: map[GUID][]byte{}}
	if len(b) > MaxSize || len(b) < 64 || len(b)%PageSize != 0 {
		return nil, fmt.Errorf("reading firmware of %d bytes: %w, want whole pages up to %d", len(b), ErrFormat, MaxSize)
	}
	// The table ends 32 bytes before the end of the file, in front of the reset
	// vector. Each entry is data, its length as u16 (data and header), its GUID.
	const header = 18
	end := len(b) - 32
	if !bytes.Equal(b[end-16:end], guidFooter[:]) {
		return f, nil
	}
	size := int(binary.LittleEndian.Uint16(b[end-header:]))
	if size < header || size > end {
		return nil, fmt.Errorf("reading firmware table of %d bytes: %w", size, ErrFormat)
	}
	table := b[end-size : end-header]
	for len(table) > 0 {
		if len(table) < header || len(f.entries) == maxEntries {
			return nil, fmt.Errorf("reading firmware table: %w: %d entries, then %d bytes", ErrFormat, len(f.entries), len(table))
		}
		g := GUID(table[len(table)-16:])
		n := int(binary.LittleEndian.Uint16(table[len(table)-header:]))
		if n < header || n > len(table) {
			return nil, fmt.Errorf("reading firmware table: %w: entry %s of %d bytes", ErrFormat, g, n)
		}
		if _, ok := f.entries[g]; ok {
			return nil, fmt.Errorf("reading firmware table: %w: entry %s twice", ErrFormat, g)
		}
		f.entries[g] = table[len(table)-n : len(table)-header]
		table = table[:len(table)-n]
	}
	return f, nil
}

// SHA256 returns the hash of the file.
func (f *Firmware) SHA256() digest.SHA256 { return digest.Sum256(f.Data) }

// Entry returns the data of an entry of the table.
func (f *Firmware) Entry(g GUID) ([]byte, bool) {
	b, ok := f.entries[g]
	return b, ok
}

// u32 returns the first word of an entry.
func (f *Firmware) u32(g GUID) (uint32, error) {
	b, ok := f.entries[g]
	if !ok {
		return 0, fmt.Errorf("looking up entry %s: %w", g, ErrAbsent)
	}
	if len(b) < 4 {
		return 0, fmt.Errorf("looking up entry %s: %w: %d bytes", g, ErrFormat, len(b))
	}
	return binary.LittleEndian.Uint32(b), nil
}

// at returns n bytes of the description whose entry holds its distance from
// the end of the file.
func (f *Firmware) at(g GUID, n int) ([]byte, error) {
	back, err := f.u32(g)
	if err != nil {
		return nil, err
	}
	if int64(back) > int64(len(f.Data)) || int(back) < n {
		return nil, fmt.Errorf("reading description at %d bytes before the end: %w", back, ErrFormat)
	}
	return f.Data[len(f.Data)-int(back):], nil
}

// Package pe computes the Authenticode hash of a PE/COFF image: what UEFI
// firmware measures for a kernel or another EFI application, and what a
// signature over it signs. In come the untrusted bytes of the file, out comes
// the hash.
//
// Definition: "Windows Authenticode Portable Executable Signature Format",
// section "Calculating the PE Image Hash"; TCG PC Client Platform Firmware
// Profile 1.06, section 10.2.3 (UEFI_IMAGE_LOAD_EVENT digests).
package pe

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"sort"

	"cocoon/measurements/digest"
)

// MaxSize is the largest image that is read, in bytes.
const MaxSize = 512 << 20

// ErrFormat is returned for files that are no PE image, or one whose parts
// overlap or lie outside of it.
var ErrFormat = errors.New("not a well-formed PE image")

// Layout of the headers (Microsoft PE Format).
const (
	offLfanew       = 0x3c
	coffSize        = 24 // signature and COFF file header
	offSections     = 6  // from the signature: NumberOfSections
	offOptSize      = 20 // from the signature: SizeOfOptionalHeader
	magic32         = 0x10b
	magic64         = 0x20b
	offHeaderSize   = 60 // from the optional header: SizeOfHeaders
	offChecksum     = 64
	offDirCount32   = 92
	offDirCount64   = 108
	dirSecurity     = 4 // index of the certificate table
	sectionSize     = 40
	maxSections     = 96 // the loader's limit
	maxDirectories  = 16
	offRawSize      = 16 // from the section header: SizeOfRawData
	offRawPointer   = 20 // from the section header: PointerToRawData
	checksumBytes   = 4
	directoryBytes  = 8
	minOptionalSize = offChecksum + checksumBytes
)

// Authenticode256 returns the SHA-256 Authenticode hash.
func Authenticode256(image []byte) (digest.SHA256, error) {
	h := sha256.New()
	if err := authenticode(h, image); err != nil {
		return digest.SHA256{}, fmt.Errorf("hashing PE image: %w", err)
	}
	return digest.SHA256(h.Sum(nil)), nil
}

// Authenticode384 returns the SHA-384 Authenticode hash.
func Authenticode384(image []byte) (digest.SHA384, error) {
	h := sha512.New384()
	if err := authenticode(h, image); err != nil {
		return digest.SHA384{}, fmt.Errorf("hashing PE image: %w", err)
	}
	return digest.SHA384(h.Sum(nil)), nil
}

// span is a range of the file.
type span struct{ off, end int64 }

// layout is what the headers say.
type layout struct {
	headers  int64 // SizeOfHeaders
	checksum int64 // offset of the checksum
	secDir   int64 // offset of the certificate table's directory entry, 0 without one
	certs    span  // the certificate table
	sections []span
}

func authenticode(h hash.Hash, image []byte) error {
	l, err := parse(image)
	if err != nil {
		return err
	}
	// The headers, without the checksum and without the entry of the
	// certificate table: both change when the image is signed.
	h.Write(image[:l.checksum])
	rest := l.checksum + checksumBytes
	if l.secDir != 0 {
		h.Write(image[rest:l.secDir])
		rest = l.secDir + directoryBytes
	}
	h.Write(image[rest:l.headers])
	// The sections in the order of the file, then what follows them up to the
	// certificate table.
	hashed := l.headers
	for _, s := range l.sections {
		h.Write(image[s.off:s.end])
		hashed += s.end - s.off
	}
	tail := int64(len(image)) - (l.certs.end - l.certs.off)
	if hashed > tail {
		return fmt.Errorf("%w: sections reach into the certificate table", ErrFormat)
	}
	h.Write(image[hashed:tail])
	return nil
}

func parse(image []byte) (*layout, error) {
	size := int64(len(image))
	if size > MaxSize {
		return nil, fmt.Errorf("%w: %d bytes, limit %d", ErrFormat, size, int64(MaxSize))
	}
	if size < offLfanew+4 || !bytes.HasPrefix(image, []byte("MZ")) {
		return nil, fmt.Errorf("%w: no DOS header", ErrFormat)
	}
	pe := int64(binary.LittleEndian.Uint32(image[offLfanew:]))
	if pe < offLfanew+4 || pe+coffSize > size || string(image[pe:pe+4]) != "PE\x00\x00" {
		return nil, fmt.Errorf("%w: no PE signature", ErrFormat)
	}
	nsec := int64(binary.LittleEndian.Uint16(image[pe+offSections:]))
	optSize := int64(binary.LittleEndian.Uint16(image[pe+offOptSize:]))
	opt := pe + coffSize
	table := opt + optSize
	if nsec == 0 || nsec > maxSections || table+nsec*sectionSize > size || optSize < minOptionalSize {
		return nil, fmt.Errorf("%w: headers of %d sections do not fit", ErrFormat, nsec)
	}
	l := &layout{checksum: opt + offChecksum, headers: int64(binary.LittleEndian.Uint32(image[opt+offHeaderSize:]))}
	if err := l.parseDirectories(image, opt, table); err != nil {
		return nil, err
	}
	if l.headers < table+nsec*sectionSize || l.headers > size {
		return nil, fmt.Errorf("%w: headers of %d bytes", ErrFormat, l.headers)
	}
	for i := range nsec {
		s := image[table+i*sectionSize:]
		n := int64(binary.LittleEndian.Uint32(s[offRawSize:]))
		off := int64(binary.LittleEndian.Uint32(s[offRawPointer:]))
		if n == 0 {
			continue
		}
		if off < l.headers || off+n > size {
			return nil, fmt.Errorf("%w: section %d lies outside the file", ErrFormat, i)
		}
		l.sections = append(l.sections, span{off, off + n})
	}
	sort.Slice(l.sections, func(i, j int) bool { return l.sections[i].off < l.sections[j].off })
	for i := 1; i < len(l.sections); i++ {
		if l.sections[i].off < l.sections[i-1].end {
			return nil, fmt.Errorf("%w: sections overlap", ErrFormat)
		}
	}
	return l, nil
}

// parseDirectories finds the certificate table. It must end the file: then
// nothing that is not hashed can follow it.
func (l *layout) parseDirectories(image []byte, opt, table int64) error {
	var count int64
	switch binary.LittleEndian.Uint16(image[opt:]) {
	case magic32:
		count = opt + offDirCount32
	case magic64:
		count = opt + offDirCount64
	default:
		return fmt.Errorf("%w: unknown optional header", ErrFormat)
	}
	if count+4 > table {
		return fmt.Errorf("%w: optional header is too short", ErrFormat)
	}
	n := int64(binary.LittleEndian.Uint32(image[count:]))
	if n > maxDirectories || count+4+n*directoryBytes > table {
		return fmt.Errorf("%w: %d data directories", ErrFormat, n)
	}
	if n <= dirSecurity {
		return nil
	}
	l.secDir = count + 4 + dirSecurity*directoryBytes
	off := int64(binary.LittleEndian.Uint32(image[l.secDir:])) // a file offset, not an address
	size := int64(binary.LittleEndian.Uint32(image[l.secDir+4:]))
	if size == 0 {
		return nil
	}
	if off < l.headers || off+size != int64(len(image)) {
		return fmt.Errorf("%w: certificate table does not end the file", ErrFormat)
	}
	l.certs = span{off, off + size}
	return nil
}

// maxZeros bounds what sections may have in memory and not in the file, in
// bytes.
const maxZeros = 16 << 20

// Section is a section of an image as the loader lays it out in memory.
type Section struct {
	Name string // up to 8 bytes, without the padding
	Data []byte // VirtualSize bytes: what the file has of them, then zeros
}

// Sections returns the sections of an image in the order of its table. What a
// loader would not map, beyond VirtualSize, is left out; what the file lacks
// of it is zero (Microsoft PE Format, "Section Table").
func Sections(image []byte) ([]Section, error) {
	if _, err := parse(image); err != nil {
		return nil, fmt.Errorf("reading PE sections: %w", err)
	}
	pe := int64(binary.LittleEndian.Uint32(image[offLfanew:]))
	n := int(binary.LittleEndian.Uint16(image[pe+offSections:]))
	table := pe + coffSize + int64(binary.LittleEndian.Uint16(image[pe+offOptSize:]))
	zeros := int64(0)
	out := make([]Section, n)
	for i := range out {
		s := image[table+int64(i)*sectionSize:]
		virtual := int64(binary.LittleEndian.Uint32(s[8:]))
		raw := min(int64(binary.LittleEndian.Uint32(s[offRawSize:])), virtual)
		off := int64(binary.LittleEndian.Uint32(s[offRawPointer:]))
		// What the file does not hold is zeros, of which no image needs many: a
		// small file must not become a large one.
		if zeros += virtual - raw; zeros > maxZeros {
			return nil, fmt.Errorf("reading PE sections: %w: more than %d bytes that the file does not have", ErrFormat, int64(maxZeros))
		}
		out[i].Name = string(bytes.TrimRight(s[:8], "\x00"))
		switch {
		case raw == virtual && raw > 0:
			out[i].Data = image[off : off+raw]
		case virtual > 0:
			out[i].Data = make([]byte, virtual)
			if raw > 0 {
				copy(out[i].Data, image[off:off+raw])
			}
		}
	}
	return out, nil
}

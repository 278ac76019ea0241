// Package ovmf looks into an OVMF binary for what OVMF measures of itself: the
// version of its measured core, the volumes that it unpacks into memory, and
// the variables that it comes with. In come the untrusted bytes of the file,
// out come digests.
//
// Definitions: UEFI Platform Initialization Specification 1.8, volume 3,
// sections 2.2 and 3.2 (firmware volumes, files and sections); edk2
// SecurityPkg/Tcg/Tcg2Pei/Tcg2Pei.c (MeasureCRTMVersion, MeasureFvImage) and
// MdeModulePkg/Include/Guid/VariableFormat.h.
package ovmf

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/ulikunitz/xz/lzma"

	"cocoon/measurements/tdvf"
)

// Limits on what is unpacked and walked.
const (
	maxUnpacked   = 64 << 20 // bytes, of all compressed sections together
	maxDictionary = 32 << 20
	maxCompressed = 8 // sections
	maxFiles      = 4096
)

// Errors of this package, by kind.
var (
	ErrFormat = errors.New("firmware volume has a wrong form")
	ErrAbsent = errors.New("firmware does not have this part")
)

var (
	guidLZMA    = tdvf.GUID{0x98, 0x58, 0x4e, 0xee, 0x14, 0x39, 0x59, 0x42, 0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf} // ee4e5898-3914-4259-9d6e-dc7bd79403cf
	guidTcg2Pei = tdvf.GUID{0x77, 0x8b, 0xc9, 0xa0, 0xa5, 0xcb, 0xb8, 0x4b, 0x99, 0x3b, 0x4a, 0xf6, 0xce, 0x33, 0xec, 0xe4} // a0c98b77-cba5-4bb8-993b-4af6ce33ece4
	guidNVData  = tdvf.GUID{0x8d, 0x2b, 0xf1, 0xff, 0x96, 0x76, 0x8b, 0x4c, 0xa9, 0x85, 0x27, 0x47, 0x07, 0x5b, 0x4f, 0x50} // fff12b8d-7696-4c8b-a985-2747075b4f50
)

// volume is a firmware volume (PI volume 3, section 3.2.1).
type volume struct {
	guid   tdvf.GUID
	header int    // bytes before the first file
	data   []byte // the whole volume
}

// readVolume reads the header of a volume at the start of b.
func readVolume(b []byte) (volume, bool) {
	const header = 56
	if len(b) < header || string(b[40:44]) != "_FVH" {
		return volume{}, false
	}
	size, n := binary.LittleEndian.Uint64(b[32:]), int(binary.LittleEndian.Uint16(b[48:]))
	if size > uint64(len(b)) || n < header || uint64(n) > size {
		return volume{}, false
	}
	v := volume{guid: tdvf.GUID(b[16:]), header: n, data: b[:size]}
	if ext := int(binary.LittleEndian.Uint16(b[52:])); ext != 0 {
		if ext+20 > len(v.data) {
			return volume{}, false
		}
		end := uint64(ext) + uint64(binary.LittleEndian.Uint32(b[ext+16:]))
		if end < uint64(ext)+20 || end > size {
			return volume{}, false
		}
		v.header = int(end+7) &^ 7
	}
	return v, v.header <= len(v.data)
}

// volumes returns the volumes that follow each other in a file.
func volumes(b []byte) []volume {
	var out []volume
	for off := 0; off < len(b); {
		v, ok := readVolume(b[off:])
		if !ok || len(v.data) == 0 {
			off += tdvf.PageSize
			continue
		}
		out = append(out, v)
		off += len(v.data)
	}
	return out
}

// file is a file in a volume (section 3.2.3).
type file struct {
	guid tdvf.GUID
	typ  uint8
	body []byte
}

// files calls f for each file of a volume.
func (v *volume) files(f func(file) error) error {
	const header, large = 24, 32
	for off, n := v.header, 0; off+header <= len(v.data); n++ {
		h := v.data[off:]
		if allFF(h[:header]) {
			return nil
		}
		if n == maxFiles {
			return fmt.Errorf("%w: more than %d files", ErrFormat, maxFiles)
		}
		size, start := uint64(h[20])|uint64(h[21])<<8|uint64(h[22])<<16, header
		if h[19]&1 != 0 { // FFS_ATTRIB_LARGE_FILE
			if len(h) < large {
				return fmt.Errorf("%w: file header is cut", ErrFormat)
			}
			size, start = binary.LittleEndian.Uint64(h[24:]), large
		}
		if size < uint64(start) || size > uint64(len(h)) {
			return fmt.Errorf("%w: file of %d bytes", ErrFormat, size)
		}
		if err := f(file{tdvf.GUID(h), h[18], h[start:size]}); err != nil {
			return err
		}
		off += (int(size) + 7) &^ 7
	}
	return nil
}

// Types of sections (section 2.2.4) and of files that have none.
const (
	sectionGUIDed = 0x02
	sectionVolume = 0x17
	fileRaw       = 0x01
	filePad       = 0xf0
)

// sections calls f for each section of a file's body.
func sections(b []byte, f func(typ uint8, whole, body []byte) error) error {
	for n := 0; len(b) >= 4; n++ {
		size, header := uint64(b[0])|uint64(b[1])<<8|uint64(b[2])<<16, 4
		if size == 0xffffff {
			if len(b) < 8 {
				return fmt.Errorf("%w: section header is cut", ErrFormat)
			}
			size, header = uint64(binary.LittleEndian.Uint32(b[4:])), 8
		}
		if size < uint64(header) || size > uint64(len(b)) || n == maxFiles {
			return fmt.Errorf("%w: section of %d bytes", ErrFormat, size)
		}
		if err := f(b[3], b[:size], b[header:size]); err != nil {
			return err
		}
		b = b[min((int(size)+3)&^3, len(b)):]
	}
	return nil
}

// unpacked returns the volumes that a firmware holds compressed: those that
// OVMF unpacks into memory and measures, in order. budget bounds what is
// unpacked of the whole file.
func (v *volume) unpacked(budget *budget) ([][]byte, error) {
	var out [][]byte
	err := v.files(func(f file) error {
		if f.typ == fileRaw || f.typ == filePad {
			return nil
		}
		return sections(f.body, func(typ uint8, whole, _ []byte) error {
			if typ != sectionGUIDed {
				return nil
			}
			inner, err := unpackLZMA(whole, budget)
			if err != nil || inner == nil {
				return err
			}
			return sections(inner, func(typ uint8, _, body []byte) error {
				if typ == sectionVolume {
					out = append(out, body)
				}
				return nil
			})
		})
	})
	return out, err
}

// budget is what may still be unpacked.
type budget struct{ bytes, sections int }

// unpackLZMA returns the contents of a section that is compressed with LZMA,
// nil of another.
func unpackLZMA(s []byte, left *budget) ([]byte, error) {
	header := 4
	if s[0] == 0xff && s[1] == 0xff && s[2] == 0xff {
		header = 8
	}
	if len(s) < header+20 || !bytes.Equal(s[header:header+16], guidLZMA[:]) {
		return nil, nil
	}
	off := int(binary.LittleEndian.Uint16(s[header+16:]))
	if off < header+20 || off+13 > len(s) {
		return nil, fmt.Errorf("%w: compressed section", ErrFormat)
	}
	// The stream states its dictionary (u32 at 1) and its length (u64 at 5).
	if left.sections--; left.sections < 0 {
		return nil, fmt.Errorf("%w: more than %d compressed sections", ErrFormat, maxCompressed)
	}
	dictionary := binary.LittleEndian.Uint32(s[off+1:])
	if dictionary > maxDictionary || binary.LittleEndian.Uint64(s[off+5:]) > uint64(left.bytes) {
		return nil, fmt.Errorf("%w: compressed section states a size beyond %d bytes", ErrFormat, left.bytes)
	}
	r, err := lzma.ReaderConfig{DictCap: max(int(dictionary), lzma.MinDictCap)}.NewReader(bytes.NewReader(s[off:]))
	if err != nil {
		return nil, fmt.Errorf("%w: unpacking: %w", ErrFormat, err)
	}
	var out bytes.Buffer
	n, err := io.Copy(&out, io.LimitReader(r, int64(left.bytes)+1))
	if err != nil {
		return nil, fmt.Errorf("%w: unpacking: %w", ErrFormat, err)
	}
	if n > int64(left.bytes) {
		return nil, fmt.Errorf("%w: more than %d bytes unpacked", ErrFormat, maxUnpacked)
	}
	left.bytes -= int(n)
	return out.Bytes(), nil
}

func allFF(b []byte) bool {
	for _, c := range b {
		if c != 0xff {
			return false
		}
	}
	return true
}

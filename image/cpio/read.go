package cpio

import (
	"errors"
	"fmt"
	"strconv"
)

// maxEntries bounds how many entries are read.
const maxEntries = 1 << 16

// ErrFormat is returned for bytes that are no newc archive.
var ErrFormat = errors.New("not a newc archive")

// Entry is one entry of an archive that was read.
type Entry struct {
	Name  string
	Mode  uint32 // type and permissions, as st_mode
	UID   uint32
	GID   uint32
	MTime uint32
	Data  []byte // shares the archive's memory
}

const headerLen = 6 + 13*8

// Read returns the entries of an archive up to its trailer.
func Read(b []byte) ([]Entry, error) {
	var out []Entry
	for off := 0; ; {
		if len(out) >= maxEntries {
			return nil, fmt.Errorf("%w: more than %d entries", ErrFormat, maxEntries)
		}
		if len(b)-off < headerLen || string(b[off:off+6]) != "070701" {
			return nil, fmt.Errorf("%w: no header at byte %d", ErrFormat, off)
		}
		var f [13]uint32
		for i := range f {
			v, err := strconv.ParseUint(string(b[off+6+8*i:off+14+8*i]), 16, 32)
			if err != nil {
				return nil, fmt.Errorf("%w: field %d of the header at byte %d", ErrFormat, i, off)
			}
			f[i] = uint32(v)
		}
		size, nameLen := int64(f[6]), int64(f[11])
		name := int64(off + headerLen)
		data := align4(name + nameLen)
		if nameLen < 1 || nameLen > 4096 || data+size > int64(len(b)) || b[name+nameLen-1] != 0 {
			return nil, fmt.Errorf("%w: entry at byte %d does not fit", ErrFormat, off)
		}
		e := Entry{Name: string(b[name : name+nameLen-1]), Mode: f[1], UID: f[2], GID: f[3], MTime: f[5], Data: b[data : data+size]}
		if e.Name == "TRAILER!!!" {
			return out, nil
		}
		out = append(out, e)
		next := align4(data + size)
		if next > int64(len(b)) {
			return nil, fmt.Errorf("%w: entry at byte %d does not fit", ErrFormat, off)
		}
		off = int(next)
	}
}

func align4(n int64) int64 { return (n + 3) &^ 3 }

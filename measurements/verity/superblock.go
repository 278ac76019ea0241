package verity

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// Superblock holds what veritysetup and systemd-repart write into the first
// block of a hash device. It is read while an image is built, to learn which
// salt its builder chose; nothing that boots or verifies reads it.
type Superblock struct {
	DataBlocks uint64
	Salt       []byte
}

// ParseSuperblock reads a version 1 superblock (cryptsetup's wiki page
// "DMVerity", section "Verity superblock format") and refuses all but
// SHA-256, hash type 1 and 4096-byte blocks.
func ParseSuperblock(b []byte) (Superblock, error) {
	const size = 512
	if len(b) < size {
		return Superblock{}, errors.New("superblock is cut short")
	}
	le := binary.LittleEndian
	switch {
	case string(b[:8]) != "verity\x00\x00":
		return Superblock{}, errors.New("superblock has no verity signature")
	case le.Uint32(b[8:]) != 1:
		return Superblock{}, fmt.Errorf("superblock version %d: want 1", le.Uint32(b[8:]))
	case le.Uint32(b[12:]) != 1:
		return Superblock{}, fmt.Errorf("hash type %d: want 1", le.Uint32(b[12:]))
	case string(b[32:39]) != "sha256\x00":
		return Superblock{}, errors.New("hash algorithm is not sha256")
	case le.Uint32(b[64:]) != BlockSize || le.Uint32(b[68:]) != BlockSize:
		return Superblock{}, fmt.Errorf("block sizes %d and %d: want %d", le.Uint32(b[64:]), le.Uint32(b[68:]), BlockSize)
	}
	n := le.Uint16(b[80:])
	if n == 0 || n > MaxSalt {
		return Superblock{}, fmt.Errorf("salt of %d bytes: want 1 to %d", n, MaxSalt)
	}
	s := Superblock{DataBlocks: le.Uint64(b[72:]), Salt: append([]byte{}, b[88:88+int(n)]...)}
	if err := check(s.DataBlocks, s.Salt); err != nil {
		return Superblock{}, fmt.Errorf("reading the superblock: %w", err)
	}
	return s, nil
}

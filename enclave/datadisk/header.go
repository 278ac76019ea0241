// Package datadisk opens the encrypted disk on which the guest keeps what must
// survive a boot.
//
// In go a virtio disk that the host stores and a sealer; out comes a mounted
// ext4 file system. The host sees ciphertext only. Every 4096-byte block is
// encrypted (AES-256-XTS) and authenticated together with its position
// (HMAC-SHA-256) by dm-crypt, which keeps the tags in dm-integrity below it
// (admin-guide/device-mapper/dm-crypt and dm-integrity). Its key is sealed to
// the machine's measurements and stands, sealed, at the beginning of the disk.
//
// What the host can do: take the disk away, wipe it, or put back an older
// state of all or of single blocks. Changed or moved blocks are read errors.
package datadisk

import (
	"bytes"
	"errors"
	"fmt"

	"cocoon/enclave/seal"
	"cocoon/internal/jcs"
)

// Format names the layout: two slots for headers in the first two blocks, the
// dm-integrity device from DataSector on.
const Format = "cocoon-data/1"

// Layout, in bytes and in 512-byte sectors.
const (
	headerSize = 4096
	slots      = 2
	dataSector = 2048 // 1 MiB
	blockSize  = 4096
	tagSize    = 32 // HMAC-SHA-256
	keySize    = 64 + 32
	// minSize leaves room for journal, tags and a file system.
	minSize = 32 << 20
	maxSize = 16 << 40
)

// Header stands, in RFC 8785 form and padded with zeros, in a slot. The host
// can write it: it only says how to ask for the key.
//
// There are two, so that a disk that was handed over to a newer image still
// opens for the older one: each seals the same key to itself. Whoever writes a
// header writes the slot with the lower number, so that a write that is cut
// short costs nobody the newest one.
type Header struct {
	Format string `json:"format"`
	Sealer string `json:"sealer"`        // seal.Sealer's name
	Key    []byte `json:"key"`           // sealed
	Seq    uint64 `json:"seq,omitempty"` // the higher is the newer
}

// errBlank is returned for a block of zeros: a disk that is new, or wiped.
var errBlank = errors.New("the disk is blank")

// ParseHeader reads a header block.
func ParseHeader(block []byte) (*Header, error) {
	if len(block) != headerSize {
		return nil, fmt.Errorf("reading data disk header: %d bytes, want %d", len(block), headerSize)
	}
	doc := bytes.TrimRight(block, "\x00")
	if len(doc) == 0 {
		return nil, errBlank
	}
	var h Header
	if err := jcs.DecodeCanonical(doc, headerSize, &h); err != nil {
		return nil, fmt.Errorf("reading data disk header: %w", err)
	}
	if h.Format != Format {
		return nil, fmt.Errorf("reading data disk header: format %.32q, want %s", h.Format, Format)
	}
	if len(h.Key) == 0 || len(h.Key) > seal.MaxBlob || h.Sealer == "" || len(h.Sealer) > 32 {
		return nil, errors.New("reading data disk header: sealer or key is missing or too long")
	}
	return &h, nil
}

// Marshal returns the header block.
func (h *Header) Marshal() ([]byte, error) {
	doc, err := jcs.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encoding data disk header: %w", err)
	}
	if len(doc) > headerSize {
		return nil, fmt.Errorf("encoding data disk header: %d bytes, at most %d", len(doc), headerSize)
	}
	return append(doc, make([]byte, headerSize-len(doc))...), nil
}

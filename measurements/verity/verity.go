// Package verity computes and checks dm-verity hash trees.
//
// In goes a device's data, in blocks of 4096 bytes, and a salt; out comes the
// hash tree as the kernel reads it and its 32-byte root. The format is the
// kernel's Documentation/admin-guide/device-mapper/verity.rst, hash type 1
// with SHA-256, 4096-byte data and hash blocks and no superblock: every
// parameter is given by what is measured, never by the disk.
package verity

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
)

const (
	// BlockSize is the size of data and hash blocks in bytes.
	BlockSize = 4096
	// HashSize is the size of a digest in bytes.
	HashSize = sha256.Size
	// MaxSalt is the longest salt that the kernel's target takes, in bytes.
	MaxSalt = 256
	// MaxDataBlocks bounds a device to 16 TiB.
	MaxDataBlocks = 1 << 32

	fanout = BlockSize / HashSize // digests in a hash block
)

// ErrCorrupt is returned when a block does not hash to what the tree says.
var ErrCorrupt = errors.New("block does not match the hash tree")

// BlockError says which block is corrupt. It wraps ErrCorrupt.
type BlockError struct {
	Level int    // 0 is the data, 1 the hash blocks above it, and so on
	Block uint64 // index within the level
}

// Error names the block.
func (e *BlockError) Error() string {
	if e.Level == 0 {
		return fmt.Sprintf("data block %d is corrupt", e.Block)
	}
	return fmt.Sprintf("hash block %d of level %d is corrupt", e.Block, e.Level)
}

// Unwrap returns ErrCorrupt.
func (e *BlockError) Unwrap() error { return ErrCorrupt }

// check refuses sizes that the kernel would refuse or that make no sense.
func check(blocks uint64, salt []byte) error {
	if blocks == 0 || blocks > MaxDataBlocks {
		return fmt.Errorf("%d data blocks: want 1 to %d", blocks, uint64(MaxDataBlocks))
	}
	if len(salt) > MaxSalt {
		return fmt.Errorf("salt of %d bytes: want at most %d", len(salt), MaxSalt)
	}
	return nil
}

// levels returns the number of hash blocks per level, level 1 (just above the
// data) first. A single data block needs no hash block.
func levels(blocks uint64) []uint64 {
	var out []uint64
	for n := blocks; n > 1; {
		n = (n + fanout - 1) / fanout
		out = append(out, n)
	}
	return out
}

// TreeBlocks returns how many blocks the hash tree over a device has.
func TreeBlocks(blocks uint64) uint64 {
	var n uint64
	for _, l := range levels(blocks) {
		n += l
	}
	return n
}

// digest is one dm-verity hash: SHA-256 of salt, then block (hash type 1).
func digest(salt, block []byte) [HashSize]byte {
	h := sha256.New()
	h.Write(salt)
	h.Write(block)
	return [HashSize]byte(h.Sum(nil))
}

// Build reads blocks*BlockSize bytes of data and returns the hash tree, top
// level first as on disk, and the root.
func Build(data io.Reader, blocks uint64, salt []byte) (tree []byte, root [HashSize]byte, err error) {
	if err := check(blocks, salt); err != nil {
		return nil, root, fmt.Errorf("building a hash tree: %w", err)
	}
	sizes := levels(blocks)
	block := make([]byte, BlockSize)
	var below []byte // the digests of the level below
	for i := uint64(0); i < blocks; i++ {
		if _, err := io.ReadFull(data, block); err != nil {
			return nil, root, fmt.Errorf("building a hash tree: reading data block %d: %w", i, err)
		}
		d := digest(salt, block)
		below = append(below, d[:]...)
	}
	parts := make([][]byte, len(sizes))
	for l, n := range sizes {
		level := make([]byte, n*BlockSize)
		copy(level, below)
		parts[l] = level
		below = nil
		for i := uint64(0); i < n; i++ {
			d := digest(salt, level[i*BlockSize:(i+1)*BlockSize])
			below = append(below, d[:]...)
		}
	}
	for l := len(parts) - 1; l >= 0; l-- {
		tree = append(tree, parts[l]...)
	}
	copy(root[:], below)
	return tree, root, nil
}

// Verify checks every data block and every hash block of a device that holds
// blocks data blocks followed by the hash tree, against the root.
func Verify(device io.ReaderAt, blocks uint64, salt []byte, root [HashSize]byte) error {
	if err := check(blocks, salt); err != nil {
		return fmt.Errorf("verifying a hash tree: %w", err)
	}
	sizes := levels(blocks)
	// Walk from the top: a level is used only after it matched the one above.
	above, offset := append([]byte{}, root[:]...), blocks
	for l := len(sizes) - 1; l >= 0; l-- {
		level := make([]byte, 0, min(sizes[l]*BlockSize, 1<<20))
		if err := eachBlock(device, offset, sizes[l], salt, above, l+1, func(b []byte) { level = append(level, b...) }); err != nil {
			return err
		}
		above, offset = level, offset+sizes[l]
	}
	return eachBlock(device, 0, blocks, salt, above, 0, func([]byte) {})
}

// eachBlock reads n blocks from first, compares each with its digest in
// above, and hands it on.
func eachBlock(device io.ReaderAt, first, n uint64, salt, above []byte, level int, use func([]byte)) error {
	block := make([]byte, BlockSize)
	for i := uint64(0); i < n; i++ {
		if got, err := device.ReadAt(block, int64((first+i)*BlockSize)); got < BlockSize {
			return fmt.Errorf("verifying a hash tree: reading block %d: %w", first+i, err)
		}
		if digest(salt, block) != [HashSize]byte(above[i*HashSize:(i+1)*HashSize]) {
			return &BlockError{Level: level, Block: i}
		}
		use(block)
	}
	return nil
}

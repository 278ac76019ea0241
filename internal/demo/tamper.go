package demo

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"

	"cocoon/image/cpio"
	"cocoon/internal/bootargs"
	"cocoon/measurements/digest"
	"cocoon/measurements/verity"
	"cocoon/verifier/evidence"
)

// tamperInitrd adds one file to an initrd: the kernel unpacks archives that
// follow one another, so the rest works as before.
func tamperInitrd(src, dst string) error {
	b, err := os.ReadFile(src)
	if err != nil {
		return fmt.Errorf("reading initrd: %w", err)
	}
	a := cpio.New()
	if err := a.File("tampered", 0o644, []byte("one file more\n")); err != nil {
		return fmt.Errorf("changing initrd: %w", err)
	}
	buf := bytes.NewBuffer(b)
	buf.Write(make([]byte, (4-len(b)%4)%4)) // archives are aligned to 4 bytes
	if _, err := a.WriteTo(buf); err != nil {
		return fmt.Errorf("changing initrd: %w", err)
	}
	return writeFile(dst, buf.Bytes())
}

// superblockAt is where EROFS keeps its superblock; the kernel reads it to
// mount anything at all.
const superblockAt = 1024

// tamperRoot flips one byte of the root file system's first block, which boot
// cannot do without. It returns the block's dm-verity hash before and after,
// and the root that the changed file system would have.
func tamperRoot(src, dst string, root bootargs.Root) (expected, actual string, changed digest.SHA256, err error) {
	b, err := os.ReadFile(src)
	if err != nil {
		return "", "", changed, fmt.Errorf("reading root file system: %w", err)
	}
	if uint64(len(b)) < root.Blocks*verity.BlockSize {
		return "", "", changed, fmt.Errorf("root file system of %d bytes has not %d blocks", len(b), root.Blocks)
	}
	expected = blockHash(root.Salt, b[:verity.BlockSize])
	b[superblockAt+64] ^= 0x01
	actual = blockHash(root.Salt, b[:verity.BlockSize])
	_, hash, err := verity.Build(bytes.NewReader(b), root.Blocks, root.Salt)
	if err != nil {
		return "", "", changed, fmt.Errorf("hashing the changed root file system: %w", err)
	}
	return expected, actual, hash, writeFile(dst, b)
}

func blockHash(salt, block []byte) string {
	h := sha256.New()
	h.Write(salt)
	h.Write(block)
	return hex.EncodeToString(h.Sum(nil))
}

// tamperPack flips one byte of a pack at the end of the bytes
// given, and
// makes the hash tree anew, as somebody would who wants another model or
// engine to be taken for the published one. It returns the new parameters.
func tamperPack(src, dst string, v evidence.Verity, needle []byte) (evidence.Verity, error) {
	b, err := os.ReadFile(src)
	if err != nil {
		return v, fmt.Errorf("reading pack: %w", err)
	}
	size := v.DataBlocks * verity.BlockSize
	if uint64(len(b)) < size {
		return v, fmt.Errorf("pack of %d bytes, its data alone are %d", len(b), size)
	}
	data := bytes.Clone(b[:size])
	at := bytes.Index(data, needle)
	if at < 0 {
		return v, fmt.Errorf("pack does not hold the bytes that were to be changed")
	}
	data[at+len(needle)-1] ^= 0x01
	return rehash(data, dst, v)
}

// growPack adds one block to a pack behind its file system and makes the hash
// tree anew: another pack, with the same programs in it.
func growPack(src, dst string, v evidence.Verity) (evidence.Verity, error) {
	b, err := os.ReadFile(src)
	if err != nil {
		return v, fmt.Errorf("reading pack: %w", err)
	}
	size := v.DataBlocks * verity.BlockSize
	if uint64(len(b)) < size {
		return v, fmt.Errorf("pack of %d bytes, its data alone are %d", len(b), size)
	}
	data := append(bytes.Clone(b[:size]), make([]byte, verity.BlockSize)...)
	v.DataBlocks++
	return rehash(data, dst, v)
}

func rehash(data []byte, dst string, v evidence.Verity) (evidence.Verity, error) {
	tree, root, err := verity.Build(bytes.NewReader(data), v.DataBlocks, v.Salt[:])
	if err != nil {
		return v, fmt.Errorf("making pack anew: %w", err)
	}
	v.Root = root
	return v, writeFile(dst, append(data, tree...))
}

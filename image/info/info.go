// Package info describes what "make image" and "make packs" leave in
// build/image and build/packs: file names, hashes, verity parameters and the
// packages that went in.
//
// The build writes image.json and packs.json with it; measuring, hosting and
// auditing read them. The files are descriptions, not authorities: whoever
// needs a hash to be true computes it again from the artefact.
package info

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"

	"cocoon/internal/jcs"
	"cocoon/measurements/verity"
)

// Formats of the two documents.
const (
	ImageFormat = "cocoon-image/1"
	PacksFormat = "cocoon-packs/1"
)

// File names inside build/image.
const (
	Kernel    = "vmlinuz"    // bzImage of the Debian kernel package
	Initrd    = "initrd"     // zstd-compressed newc archive
	RootDisk  = "root.img"   // erofs data blocks, then the verity hash tree
	UKI       = "uki.efi"    // kernel, initrd and command line as one EFI application
	Cmdline   = "cmdline"    // kernel command line, exact bytes, no newline
	ImageFile = "image.json" // Image
	PacksFile = "packs.json" // Packs, in build/packs
)

// Disk serials by which the guest finds its disks.
const (
	RootSerial   = "cocoon-root"
	EngineSerial = "cocoon-engine"
	ModelSerial  = "cocoon-model"
)

const maxSize = 1 << 20

// Artefact is one file with its hash.
type Artefact struct {
	File   string `json:"file"`   // base name
	SHA256 string `json:"sha256"` // lower-case hex
	Size   int64  `json:"size"`   // bytes
}

// Verity holds the parameters of a dm-verity device.
type Verity struct {
	Root       string `json:"root"`        // lower-case hex, 32 bytes
	Salt       string `json:"salt"`        // lower-case hex
	DataBlocks uint64 `json:"data_blocks"` // of 4096 bytes; the hash tree follows
}

// Package is one Debian package in the root file system.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Arch    string `json:"arch"`
	SHA256  string `json:"sha256"` // of the .deb file
}

// Image is the content of build/image/image.json.
type Image struct {
	Format     string     `json:"format"`
	Name       string     `json:"name"`        // as cocoon-cpu
	Debug      bool       `json:"debug"`       // a debug image: the command line says so too
	Version    uint64     `json:"version"`     // grows with every release
	Epoch      int64      `json:"epoch"`       // SourceDateEpoch, seconds
	Go         string     `json:"go"`          // toolchain of initrd and supervisor
	KernelName string     `json:"kernel"`      // uname -r
	Cmdline    string     `json:"cmdline"`     // content of the cmdline file
	Root       Verity     `json:"root"`        // of root.img
	Artefacts  []Artefact `json:"artefacts"`   // every file beside this one
	Packages   []Package  `json:"packages"`    // of the root file system and the kernel
	ToolsExact bool       `json:"tools_exact"` // every pin of tools.lock was available

	PinsReplaced []string  `json:"pins_replaced"` // what stands for which pin
	ToolsUsed    []Package `json:"tools_used"`    // packages from outside the stable release
}

// Pack is one read-only disk that the guest mounts under dm-verity.
type Pack struct {
	Name   string  `json:"name"`   // engine or model
	File   string  `json:"file"`   // base name
	Serial string  `json:"serial"` // virtio-blk serial
	SHA256 string  `json:"sha256"` // of the whole file
	Size   int64   `json:"size"`   // bytes
	Verity Verity  `json:"verity"` // data blocks, then hash tree
	Files  []Entry `json:"files"`  // what is inside, sorted by path
}

// Entry is one regular file in a pack.
type Entry struct {
	Path   string `json:"path"`
	SHA256 string `json:"sha256"`
	Size   int64  `json:"size"`
}

// Packs is the content of build/packs/packs.json.
type Packs struct {
	Format   string    `json:"format"`
	Packs    []Pack    `json:"packs"`
	Packages []Package `json:"packages"` // Debian packages the engine is from
}

// Params decodes the verity parameters.
func (v Verity) Params() (root [verity.HashSize]byte, salt []byte, err error) {
	r, err := hex.DecodeString(v.Root)
	if err != nil || len(r) != len(root) {
		return root, nil, fmt.Errorf("decoding a verity root: want %d bytes of hex", len(root))
	}
	if salt, err = hex.DecodeString(v.Salt); err != nil || len(salt) == 0 || len(salt) > verity.MaxSalt {
		return root, nil, fmt.Errorf("decoding a verity salt: want 1 to %d bytes of hex", verity.MaxSalt)
	}
	return [verity.HashSize]byte(r), salt, nil
}

// LoadImage reads dir/image.json.
func LoadImage(dir string) (Image, error) {
	var im Image
	if err := load(filepath.Join(dir, ImageFile), &im); err != nil {
		return Image{}, err
	}
	if im.Format != ImageFormat {
		return Image{}, fmt.Errorf("image description has format %q, want %q", im.Format, ImageFormat)
	}
	return im, nil
}

// LoadPacks reads dir/packs.json.
func LoadPacks(dir string) (Packs, error) {
	var p Packs
	if err := load(filepath.Join(dir, PacksFile), &p); err != nil {
		return Packs{}, err
	}
	if p.Format != PacksFormat {
		return Packs{}, fmt.Errorf("packs description has format %q, want %q", p.Format, PacksFormat)
	}
	return p, nil
}

// Find returns the pack with a name.
func (p Packs) Find(name string) (Pack, error) {
	for _, k := range p.Packs {
		if k.Name == name {
			return k, nil
		}
	}
	return Pack{}, fmt.Errorf("packs description has no pack %q", name)
}

func load(path string, v any) error {
	doc, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("reading a build description: %w", err)
	}
	if err := jcs.Decode(doc, maxSize, v); err != nil {
		return fmt.Errorf("reading %s: %w", path, err)
	}
	return nil
}

// Write stores v as indented JSON, by temporary file and rename.
func Write(path string, v any) error {
	doc, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding %s: %w", path, err)
	}
	tmp := path + ".tmp"
	if err := os.WriteFile(tmp, append(doc, '\n'), 0o644); err != nil {
		return fmt.Errorf("writing a build description: %w", err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing a build description: %w", err)
	}
	return nil
}

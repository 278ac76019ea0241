// Package erofs lays out read-only file systems as Linux mounts them: names
// and sizes come in, the metadata blocks and the place of every file's bytes
// come out. Equal input gives equal bytes: every time is zero, every owner
// root, and the order that of the names.
//
// Everything is known before a file is read, so that whoever writes the file
// system reads each file once. There is no compression, no extended attribute,
// and no file but regular ones. The format is the kernel's fs/erofs/erofs_fs.h
// (Documentation/filesystems/erofs.rst): 4096-byte blocks, extended inodes of
// 64 bytes, flat plain layout for everything.
package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// BlockSize is the size of a block in bytes.
const BlockSize = 4096

// Limits.
const (
	MaxFiles   = 1 << 16
	MaxName    = 255     // bytes of one name
	MaxDepth   = 32      // directories in a path
	MaxSize    = 1 << 44 // bytes of all files: 16 TiB
	maxEntries = MaxFiles * 4
)

// File is a regular file to be.
type File struct {
	Path string // slash-separated and clean, relative to the root
	Size uint64 // bytes
}

// Placed is a file with its place.
type Placed struct {
	File
	Offset uint64 // in bytes; a multiple of BlockSize
}

// Layout is a file system without its files' bytes.
type Layout struct {
	Meta   []byte   // the first blocks: superblock, inodes, directories
	Blocks uint64   // of the whole file system
	Files  []Placed // in the order of their places, without gaps but for padding
}

// Offsets in the superblock, and in the image (struct erofs_super_block).
const (
	superOffset = 1024
	superSize   = 128
	uuidOffset  = superOffset + 48
	magic       = 0xE0F5E1E2
	inodeSize   = 64
	slotSize    = 32 // inode numbers count these
	rootOffset  = superOffset + superSize
	direntSize  = 12
)

// File types of directory entries, modes and formats of inodes.
const (
	typeFile   = 1
	typeDir    = 2
	modeFile   = 0o100444
	modeDir    = 0o040555
	formatFlat = 1 // extended inode, flat plain
)

// SetUUID writes the file system's identifier.
func (l *Layout) SetUUID(id [16]byte) { copy(l.Meta[uuidOffset:], id[:]) }

// dir is a directory while it is laid out.
type dir struct {
	files map[string]*Placed
	dirs  map[string]*dir

	inode  uint64 // offset of its inode
	parent *dir
	block  uint64 // of its entries
	data   []byte
}

func newDir(parent *dir) *dir {
	return &dir{files: map[string]*Placed{}, dirs: map[string]*dir{}, parent: parent}
}

// Plan lays a file system out.
func Plan(files []File) (*Layout, error) {
	p := &plan{inodes: map[*Placed]uint64{}}
	if err := p.add(files); err != nil {
		return nil, fmt.Errorf("laying out file system: %w", err)
	}
	p.number(p.root)
	p.entries(p.root)
	p.place()
	return p.write(), nil
}

type plan struct {
	root   *dir
	files  []*Placed // sorted by path
	dirs   []*dir    // in the order of their inodes
	inodes map[*Placed]uint64
	next   uint64 // offset of the next inode
	blocks uint64
}

func (p *plan) add(files []File) error {
	p.root = newDir(nil)
	if len(files) == 0 || len(files) > MaxFiles {
		return fmt.Errorf("%d files, want 1 to %d", len(files), MaxFiles)
	}
	sorted := slices.Clone(files)
	slices.SortFunc(sorted, func(a, b File) int { return strings.Compare(a.Path, b.Path) })
	total, entries := uint64(0), len(files)
	for _, f := range sorted {
		if !fs.ValidPath(f.Path) || f.Path == "." || strings.ContainsRune(f.Path, 0) {
			return fmt.Errorf("path %.200q is not clean and relative", f.Path)
		}
		if total += f.Size; f.Size > MaxSize || total > MaxSize {
			return fmt.Errorf("more than %d bytes", uint64(MaxSize))
		}
		parts := strings.Split(f.Path, "/")
		if len(parts) > MaxDepth {
			return fmt.Errorf("path %.200q is deeper than %d", f.Path, MaxDepth)
		}
		d := p.root
		for i, name := range parts {
			if len(name) > MaxName {
				return fmt.Errorf("name %.64q… has %d bytes, at most %d", name, len(name), MaxName)
			}
			if i == len(parts)-1 {
				break
			}
			if d.files[name] != nil {
				return fmt.Errorf("%.200q is a file and a directory", path.Join(parts[:i+1]...))
			}
			if d.dirs[name] == nil {
				d.dirs[name] = newDir(d)
				if entries++; entries > maxEntries {
					return errors.New("too many directories")
				}
			}
			d = d.dirs[name]
		}
		name := parts[len(parts)-1]
		if d.files[name] != nil || d.dirs[name] != nil {
			return fmt.Errorf("%.200q is there twice", f.Path)
		}
		placed := &Placed{File: f}
		d.files[name] = placed
		p.files = append(p.files, placed)
	}
	return nil
}

// number gives every inode its offset, the root first: its number has 16 bits
// in the superblock.
func (p *plan) number(d *dir) {
	if p.next == 0 {
		p.next = rootOffset
	}
	take := func() uint64 { at := p.next; p.next += inodeSize; return at }
	d.inode = take()
	p.dirs = append(p.dirs, d)
	for _, name := range sortedKeys(d.files) {
		p.inodes[d.files[name]] = take()
	}
	for _, name := range sortedKeys(d.dirs) {
		p.number(d.dirs[name])
	}
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

// entries fills the directories' blocks: in each, the entries, then their
// names; an entry belongs to one block.
func (p *plan) entries(d *dir) {
	type entry struct {
		name string
		nid  uint64
		kind byte
	}
	up := d
	if d.parent != nil {
		up = d.parent
	}
	list := []entry{{".", d.inode / slotSize, typeDir}, {"..", up.inode / slotSize, typeDir}}
	for name, f := range d.files {
		list = append(list, entry{name, p.inodes[f] / slotSize, typeFile})
	}
	for name, sub := range d.dirs {
		list = append(list, entry{name, sub.inode / slotSize, typeDir})
	}
	slices.SortFunc(list, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	for len(list) > 0 {
		n, size := 0, 0
		for n < len(list) && size+direntSize+len(list[n].name) <= BlockSize {
			size += direntSize + len(list[n].name)
			n++
		}
		block := make([]byte, 0, BlockSize)
		at := n * direntSize
		for _, e := range list[:n] {
			block = binary.LittleEndian.AppendUint64(block, e.nid)
			block = binary.LittleEndian.AppendUint16(block, uint16(at))
			block = append(block, e.kind, 0)
			at += len(e.name)
		}
		for _, e := range list[:n] {
			block = append(block, e.name...)
		}
		if list = list[n:]; len(list) > 0 {
			block = append(block, make([]byte, BlockSize-len(block))...)
		}
		d.data = append(d.data, block...)
	}
	for _, sub := range d.dirs {
		p.entries(sub)
	}
}

func blocksOf(size uint64) uint64 { return (size + BlockSize - 1) / BlockSize }

// place gives directories and files their blocks.
func (p *plan) place() {
	p.blocks = blocksOf(p.next)
	for _, d := range p.dirs {
		d.block = p.blocks
		p.blocks += blocksOf(uint64(len(d.data)))
	}
	for _, f := range p.files {
		f.Offset = p.blocks * BlockSize
		p.blocks += blocksOf(f.Size)
	}
}

// write makes the metadata.
func (p *plan) write() *Layout {
	end := p.dirs[len(p.dirs)-1]
	meta := make([]byte, (end.block+blocksOf(uint64(len(end.data))))*BlockSize)
	sb := meta[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(sb[0:], magic)
	sb[12] = 12 // log2 of the block size
	le.PutUint16(sb[14:], rootOffset/slotSize)
	le.PutUint64(sb[16:], uint64(len(p.dirs)+len(p.files)))
	le.PutUint32(sb[36:], uint32(p.blocks))
	// Inodes and their blocks count from block 0; all times are the
	// superblock's, which is zero.
	number := uint32(0)
	inode := func(at uint64, mode uint16, size, block uint64, links int) {
		number++
		b := meta[at:]
		le.PutUint16(b[0:], formatFlat)
		le.PutUint16(b[4:], mode)
		le.PutUint64(b[8:], size)
		le.PutUint32(b[16:], uint32(block))
		le.PutUint32(b[20:], number)
		le.PutUint32(b[44:], uint32(links))
	}
	for _, d := range p.dirs {
		inode(d.inode, modeDir, uint64(len(d.data)), d.block, 2+len(d.dirs))
		copy(meta[d.block*BlockSize:], d.data)
	}
	out := &Layout{Meta: meta, Blocks: p.blocks}
	for _, f := range p.files {
		block := f.Offset / BlockSize
		if f.Size == 0 {
			block = 0
		}
		inode(p.inodes[f], modeFile, f.Size, block, 1)
		out.Files = append(out.Files, *f)
	}
	return out
}

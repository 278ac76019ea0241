// Package cpio writes initramfs archives whose bytes depend on nothing but
// the names, modes and contents given.
//
// The format is "newc" of the kernel's
// Documentation/driver-api/early-userspace/buffer-format.rst: owners are
// 0:0, times 0, inode numbers count up from 1, entries are sorted by name.
package cpio

import (
	"fmt"
	"io"
	"path"
	"sort"
	"strings"
)

// File types of the mode field.
const (
	typeDir  = 0o040000
	typeFile = 0o100000
	typeChar = 0o020000
)

// maxSize is the largest file; the format has 32 bits for it.
const maxSize = 1<<31 - 1

type entry struct {
	mode         uint32
	major, minor uint32
	data         []byte
}

// Archive collects entries; parents of a path are added as they are needed.
type Archive struct {
	entries map[string]entry
}

// New returns an empty archive.
func New() *Archive { return &Archive{entries: make(map[string]entry)} }

// Dir adds a directory.
func (a *Archive) Dir(name string, perm uint32) error {
	return a.add(name, entry{mode: typeDir | perm})
}

// File adds a regular file.
func (a *Archive) File(name string, perm uint32, data []byte) error {
	if len(data) > maxSize {
		return fmt.Errorf("adding %s: %d bytes are too many for the format", name, len(data))
	}
	return a.add(name, entry{mode: typeFile | perm, data: data})
}

// Char adds a character device.
func (a *Archive) Char(name string, perm, major, minor uint32) error {
	return a.add(name, entry{mode: typeChar | perm, major: major, minor: minor})
}

func (a *Archive) add(name string, e entry) error {
	if name == "" || name != path.Clean(name) || strings.HasPrefix(name, "/") || strings.HasPrefix(name, "..") || name == "." {
		return fmt.Errorf("adding %q: want a clean relative path", name)
	}
	if old, ok := a.entries[name]; ok && (old.mode&typeDir == 0 || e.mode&typeDir == 0) {
		return fmt.Errorf("adding %s: it is there already", name)
	}
	a.entries[name] = e
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if old, ok := a.entries[dir]; !ok {
			a.entries[dir] = entry{mode: typeDir | 0o755}
		} else if old.mode&typeDir == 0 {
			return fmt.Errorf("adding %s: %s is not a directory", name, dir)
		}
	}
	return nil
}

// WriteTo writes the archive.
func (a *Archive) WriteTo(w io.Writer) (int64, error) {
	names := make([]string, 0, len(a.entries))
	for n := range a.entries {
		names = append(names, n)
	}
	sort.Strings(names) // a directory sorts before what is in it
	cw := &countWriter{w: w}
	for i, n := range names {
		if err := writeEntry(cw, uint32(i+1), n, a.entries[n]); err != nil {
			return cw.n, fmt.Errorf("writing %s: %w", n, err)
		}
	}
	if err := writeEntry(cw, 0, "TRAILER!!!", entry{}); err != nil {
		return cw.n, fmt.Errorf("writing the trailer: %w", err)
	}
	return cw.n, nil
}

func writeEntry(w io.Writer, ino uint32, name string, e entry) error {
	links := uint32(1)
	if e.mode&typeDir != 0 {
		links = 2
	}
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor,
	// rdevmajor, rdevminor, namesize, check
	head := fmt.Sprintf("070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%s\x00",
		ino, e.mode, 0, 0, links, 0, len(e.data), 0, 0, e.major, e.minor, len(name)+1, 0, name)
	for _, part := range [][]byte{[]byte(head), e.data} {
		if _, err := w.Write(part); err != nil {
			return err
		}
		if pad := (4 - len(part)%4) % 4; pad > 0 {
			if _, err := w.Write(make([]byte, pad)); err != nil {
				return err
			}
		}
	}
	return nil
}

type countWriter struct {
	w io.Writer
	n int64
}

// Write implements io.Writer.
func (c *countWriter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

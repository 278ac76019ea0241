// Package kmod loads the kernel modules that an image brings, in the order
// that the image's build wrote down.
//
// In goes a directory of uncompressed modules and the name of one of its
// lists. What is in it was measured, and the kernel checks each module's
// signature (module.sig_enforce); a list is parsed strictly all the same, so
// that a build's mistake shows as one.
package kmod

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// The lists: each has the modules of one purpose with all that they need.
const (
	Root    = "root.list"    // what leads to the root file system; in the initrd
	Base    = "base.list"    // what every machine's supervisor needs
	Vsock   = "vsock.list"   // for a vsock device
	Ciphers = "ciphers.list" // for an encrypted disk
)

// Dir is where the root file system has the modules of Base, Vsock and
// Ciphers.
const Dir = "/usr/lib/cocoon/modules"

// maxList bounds a list, in bytes.
const maxList = 64 << 10

// Module is one line of a list.
type Module struct {
	File     string // in the list's directory
	Args     string
	Optional bool // it may find no hardware
}

// Line writes m as Parse reads it.
func (m Module) Line() string {
	line := m.File
	if m.Optional {
		line = "?" + line
	}
	if m.Args != "" {
		line += " " + m.Args
	}
	return line + "\n"
}

// Parse reads a list: modules in loading order, one a line; a leading "?"
// marks one that may find no hardware, and what follows a space is its
// arguments.
func Parse(text string) ([]Module, error) {
	var out []Module
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		var m Module
		line, m.Optional = strings.CutPrefix(line, "?")
		m.File, m.Args, _ = strings.Cut(line, " ")
		if m.File == "" || m.File != filepath.Base(m.File) || strings.HasPrefix(m.File, ".") {
			return nil, fmt.Errorf("module list line %d: %.100q is not a file name", i+1, line)
		}
		out = append(out, m)
	}
	return out, nil
}

// Load loads the modules of a list of dir. One that is loaded already is fine.
func Load(dir, list string) error {
	text, err := read(filepath.Join(dir, list))
	if err != nil {
		return err
	}
	modules, err := Parse(string(text))
	if err != nil {
		return fmt.Errorf("reading %s: %w", list, err)
	}
	for _, m := range modules {
		if err := insert(filepath.Join(dir, m.File), m.Args); err != nil && !tolerable(m, err) {
			return fmt.Errorf("loading %s: %w", m.File, err)
		}
	}
	return nil
}

func read(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("reading a list of modules: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxList+1))
	if err != nil {
		return nil, fmt.Errorf("reading a list of modules: %w", err)
	}
	if len(text) > maxList {
		return nil, fmt.Errorf("reading %s: more than %d bytes", path, maxList)
	}
	return text, nil
}

// tolerable reports whether a module's refusal to load may be passed over:
// it is there already, or it is for hardware this machine lacks.
func tolerable(m Module, err error) bool {
	if errors.Is(err, unix.EEXIST) {
		return true
	}
	return m.Optional && (errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) || errors.Is(err, unix.EOPNOTSUPP))
}

func insert(path, args string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return os.NewSyscallError("finit_module", unix.FinitModule(int(f.Fd()), args, 0))
}

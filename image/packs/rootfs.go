// Package packs fills the root file system of the inference engine and turns
// directories into packs: erofs images with a dm-verity hash tree behind.
//
// In go unpacked Debian packages and the programs wanted; out comes a
// directory with those programs, the shared libraries they need, found by
// reading their ELF headers as ld.so(8) does, and nothing else.
package packs

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"sort"
	"strings"
)

// defaultLibDirs are where Debian's dynamic loader looks without being told.
var defaultLibDirs = []string{"usr/lib/x86_64-linux-gnu", "usr/lib64", "usr/lib"}

// ErrMissingLibrary reports a shared library that no unpacked package holds.
var ErrMissingLibrary = errors.New("shared library not found")

// Rootfs says what goes into an engine's root file system.
type Rootfs struct {
	From     string   // directory with unpacked packages
	Programs []string // paths of programs, relative to From
	Plugins  []string // glob patterns of libraries opened at run time
	Docs     []string // packages whose copyright files are kept
	Dirs     []string // mount points and other empty directories
	Passwd   string   // content of etc/passwd
	Group    string   // content of etc/group
}

// Build copies the root file system into dir, which must not exist.
func (r Rootfs) Build(dir string) error {
	files, err := r.closure()
	if err != nil {
		return err
	}
	for _, d := range r.Docs {
		files[path.Join("usr/share/doc", d, "copyright")] = true
	}
	names := make([]string, 0, len(files))
	for f := range files {
		names = append(names, f)
	}
	sort.Strings(names)
	for _, f := range names {
		if err := r.copy(f, dir); err != nil {
			return err
		}
	}
	for _, d := range r.Dirs {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return fmt.Errorf("filling the root file system: %w", err)
		}
	}
	links := map[string]string{"bin": "usr/bin", "lib": "usr/lib", "lib64": "usr/lib64"}
	for name, target := range links {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("filling the root file system: %w", err)
		}
	}
	if err := os.MkdirAll(filepath.Join(dir, "etc"), 0o755); err != nil {
		return fmt.Errorf("filling the root file system: %w", err)
	}
	for name, text := range map[string]string{"passwd": r.Passwd, "group": r.Group} {
		if err := os.WriteFile(filepath.Join(dir, "etc", name), []byte(text), 0o644); err != nil {
			return fmt.Errorf("filling the root file system: %w", err)
		}
	}
	return nil
}

// closure returns the programs, plugins and everything they link to, with
// the symbolic links on the way.
func (r Rootfs) closure() (map[string]bool, error) {
	todo := append([]string{}, r.Programs...)
	for _, pattern := range r.Plugins {
		found, err := fs.Glob(os.DirFS(r.From), pattern)
		if err != nil {
			return nil, fmt.Errorf("looking for plugins: %w", err)
		}
		if len(found) == 0 {
			return nil, fmt.Errorf("looking for plugins: nothing matches %s", pattern)
		}
		todo = append(todo, found...)
	}
	files := make(map[string]bool)
	for len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if files[name] {
			continue
		}
		files[name] = true
		st, err := os.Lstat(filepath.Join(r.From, name))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			target, err := r.target(name)
			if err != nil {
				return nil, err
			}
			todo = append(todo, target)
			continue
		}
		needs, err := r.needs(name)
		if err != nil {
			return nil, err
		}
		todo = append(todo, needs...)
	}
	return files, nil
}

// target resolves one symbolic link inside the tree.
func (r Rootfs) target(name string) (string, error) {
	to, err := os.Readlink(filepath.Join(r.From, name))
	if err != nil {
		return "", fmt.Errorf("reading link %s: %w", name, err)
	}
	if path.IsAbs(to) {
		to = strings.TrimPrefix(path.Clean(to), "/")
	} else {
		to = path.Join(path.Dir(name), to)
	}
	if !filepath.IsLocal(to) {
		return "", fmt.Errorf("link %s leads out of the tree, to %s", name, to)
	}
	return to, nil
}

// needs returns what one ELF file links to: its interpreter and libraries.
func (r Rootfs) needs(name string) ([]string, error) {
	f, err := elf.Open(filepath.Join(r.From, name))
	if err != nil {
		return nil, fmt.Errorf("reading ELF file %s: %w", name, err)
	}
	defer f.Close()
	var out []string
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return nil, fmt.Errorf("reading the interpreter of %s: %w", name, err)
		}
		interp := strings.TrimRight(string(b), "\x00")
		// The kernel opens it by its absolute path, through the /lib64 link.
		found := path.Join("usr", path.Clean("/"+interp))
		if _, err := os.Lstat(filepath.Join(r.From, found)); err != nil {
			return nil, fmt.Errorf("reading %s: interpreter %s: %w", name, interp, ErrMissingLibrary)
		}
		out = append(out, found)
	}
	dirs, err := libDirs(f)
	if err != nil {
		return nil, fmt.Errorf("reading the run path of %s: %w", name, err)
	}
	libs, err := f.ImportedLibraries()
	if err != nil {
		return nil, fmt.Errorf("reading the libraries of %s: %w", name, err)
	}
	for _, lib := range libs {
		found, err := r.find(lib, dirs)
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		out = append(out, found)
	}
	return out, nil
}

// libDirs returns the directories searched for a file's libraries: its own
// run path, then the defaults.
func libDirs(f *elf.File) ([]string, error) {
	var dirs []string
	for _, tag := range []elf.DynTag{elf.DT_RUNPATH, elf.DT_RPATH} {
		paths, err := f.DynString(tag)
		if err != nil {
			return nil, err
		}
		for _, p := range paths {
			for _, d := range strings.Split(p, ":") {
				if path.IsAbs(d) {
					dirs = append(dirs, strings.TrimPrefix(path.Clean(d), "/"))
				}
			}
		}
	}
	return append(dirs, defaultLibDirs...), nil
}

func (r Rootfs) find(lib string, dirs []string) (string, error) {
	for _, d := range dirs {
		p := path.Join(d, lib)
		if _, err := os.Lstat(filepath.Join(r.From, p)); err == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("looking for %s in %s: %w", lib, strings.Join(dirs, ", "), ErrMissingLibrary)
}

// copy puts one file or link of the tree into dir.
func (r Rootfs) copy(name, dir string) error {
	from, to := filepath.Join(r.From, name), filepath.Join(dir, name)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return fmt.Errorf("copying %s: %w", name, err)
	}
	st, err := os.Lstat(from)
	if err != nil {
		return fmt.Errorf("copying %s: %w", name, err)
	}
	if st.Mode()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(from)
		if err != nil {
			return fmt.Errorf("copying %s: %w", name, err)
		}
		if err := os.Symlink(target, to); err != nil {
			return fmt.Errorf("copying %s: %w", name, err)
		}
		return nil
	}
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copying %s: %w", name, err)
	}
	if err := os.WriteFile(to, data, st.Mode().Perm()); err != nil {
		return fmt.Errorf("copying %s: %w", name, err)
	}
	return nil
}

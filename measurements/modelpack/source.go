package modelpack

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cocoon/internal/erofs"
	"cocoon/internal/fault"
)

// source is a directory that becomes a pack.
type source struct {
	dir    string
	layout *erofs.Layout
	files  []File
	bytes  uint64
}

const remedySource = "give a directory that holds the model's files and nothing else"

// open looks through a directory. Symbolic links to files are followed, as
// model caches use them; links to directories are refused, for they could lead
// in a circle. Files and directories whose name begins with a dot are left out:
// they are the downloader's.
func open(dir string) (*source, error) {
	s := &source{dir: dir}
	refuse := func(format string, args ...any) error {
		return fault.New(fault.ExitInternal, CodeSource, remedySource, "looking through "+dir+": "+format, args...)
	}
	var files []erofs.File
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if p == dir {
			return nil
		}
		if d.Name()[0] == '.' {
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if d.IsDir() {
			return nil
		}
		st, err := os.Stat(p)
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("%s is neither a file nor a directory", p)
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		files = append(files, erofs.File{Path: filepath.ToSlash(rel), Size: uint64(st.Size())})
		if len(files) > erofs.MaxFiles {
			return fmt.Errorf("more than %d files", erofs.MaxFiles)
		}
		return nil
	})
	if err != nil {
		return nil, refuse("%w", err)
	}
	if len(files) == 0 {
		return nil, refuse("it holds no file")
	}
	if s.layout, err = erofs.Plan(files); err != nil {
		return nil, refuse("%w", err)
	}
	for _, f := range s.layout.Files {
		s.files = append(s.files, File(f.File))
		s.bytes += f.Size
	}
	return s, nil
}

// reader reads the file system from its first byte to its last.
type reader struct {
	ctx  context.Context
	s    *source
	meta []byte
	next int // file
	file *os.File
	left uint64 // of the file
	pad  uint64
	done func(bytes uint64)
}

func (s *source) reader(ctx context.Context, done func(uint64)) *reader {
	if done == nil {
		done = func(uint64) {}
	}
	return &reader{ctx: ctx, s: s, meta: s.layout.Meta, done: done}
}

// Read implements io.Reader.
func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	for {
		switch {
		case len(r.meta) > 0:
			n := copy(p, r.meta)
			r.meta = r.meta[n:]
			return n, nil
		case r.left > 0:
			n, err := r.file.Read(p[:min(uint64(len(p)), r.left)])
			r.left -= uint64(n)
			r.done(uint64(n))
			if n > 0 {
				return n, nil
			}
			if err == nil || errors.Is(err, io.EOF) {
				err = r.changed("it is shorter than it was")
			}
			return 0, err
		case r.pad > 0:
			n := min(uint64(len(p)), r.pad)
			clear(p[:n])
			r.pad -= n
			return int(n), nil
		}
		if err := r.turn(); err != nil {
			return 0, err
		}
	}
}

// turn closes a file that was read and opens the next.
func (r *reader) turn() error {
	if r.file != nil {
		var more [1]byte
		if n, _ := r.file.Read(more[:]); n > 0 {
			return r.changed("it is longer than it was")
		}
		r.file.Close()
		r.file = nil
	}
	if r.next == len(r.s.layout.Files) {
		return io.EOF
	}
	f := r.s.layout.Files[r.next]
	var err error
	if r.file, err = os.Open(filepath.Join(r.s.dir, filepath.FromSlash(f.Path))); err != nil {
		return fault.New(fault.ExitInternal, CodeChanged, "leave the directory alone while it is packed", "reading the model: %w", err)
	}
	r.next++
	r.left, r.pad = f.Size, (erofs.BlockSize-f.Size%erofs.BlockSize)%erofs.BlockSize
	return nil
}

func (r *reader) changed(how string) error {
	return fault.New(fault.ExitInternal, CodeChanged, "leave the directory alone while it is packed", "reading %s: %s", r.file.Name(), how)
}

// Close closes a file that is open.
func (r *reader) Close() {
	if r.file != nil {
		r.file.Close()
	}
}

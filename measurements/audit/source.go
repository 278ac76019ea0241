package audit

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"cocoon/measurements/release"
)

// maxFiles bounds the number of files in a release.
const maxFiles = 16384

// File is a file of a release.
type File struct {
	Name string // slash-separated, relative
	Size int64
}

// Content is an open file.
type Content interface {
	io.Reader
	io.ReaderAt
	io.Closer
}

// Source has the files of a release: a directory, or a saved bundle.
type Source interface {
	Files() ([]File, error) // regular files, sorted by name
	Open(name string) (Content, error)
	Close() error
}

// OpenSource opens a directory or a bundle.
func OpenSource(name string) (Source, error) {
	st, err := os.Stat(name)
	if err != nil {
		return nil, fmt.Errorf("opening release: %w", err)
	}
	if st.IsDir() {
		return dir(name), nil
	}
	return openBundle(name)
}

// ReadAll reads a file of at most max bytes.
func ReadAll(s Source, name string, max int64) ([]byte, error) {
	f, err := s.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, max+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", name, err)
	}
	if int64(len(b)) > max {
		return nil, fmt.Errorf("reading %s: it has more than %d bytes", name, max)
	}
	return b, nil
}

// ReadSaved reads what an earlier audit saw outside the release. Only a bundle
// has such: in a directory, which whoever published the release filled, a file
// of that name is nobody's memory and does not exist.
func ReadSaved(s Source, name string, max int64) ([]byte, error) {
	if _, ok := s.(*bundle); !ok {
		return nil, fmt.Errorf("opening %s: %w", name, fs.ErrNotExist)
	}
	return ReadAll(s, name, max)
}

// dir is a release in a directory.
type dir string

// Files lists the directory. A link or a device in a release is an error: an
// audit reads nothing outside.
func (d dir) Files() ([]File, error) {
	var out []File
	err := filepath.WalkDir(string(d), func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		st, err := e.Info()
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(string(d), p)
		if err != nil {
			return err
		}
		if !st.Mode().IsRegular() {
			return fmt.Errorf("%s is no regular file", rel)
		}
		if len(out) == maxFiles {
			return fmt.Errorf("more than %d files", maxFiles)
		}
		out = append(out, File{filepath.ToSlash(rel), st.Size()})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing release: %w", err)
	}
	slices.SortFunc(out, func(a, b File) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// Open implements Source.
func (d dir) Open(name string) (Content, error) {
	if !fs.ValidPath(name) {
		return nil, fmt.Errorf("opening %.128q: not a path inside the release", name)
	}
	st, err := os.Lstat(filepath.Join(string(d), filepath.FromSlash(name)))
	if err == nil && !st.Mode().IsRegular() {
		err = errors.New("it is no regular file")
	}
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	f, err := os.Open(filepath.Join(string(d), filepath.FromSlash(name)))
	if err != nil {
		return nil, fmt.Errorf("opening %s: %w", name, err)
	}
	return f, nil
}

// Close implements Source.
func (d dir) Close() error { return nil }

// bundle is a release in one uncompressed tar file, with what an audit saw
// beside it.
type bundle struct {
	f     *os.File
	files []File
	at    map[string]int64 // offset of the content
}

func openBundle(name string) (*bundle, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("opening bundle: %w", err)
	}
	b := &bundle{f: f, at: map[string]int64{}}
	if err := b.index(); err != nil {
		return nil, errors.Join(fmt.Errorf("reading bundle %s: %w", name, err), f.Close())
	}
	return b, nil
}

func (b *bundle) index() error {
	r := tar.NewReader(b.f)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		_, twice := b.at[h.Name]
		if h.Typeflag != tar.TypeReg || !fs.ValidPath(h.Name) || path.Clean(h.Name) != h.Name || twice || len(b.files) == maxFiles {
			return fmt.Errorf("entry %.128q is no file of a release, or there are too many", h.Name)
		}
		// The reader has consumed the header and nothing of the content.
		at, err := b.f.Seek(0, io.SeekCurrent)
		if err != nil {
			return err
		}
		b.at[h.Name] = at
		b.files = append(b.files, File{h.Name, h.Size})
	}
	slices.SortFunc(b.files, func(x, y File) int { return strings.Compare(x.Name, y.Name) })
	return nil
}

// Files implements Source.
func (b *bundle) Files() ([]File, error) { return b.files, nil }

// Open implements Source.
func (b *bundle) Open(name string) (Content, error) {
	i, ok := slices.BinarySearchFunc(b.files, name, func(f File, n string) int { return strings.Compare(f.Name, n) })
	if !ok {
		return nil, fmt.Errorf("opening %.128q: %w", name, fs.ErrNotExist)
	}
	return section{io.NewSectionReader(b.f, b.at[name], b.files[i].Size)}, nil
}

// Close implements Source.
func (b *bundle) Close() error { return b.f.Close() }

type section struct{ *io.SectionReader }

// Close implements io.Closer: the bundle stays open.
func (section) Close() error { return nil }

// Save writes a bundle: the files of a release and further ones by name. The
// same files give the same bytes.
func Save(w io.Writer, s Source, more map[string][]byte) error {
	files, err := s.Files()
	if err != nil {
		return err
	}
	t := tar.NewWriter(w)
	header := func(name string, size int64) error {
		return t.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0), Format: tar.FormatPAX})
	}
	_, bundled := s.(*bundle)
	for _, f := range files {
		if _, ok := more[f.Name]; ok || !bundled && strings.HasPrefix(f.Name, release.SavedDir+"/") {
			continue
		}
		err := func() error {
			c, err := s.Open(f.Name)
			if err != nil {
				return err
			}
			defer c.Close()
			if err := header(f.Name, f.Size); err != nil {
				return err
			}
			_, err = io.Copy(t, c)
			return err
		}()
		if err != nil {
			return fmt.Errorf("saving %s: %w", f.Name, err)
		}
	}
	names := make([]string, 0, len(more))
	for n := range more {
		names = append(names, n)
	}
	slices.Sort(names)
	for _, n := range names {
		if err := header(n, int64(len(more[n]))); err != nil {
			return fmt.Errorf("saving %s: %w", n, err)
		}
		if _, err := t.Write(more[n]); err != nil {
			return fmt.Errorf("saving %s: %w", n, err)
		}
	}
	if err := t.Close(); err != nil {
		return fmt.Errorf("saving bundle: %w", err)
	}
	return nil
}

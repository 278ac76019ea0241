package modelpack

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"cocoon/internal/erofs"
	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/measurements/verity"
)

// Options of Make and of the checks.
type Options struct {
	Name     string
	Revision string
	Key      *Key // encrypts the pack; nil: it stays plain
	Workers  int  // 0: one for each processor
	// Progress is told how many bytes of how many are done; nil: nobody. It is
	// called from one goroutine.
	Progress func(done, total uint64)
}

func (o *Options) counter(total uint64) func(uint64) {
	if o.Progress == nil {
		return nil
	}
	var done uint64
	return func(n uint64) { done += n; o.Progress(done, total) }
}

// Make packs a directory into a file. The file appears whole or not at all: a
// run that was cut short leaves dest+".partial", which the next one replaces.
func Make(ctx context.Context, dir, dest string, o Options) (d *Description, err error) {
	if err := CheckName(o.Name, o.Revision); err != nil {
		return nil, err
	}
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	f, err := partial(dest)
	if err != nil {
		return nil, err
	}
	defer func() {
		f.Close()
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	size := int64((s.layout.Blocks + verity.TreeBlocks(s.layout.Blocks)) * verity.BlockSize)
	// Better now than at the last percent. Where the file system cannot
	// reserve, it is found out by writing.
	if err := unix.Fallocate(int(f.Fd()), 0, 0, size); errors.Is(err, unix.ENOSPC) {
		return nil, diskFull(dest, size, err)
	}
	if d, err = s.write(ctx, f, o); err != nil {
		if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
			err = diskFull(dest, size, err)
		}
		return nil, err
	}
	return d, finish(f, dest)
}

func diskFull(dest string, size int64, err error) error {
	return fault.New(fault.ExitNotReady, CodeDiskFull, "make room there, or choose another place with --out",
		"writing %s of %d bytes: %w", dest, size, err)
}

// partial opens the file that becomes dest, alone.
func partial(dest string) (*os.File, error) {
	f, err := os.OpenFile(dest+".partial", os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "file.unwritable", "check the path and its rights", "making model pack: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		return nil, fault.New(fault.ExitNotReady, CodeBusy, "wait for the other program to end", "making model pack: %s is in use: %w", f.Name(), err)
	}
	if err := f.Truncate(0); err != nil {
		f.Close()
		return nil, fmt.Errorf("making model pack: %w", err)
	}
	return f, nil
}

// finish gives the file its name once it is on disk.
func finish(f *os.File, dest string) error {
	if err := f.Sync(); err != nil {
		return fmt.Errorf("writing model pack: %w", err)
	}
	if err := os.Rename(f.Name(), dest); err != nil {
		return fmt.Errorf("writing model pack: %w", err)
	}
	dir, err := os.Open(filepath.Dir(dest))
	if err != nil {
		return fmt.Errorf("writing model pack: %w", err)
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// write writes data, tree and description, each byte once.
func (s *source) write(ctx context.Context, f *os.File, o Options) (*Description, error) {
	var c *coder
	if o.Key != nil {
		var err error
		if c, err = newCoder(o.Key); err != nil {
			return nil, err
		}
	}
	buffers := sync.Pool{New: func() any { return new([]byte) }}
	put := func(offset int64, p []byte) error {
		if c == nil {
			_, err := f.WriteAt(p, offset)
			return err
		}
		// The hash is of what is plain, and the bytes are not ours to change.
		buf := buffers.Get().(*[]byte)
		defer buffers.Put(buf)
		*buf = append((*buf)[:0], p...)
		c.encrypt(offset, *buf)
		_, err := f.WriteAt(*buf, offset)
		return err
	}
	d, err := s.hash(ctx, o, put)
	if err != nil {
		return nil, err
	}
	if o.Key != nil {
		id := o.Key.ID()
		d.Cipher, d.KeySHA256, d.Files = Cipher, &id, []File{}
	}
	end, err := d.appendix()
	if err != nil {
		return nil, err
	}
	_, err = f.WriteAt(end, d.DeviceBytes())
	return d, err
}

// hash hashes what the directory's pack would be and hands its bytes to put,
// which may be nil.
func (s *source) hash(ctx context.Context, o Options, put func(int64, []byte) error) (*Description, error) {
	uuid, salt := identity(o.Name, o.Revision, s.layout.Meta)
	s.layout.SetUUID(uuid)
	r := s.reader(ctx, o.counter(s.bytes))
	defer r.Close()
	root, err := verity.Stream(r, s.layout.Blocks, salt[:], verity.StreamOptions{Workers: o.Workers, Data: put, Tree: put})
	if err != nil {
		return nil, err
	}
	// A file that grew after it was read is another model's.
	if err := r.end(); err != nil {
		return nil, err
	}
	return &Description{Format: Format, Name: o.Name, Revision: o.Revision, MetaBlocks: uint64(len(s.layout.Meta)) / verity.BlockSize, Bytes: s.bytes, Files: s.files,
		Verity: Verity{Root: root, Salt: salt, DataBlocks: s.layout.Blocks}}, nil
}

// end makes sure that the last file has no more bytes.
func (r *reader) end() error {
	var b [1]byte
	if n, err := r.Read(b[:]); n > 0 || err == nil {
		return errors.New("reading the model: it has more bytes than its layout")
	} else if !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// Identify computes the ID that a directory's pack would have, writing
// nothing.
func Identify(ctx context.Context, dir string, o Options) (*Description, error) {
	if err := CheckName(o.Name, o.Revision); err != nil {
		return nil, err
	}
	s, err := open(dir)
	if err != nil {
		return nil, err
	}
	return s.hash(ctx, o, nil)
}

// Verify computes a pack's hash tree again from its data and compares every
// block of it, up to the root of the description. With a key it decrypts on the
// way; an encrypted pack cannot be verified without.
func Verify(ctx context.Context, f *os.File, d *Description, o Options) error {
	var c *coder
	switch {
	case d.KeySHA256 == nil:
	case o.Key == nil:
		return fault.New(fault.ExitInternal, CodeKey, "give its key with --key", "verifying %s: it is encrypted", d.ID())
	case o.Key.ID() != *d.KeySHA256:
		return fault.Mismatch(fault.ExitRefused, CodeKey, "the key", d.KeySHA256.String(), o.Key.ID().String(), "give the key of this pack")
	default:
		var err error
		if c, err = newCoder(o.Key); err != nil {
			return err
		}
	}
	r := &deviceReader{ctx: ctx, f: f, size: int64(d.Verity.DataBlocks * verity.BlockSize), c: c, done: o.counter(d.Verity.DataBlocks * verity.BlockSize)}
	root, err := verity.Stream(r, d.Verity.DataBlocks, d.Verity.Salt[:], verity.StreamOptions{Workers: o.Workers, Tree: func(offset int64, block []byte) error {
		var onDisk [verity.BlockSize]byte
		if _, err := f.ReadAt(onDisk[:], offset); err != nil {
			return err
		}
		if c != nil {
			c.decrypt(offset, onDisk[:])
		}
		if !bytes.Equal(onDisk[:], block) {
			return errTree
		}
		return nil
	}})
	const remedy = "copy or make the pack again, and check the disk"
	switch {
	case errors.Is(err, errTree):
		return fault.New(fault.ExitRefused, CodeCorrupt, remedy, "verifying %s: its data and its hash tree do not belong together", d.ID())
	case err != nil:
		return fmt.Errorf("verifying %s: %w", d.ID(), err)
	case digest.SHA256(root) != d.Verity.Root:
		return fault.Mismatch(fault.ExitRefused, CodeCorrupt, "the pack's root", d.Verity.Root.String(), digest.SHA256(root).String(), remedy)
	}
	return d.named(f, c)
}

// named checks that name, revision and list of files are those that the data
// are salted with. It comes after the root: it reads what was verified.
func (d *Description) named(f *os.File, c *coder) error {
	meta := make([]byte, d.MetaBlocks*verity.BlockSize)
	if _, err := f.ReadAt(meta, 0); err != nil {
		return fmt.Errorf("verifying %s: %w", d.ID(), err)
	}
	if c != nil {
		c.decrypt(0, meta)
	}
	bad := func(what string) error {
		return fault.New(fault.ExitRefused, CodeCorrupt, "copy or make the pack again", "verifying %s: %s", d.ID(), what)
	}
	bare := &erofs.Layout{Meta: meta}
	bare.SetUUID([16]byte{})
	_, salt := identity(d.Name, d.Revision, meta)
	if salt != d.Verity.Salt {
		return bad("its name and revision are not those that it was made with")
	}
	if d.Cipher != "" {
		return nil
	}
	var files []erofs.File
	var sum uint64
	for _, file := range d.Files {
		files = append(files, erofs.File(file))
		sum += file.Size
	}
	layout, err := erofs.Plan(files)
	if err != nil || layout.Blocks != d.Verity.DataBlocks || !bytes.Equal(layout.Meta, meta) || sum != d.Bytes {
		return bad("its list of files is not that of its file system")
	}
	return nil
}

var errTree = errors.New("hash block differs")

// deviceReader reads a pack's data, decrypted.
type deviceReader struct {
	ctx      context.Context
	f        *os.File
	at, size int64
	c        *coder
	done     func(uint64)
}

// Read implements io.Reader for whole sectors, which is what Stream asks for.
func (r *deviceReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	if int64(len(p)) > r.size-r.at {
		p = p[:r.size-r.at]
	}
	n, err := r.f.ReadAt(p, r.at)
	if n < len(p) {
		return 0, err
	}
	if r.c != nil {
		r.c.decrypt(r.at, p)
	}
	r.at += int64(n)
	if r.done != nil {
		r.done(uint64(n))
	}
	return n, nil
}

package packs

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"cocoon/image/info"
	"cocoon/internal/toolstree"
	"cocoon/measurements/verity"
)

// Options says how a directory becomes a pack.
type Options struct {
	Tools       toolstree.Tree
	Env         []string // for its programs, beside this process's
	Name        string   // engine or model
	Serial      string   // virtio-blk serial by which the guest finds it
	Source      string   // directory with the files
	Dest        string   // path of the pack
	UUID        string   // of the erofs file system; fixed, so that bytes are
	Epoch       int64    // time of every file, in seconds
	Compression string   // mkfs.erofs -z argument, or empty for none
}

// Make writes a pack: erofs data blocks, then their hash tree.
func Make(ctx context.Context, o Options) (info.Pack, error) {
	tmp := o.Dest + ".tmp"
	defer os.Remove(tmp)
	args := []string{"--quiet", "-b" + strconv.Itoa(verity.BlockSize), "-x-1", "-T" + strconv.FormatInt(o.Epoch, 10), "--all-root", "-U" + o.UUID, "--workers=1"}
	if o.Compression != "" {
		args = append(args, "-z"+o.Compression)
	}
	os.Remove(tmp)
	cmd := o.Tools.Command(ctx, "mkfs.erofs", append(args, tmp, o.Source)...)
	cmd.Env = append(cmd.Env, o.Env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return info.Pack{}, fmt.Errorf("making the %s file system: %w\n%s", o.Name, err, out)
	}
	f, err := os.OpenFile(tmp, os.O_RDWR, 0)
	if err != nil {
		return info.Pack{}, fmt.Errorf("making the %s pack: %w", o.Name, err)
	}
	defer f.Close()
	tree, err := appendTree(f, o.Name)
	if err != nil {
		return info.Pack{}, fmt.Errorf("making the %s pack: %w", o.Name, err)
	}
	if err := f.Close(); err != nil {
		return info.Pack{}, fmt.Errorf("making the %s pack: %w", o.Name, err)
	}
	if err := os.Rename(tmp, o.Dest); err != nil {
		return info.Pack{}, fmt.Errorf("making the %s pack: %w", o.Name, err)
	}
	return Describe(o.Name, o.Serial, o.Source, o.Dest, tree)
}

// Describe describes a pack that was made of a directory.
func Describe(name, serial, source, dest string, v info.Verity) (info.Pack, error) {
	f, err := os.Open(dest)
	if err != nil {
		return info.Pack{}, fmt.Errorf("describing the %s pack: %w", name, err)
	}
	defer f.Close()
	p := info.Pack{Name: name, File: filepath.Base(dest), Serial: serial, Verity: v}
	if p.SHA256, p.Size, err = hashFile(f); err != nil {
		return info.Pack{}, fmt.Errorf("describing the %s pack: %w", name, err)
	}
	if p.Files, err = list(source); err != nil {
		return info.Pack{}, err
	}
	return p, nil
}

// appendTree pads the file to whole blocks and writes the hash tree behind.
// The salt comes from the data, so that equal data give equal packs.
func appendTree(f *os.File, name string) (info.Verity, error) {
	sum, size, err := hashFile(f)
	if err != nil {
		return info.Verity{}, err
	}
	blocks := uint64(size+verity.BlockSize-1) / verity.BlockSize
	if err := f.Truncate(int64(blocks * verity.BlockSize)); err != nil {
		return info.Verity{}, fmt.Errorf("padding: %w", err)
	}
	salt := sha256.Sum256([]byte("cocoon-pack-salt-v1\x00" + name + "\x00" + sum))
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return info.Verity{}, fmt.Errorf("reading back: %w", err)
	}
	tree, root, err := verity.Build(f, blocks, salt[:])
	if err != nil {
		return info.Verity{}, err
	}
	if _, err := f.WriteAt(tree, int64(blocks*verity.BlockSize)); err != nil {
		return info.Verity{}, fmt.Errorf("writing the hash tree: %w", err)
	}
	return info.Verity{Root: hex.EncodeToString(root[:]), Salt: hex.EncodeToString(salt[:]), DataBlocks: blocks}, nil
}

func hashFile(f *os.File) (string, int64, error) {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return "", 0, fmt.Errorf("reading back: %w", err)
	}
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return "", 0, fmt.Errorf("hashing: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), n, nil
}

// list returns the regular files below dir, sorted by path.
func list(dir string) ([]info.Entry, error) {
	var out []info.Entry
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		rel, err := filepath.Rel(dir, p)
		if err != nil {
			return err
		}
		f, err := os.Open(p)
		if err != nil {
			return err
		}
		defer f.Close()
		sum, n, err := hashFile(f)
		if err != nil {
			return err
		}
		out = append(out, info.Entry{Path: filepath.ToSlash(rel), SHA256: sum, Size: n})
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("listing %s: %w", dir, err)
	}
	return out, nil
}

package explain

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// erofs compares the file systems on two disks, file by file. The hash tree
// behind the file system follows from it.
func (o Options) erofs(ctx context.Context, name, a, b string) (places []string, err error) {
	dir, err := os.MkdirTemp(o.Temp, "explain-")
	if err != nil {
		return nil, fmt.Errorf("comparing file systems: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	var trees [2]map[string]node
	for i, image := range []string{a, b} {
		at := filepath.Join(dir, fmt.Sprint(i))
		if err := o.Extract(ctx, image, at); err != nil {
			return nil, fmt.Errorf("unpacking %s: %w", image, err)
		}
		if trees[i], err = readTree(at); err != nil {
			return nil, err
		}
	}
	return tree(name, trees[0], trees[1]), nil
}

// readTree reads a directory with everything in it.
func readTree(root string) (map[string]node, error) {
	out := make(map[string]node)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		n := node{meta: fmt.Sprintf("mode %v, time %d", st.Mode(), st.ModTime().Unix())}
		if sys, ok := st.Sys().(*syscall.Stat_t); ok {
			n.meta += fmt.Sprintf(", owner %d:%d", sys.Uid, sys.Gid)
		}
		switch {
		case st.Mode().IsRegular():
			n.data, err = os.ReadFile(path)
		case st.Mode()&fs.ModeSymlink != 0:
			var target string
			target, err = os.Readlink(path)
			n.data = []byte(target)
		}
		rel, rerr := filepath.Rel(root, path)
		if err := errors.Join(err, rerr); err != nil {
			return err
		}
		out["/"+rel] = n
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", root, err)
	}
	return out, nil
}

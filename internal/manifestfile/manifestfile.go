// Package manifestfile finds the proof of a log that lies beside a manifest's
// file. In comes the file's path, out comes the proof's text, unread.
package manifestfile

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"cocoon/measurements/log"
	"cocoon/measurements/release"
)

// Suffix of a manifest's file name, under which its proof is beside it.
const Suffix = ".inclusion"

// Inclusion returns the proof of inclusion (C2SP tlog-proof) beside a manifest:
// FILE.inclusion or, as in the directory of a release, log/inclusion; nil where
// there is neither. Where it is not wanted, because the policy names no log, it is
// only to be handed on, and what cannot be read is as good as absent.
func Inclusion(path string, wanted bool) ([]byte, error) {
	b, err := inclusion(path)
	if err != nil && !wanted {
		return nil, nil
	}
	return b, err
}

func inclusion(path string) ([]byte, error) {
	for _, name := range []string{path + Suffix, filepath.Join(filepath.Dir(path), filepath.FromSlash(release.InclusionFile))} {
		f, err := os.Open(name)
		// Beside a manifest "log" may be anything: a file, too.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading proof of inclusion: %w", err)
		}
		b, err := io.ReadAll(io.LimitReader(f, log.MaxProof+1))
		_ = f.Close() // only read
		if err != nil {
			return nil, fmt.Errorf("reading proof of inclusion: %w", err)
		}
		if len(b) > log.MaxProof {
			return nil, fmt.Errorf("reading proof of inclusion: %s has more than %d bytes", name, log.MaxProof)
		}
		return b, nil
	}
	return nil, nil
}

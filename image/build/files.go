package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cocoon/image/debs"
	"cocoon/image/info"
	"cocoon/internal/fault"
)

func packages(ds []debs.Deb) []info.Package {
	out := make([]info.Package, len(ds))
	for i, d := range ds {
		out[i] = info.Package{Name: d.Name, Version: d.Version, Arch: d.Arch, SHA256: d.SHA256}
	}
	return out
}

func artefacts(dir string, names ...string) ([]info.Artefact, error) {
	var out []info.Artefact
	for _, n := range names {
		a, err := artefact(filepath.Join(dir, n))
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

func artefact(path string) (info.Artefact, error) {
	f, err := os.Open(path)
	if err != nil {
		return info.Artefact{}, fmt.Errorf("hashing an artefact: %w", err)
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	if err != nil {
		return info.Artefact{}, fmt.Errorf("hashing %s: %w", path, err)
	}
	return info.Artefact{File: filepath.Base(path), SHA256: hex.EncodeToString(h.Sum(nil)), Size: n}, nil
}

func copyFile(from, to string) error {
	data, err := os.ReadFile(from)
	if err != nil {
		return fmt.Errorf("copying %s: %w", from, err)
	}
	return writeFiles(to, data)
}

// writeFiles writes parts one after the other into a new file.
func writeFiles(path string, parts ...[]byte) error {
	tmp := path + ".tmp"
	f, err := os.Create(tmp)
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range parts {
		if _, err := f.Write(p); err != nil {
			os.Remove(tmp)
			return fault.New(fault.ExitNotReady, "build.write", "free disk space under build/", "writing %s: %w", path, err)
		}
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	if err := os.Rename(tmp, path); err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return nil
}

// requireSpace refuses to start what cannot end: a full disk halfway leaves
// errors that name anything but the cause.
func requireSpace(dir string, bytes uint64) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("asking for free space in %s: %w", dir, err)
	}
	if free := st.Bavail * uint64(st.Bsize); free < bytes {
		return fault.Mismatch(fault.ExitNotReady, "build.disk_space", "free space in "+dir,
			fmt.Sprintf("%.1f GB", float64(bytes)/1e9), fmt.Sprintf("%.1f GB", float64(free)/1e9), "free disk space, or set COCOON_CACHE to another disk")
	}
	return nil
}

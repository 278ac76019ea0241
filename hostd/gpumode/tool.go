// Package gpumode sets the confidential-computing mode of GPUs and NVSwitches
// with NVIDIA's own tool, gpu-admin-tools' nvidia_gpu_tools.py: how a mode is
// set is not documented, differs between chips and changes with releases. In
// come devices that are bound to vfio-pci and a mode; out they come in it, or a
// fault.
//
// The tool must never be interrupted, for that leaves a device in a mode that
// is none. So it runs apart from whoever started it, holds the device's lock
// for as long as it lives, and a journal says that it was started; nothing here
// kills it, and a time limit only warns. What it says of itself is not believed:
// the mode is read from the device afterwards (package vfio).
package gpumode

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cocoon/internal/fault"
)

// Entry is the program in the tool's directory.
const Entry = "nvidia_gpu_tools.py"

// Limits of the tool's directory.
const (
	maxFiles = 512
	maxBytes = 32 << 20
)

// Tool is a version of NVIDIA's tool.
type Tool struct {
	Dir    string `json:"dir"`              // of a release of gpu-admin-tools
	SHA256 string `json:"sha256"`           // of its programs, as Hash has it
	Python string `json:"python,omitempty"` // empty: /usr/bin/python3
}

// Validate reports fields that are missing or malformed.
func (t *Tool) Validate() error {
	if t.Dir == "" {
		return errors.New("the tool has no dir")
	}
	if b, err := hex.DecodeString(t.SHA256); err != nil || len(b) != sha256.Size || strings.ToLower(t.SHA256) != t.SHA256 {
		return fmt.Errorf("the tool's sha256 %.80q is no SHA-256 in lower-case hex", t.SHA256)
	}
	return nil
}

func (t *Tool) python() string {
	if t.Python == "" {
		return "/usr/bin/python3"
	}
	return t.Python
}

// file is a program of the tool's.
type file struct {
	name    string // relative, with slashes
	content []byte
}

// read reads all programs of the tool: every *.py file below dir. Anything that
// is neither a directory nor a regular file among them is refused.
func read(dir string) ([]file, error) {
	var out []file
	total := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			if strings.HasPrefix(e.Name(), ".") && name != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".py") {
			return nil
		}
		if !e.Type().IsRegular() || strings.ContainsAny(name, "\n\\") {
			return fmt.Errorf("%.200q is not a regular file with a plain name", name)
		}
		b, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if total += len(b); total > maxBytes || len(out) >= maxFiles {
			return fmt.Errorf("more than %d files or %d bytes of programs", maxFiles, maxBytes)
		}
		out = append(out, file{filepath.ToSlash(name), b})
		return nil
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(out, func(a, b file) int { return strings.Compare(a.name, b.name) })
	if !slices.ContainsFunc(out, func(f file) bool { return f.name == Entry }) {
		return nil, fmt.Errorf("there is no %s", Entry)
	}
	return out, nil
}

// sum is the SHA-256 of the lines that sha256sum writes of the sorted files.
func sum(files []file) string {
	h := sha256.New()
	for _, f := range files {
		fmt.Fprintf(h, "%x  %s\n", sha256.Sum256(f.content), f.name)
	}
	return hex.EncodeToString(h.Sum(nil))
}

// Hash returns what pins a version of the tool: the SHA-256 of what
//
//	find * -name '*.py' | LC_ALL=C sort | xargs sha256sum
//
// writes in its directory.
func Hash(dir string) (string, error) {
	files, err := read(dir)
	if err != nil {
		return "", fault.New(fault.ExitNotReady, "gpu.tool.unreadable", "give the directory of a release of NVIDIA's gpu-admin-tools", "reading NVIDIA's tool: %w", err)
	}
	return sum(files), nil
}

// pinned returns a directory with a copy of exactly the pinned version, which
// nobody changes between the look at it and its start.
func (t *Tool) pinned(state string) (string, error) {
	to := filepath.Join(state, "tool-"+t.SHA256[:16])
	if files, err := read(to); err == nil && sum(files) == t.SHA256 {
		return to, nil
	}
	files, err := read(t.Dir)
	if err != nil {
		return "", fault.New(fault.ExitNotReady, "gpu.tool.unreadable", "give the directory of a release of NVIDIA's gpu-admin-tools", "reading NVIDIA's tool: %w", err)
	}
	if got := sum(files); got != t.SHA256 {
		return "", fault.Mismatch(fault.ExitNotReady, "gpu.tool.hash", "NVIDIA's tool in "+t.Dir, t.SHA256, got, "install the version that is pinned, or pin this one once you have looked at it: cocoon gpu tool "+t.Dir)
	}
	tmp, err := os.MkdirTemp(state, ".tool-")
	if err != nil {
		return "", fmt.Errorf("copying NVIDIA's tool: %w", err)
	}
	defer os.RemoveAll(tmp)
	for _, f := range files {
		path := filepath.Join(tmp, filepath.FromSlash(f.name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return "", fmt.Errorf("copying NVIDIA's tool: %w", err)
		}
		if err := os.WriteFile(path, f.content, 0o600); err != nil {
			return "", fmt.Errorf("copying NVIDIA's tool: %w", err)
		}
	}
	if err := os.RemoveAll(to); err != nil {
		return "", fmt.Errorf("copying NVIDIA's tool: %w", err)
	}
	if err := os.Rename(tmp, to); err != nil {
		return "", fmt.Errorf("copying NVIDIA's tool: %w", err)
	}
	return to, nil
}

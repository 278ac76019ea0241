package demo

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sort"
	"strings"

	"cocoon/internal/fault"
)

// sumsFile lists the SHA-256 of every kept file, in sha256sum's format.
const sumsFile = "SHA256SUMS"

// maxFile bounds a kept file.
const maxFile = 64 << 20

func keptFiles(dir string) ([]string, error) {
	var names []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.IsDir() {
			return nil
		}
		if rel != sumsFile {
			names = append(names, rel)
		}
		return nil
	})
	sort.Strings(names)
	return names, err
}

func hashFile(path string) (string, error) {
	st, err := os.Stat(path)
	if err != nil {
		return "", err
	}
	if !st.Mode().IsRegular() || st.Size() > maxFile {
		return "", fmt.Errorf("%s is no regular file of at most %d bytes", path, maxFile)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:]), nil
}

func writeSums(dir string) error {
	names, err := keptFiles(dir)
	if err != nil {
		return fmt.Errorf("listing kept files: %w", err)
	}
	var b bytes.Buffer
	for _, name := range names {
		sum, err := hashFile(filepath.Join(dir, name))
		if err != nil {
			return fmt.Errorf("hashing kept files: %w", err)
		}
		fmt.Fprintf(&b, "%s  %s\n", sum, filepath.ToSlash(name))
	}
	return writeFile(filepath.Join(dir, sumsFile), b.Bytes())
}

// checkSums compares every file with the list, both ways: a changed, a
// missing and an additional file each are a failure.
func checkSums(dir string) []error {
	b, err := os.ReadFile(filepath.Join(dir, sumsFile))
	if err != nil {
		return []error{fault.New(fault.ExitParse, "demo.sums", "run make demo again", "reading the list of kept files: %w", err)}
	}
	listed := map[string]string{}
	sc := bufio.NewScanner(bytes.NewReader(b))
	for sc.Scan() {
		sum, name, ok := strings.Cut(sc.Text(), "  ")
		if !ok || len(sum) != 64 || !filepath.IsLocal(name) || listed[name] != "" {
			return []error{fault.New(fault.ExitParse, "demo.sums", "run make demo again", "reading the list of kept files: malformed line %.80q", sc.Text())}
		}
		listed[name] = sum
	}
	names, err := keptFiles(dir)
	if err != nil {
		return []error{fmt.Errorf("listing kept files: %w", err)}
	}
	var errs []error
	for _, name := range names {
		want, ok := listed[filepath.ToSlash(name)]
		if !ok {
			errs = append(errs, fault.New(fault.ExitRefused, "demo.file.unknown", "remove it", "%s is not on the list of kept files", name))
			continue
		}
		delete(listed, filepath.ToSlash(name))
		got, err := hashFile(filepath.Join(dir, name))
		if err != nil {
			errs = append(errs, fmt.Errorf("hashing kept file: %w", err))
		} else if got != want {
			errs = append(errs, fault.Mismatch(fault.ExitRefused, "demo.file.changed", name, want, got, "restore the file, or run make demo again"))
		}
	}
	for name := range listed {
		errs = append(errs, fault.New(fault.ExitRefused, "demo.file.missing", "restore it, or run make demo again", "%s is on the list of kept files and absent", name))
	}
	return errs
}

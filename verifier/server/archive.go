package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"cocoon/verifier/result"
)

// archive keeps evidence and results for auditors: two files each, named by
// the evidence's SHA-256, in directories "accepted" and "refused". It stops at
// a number of bytes rather than fill the disk; refused evidence, which anyone
// can send, has a tenth of that to itself. What is older than an age, by the
// files' times, is removed.
type archive struct {
	dir string
	max map[string]int64 // bytes, by directory
	age time.Duration    // 0: nothing is removed

	mu   sync.Mutex
	size map[string]int64
}

// ArchiveLook is how often a Server with an archive is to be told to
// RemoveOldEvidence.
const ArchiveLook = time.Hour

// tempAge is after how long a file that is being written is one whose writer
// was killed.
const tempAge = time.Hour

const (
	accepted = "accepted"
	refused  = "refused"
	temp     = ".tmp-" // begins the names of files that are being written
)

var errArchiveFull = errors.New("archive is full")

func openArchive(dir string, maxBytes int64, age time.Duration) (*archive, error) {
	a := &archive{dir: dir, max: map[string]int64{accepted: maxBytes, refused: maxBytes / 10}, age: age, size: map[string]int64{}}
	for sub := range a.max {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			return nil, fmt.Errorf("making archive: %w", err)
		}
	}
	if err := a.each(func(sub, _ string, i fs.FileInfo) error { a.size[sub] += i.Size(); return nil }); err != nil {
		return nil, err
	}
	return a, a.prune(time.Now())
}

// each calls do for every file.
func (a *archive) each(do func(sub, path string, i fs.FileInfo) error) error {
	for sub := range a.max {
		err := filepath.WalkDir(filepath.Join(a.dir, sub), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return gone(err)
			}
			i, err := e.Info()
			if err != nil {
				return gone(err)
			}
			return do(sub, path, i)
		})
		if err != nil {
			return fmt.Errorf("looking through archive: %w", err)
		}
	}
	return nil
}

// gone drops the error of a file that somebody else has removed.
func gone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// prune removes what is old. Verdicts are kept meanwhile.
func (a *archive) prune(now time.Time) error {
	old := func(i fs.FileInfo) bool {
		age := now.Sub(i.ModTime())
		return a.age > 0 && age > a.age || strings.HasPrefix(i.Name(), temp) && age > tempAge
	}
	return a.each(func(sub, path string, i fs.FileInfo) error {
		if !old(i) {
			return nil
		}
		a.mu.Lock()
		defer a.mu.Unlock()
		i, err := os.Lstat(path) // it may have been written anew
		if err != nil || !old(i) {
			return gone(err)
		}
		if err := os.Remove(path); err != nil {
			return gone(err)
		}
		a.size[sub] -= i.Size()
		return nil
	})
}

// store keeps one appraisal.
func (a *archive) store(evidence []byte, r *result.Result, ear string, checks []byte) error {
	doc, err := json.Marshal(struct {
		Result *result.Result `json:"result"`
		EAR    string         `json:"ear,omitempty"`
		Checks []byte         `json:"checks,omitempty"`
	}{r, ear, checks})
	if err != nil {
		return fmt.Errorf("archiving result: %w", err)
	}
	sub := refused
	if ear != "" {
		sub = accepted
	}
	base := filepath.Join(a.dir, sub, r.EvidenceSHA256.String())
	a.mu.Lock()
	defer a.mu.Unlock()
	n := int64(len(evidence) + len(doc))
	if a.size[sub]+n > a.max[sub] {
		return fmt.Errorf("archiving %d bytes: %w", n, errArchiveFull)
	}
	for suffix, b := range map[string][]byte{".evidence.json": evidence, ".result.json": doc} {
		var before int64 // of the same evidence's last time
		if i, err := os.Lstat(base + suffix); err == nil {
			before = i.Size()
		}
		if err := writeFile(base+suffix, b); err != nil {
			return err
		}
		a.size[sub] += int64(len(b)) - before
	}
	return nil
}

// RemoveOldEvidence removes from the archive what is older than its age. It is
// to be called every ArchiveLook, also while nothing is asked of the service.
func (s *Server) RemoveOldEvidence() error {
	if s.archive == nil {
		return nil
	}
	return s.archive.prune(time.Now())
}

// writeFile writes by a temporary file and rename, so that no reader meets a
// half-written one.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), temp+"*")
	if err != nil {
		return fmt.Errorf("archiving: %w", err)
	}
	_, werr := f.Write(b)
	if err := errors.Join(werr, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("archiving: %w", err), os.Remove(f.Name()))
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(fmt.Errorf("archiving: %w", err), os.Remove(f.Name()))
	}
	return nil
}

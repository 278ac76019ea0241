package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
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

	mu     sync.Mutex
	size   map[string]int64
	pruned time.Time // when it was last looked for what is old
}

// pruneEvery is how often it is looked for what is old.
const pruneEvery = time.Hour

const (
	accepted = "accepted"
	refused  = "refused"
)

var errArchiveFull = errors.New("archive is full")

func openArchive(dir string, maxBytes int64, age time.Duration) (*archive, error) {
	a := &archive{dir: dir, max: map[string]int64{accepted: maxBytes, refused: maxBytes / 10}, age: age}
	for sub := range a.max {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			return nil, fmt.Errorf("making archive: %w", err)
		}
	}
	if err := a.prune(time.Now()); err != nil {
		return nil, err
	}
	return a, nil
}

// prune removes what is old, and measures the rest.
func (a *archive) prune(now time.Time) error {
	size := map[string]int64{}
	for sub := range a.max {
		err := filepath.WalkDir(filepath.Join(a.dir, sub), func(path string, e fs.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			i, err := e.Info()
			if err != nil {
				return err
			}
			if a.age > 0 && now.Sub(i.ModTime()) > a.age {
				return os.Remove(path)
			}
			size[sub] += i.Size()
			return nil
		})
		if err != nil {
			return fmt.Errorf("looking through archive: %w", err)
		}
	}
	a.size, a.pruned = size, now
	return nil
}

// store keeps one appraisal.
func (a *archive) store(evidence []byte, r *result.Result, ear string) error {
	doc, err := json.Marshal(struct {
		Result *result.Result `json:"result"`
		EAR    string         `json:"ear,omitempty"`
	}{r, ear})
	if err != nil {
		return fmt.Errorf("archiving result: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if now := time.Now(); a.age > 0 && now.Sub(a.pruned) > pruneEvery {
		if err := a.prune(now); err != nil {
			return err
		}
	}
	sub := refused
	if ear != "" {
		sub = accepted
	}
	n := int64(len(evidence) + len(doc))
	if a.size[sub]+n > a.max[sub] {
		return fmt.Errorf("archiving %d bytes: %w", n, errArchiveFull)
	}
	base := filepath.Join(a.dir, sub, r.EvidenceSHA256.String())
	for suffix, b := range map[string][]byte{".evidence.json": evidence, ".result.json": doc} {
		if err := writeFile(base+suffix, b); err != nil {
			return err
		}
	}
	a.size[sub] += n
	return nil
}

// writeFile writes by a temporary file and rename, so that no reader meets a
// half-written one.
func writeFile(path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
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

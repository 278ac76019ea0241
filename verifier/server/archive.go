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

	"cocoon/internal/durable"
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

	flush func(*os.File) error // (*os.File).Sync
	names *names               // of accepted

	mu       sync.Mutex
	size     map[string]int64
	reserved map[string]int64 // of files that are being written
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
	a := &archive{dir: dir, max: map[string]int64{accepted: maxBytes, refused: maxBytes / 10}, age: age,
		flush: (*os.File).Sync, size: map[string]int64{}, reserved: map[string]int64{}}
	a.names = &names{dir: filepath.Join(dir, accepted), flush: func(f *os.File) error { return a.flush(f) }}
	made := []string{dir}
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		made = append(made, filepath.Dir(dir))
	}
	for sub := range a.max {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o750); err != nil {
			return nil, fmt.Errorf("making archive: %w", err)
		}
	}
	for _, d := range made {
		if err := durable.SyncDir(d); err != nil {
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

// store keeps one appraisal. Of an accepted one both files are on the disk, under
// their names, before it returns: what the journal has, the archive has too,
// whenever the power fails.
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
	n := int64(len(evidence) + len(doc))
	if err := a.reserve(sub, n); err != nil {
		return err
	}
	defer a.release(sub, n)
	base := filepath.Join(a.dir, sub, r.EvidenceSHA256.String())
	if err := errors.Join(a.write(sub, base+".evidence.json", evidence), a.write(sub, base+".result.json", doc)); err != nil {
		return fmt.Errorf("archiving: %w", err)
	}
	if sub == accepted {
		return a.names.sync()
	}
	return nil
}

// reserve takes room for bytes until they are counted; release gives it back.
func (a *archive) reserve(sub string, n int64) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.size[sub]+a.reserved[sub]+n > a.max[sub] {
		return fmt.Errorf("archiving %d bytes: %w", n, errArchiveFull)
	}
	a.reserved[sub] += n
	return nil
}

func (a *archive) release(sub string, n int64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.reserved[sub] -= n
}

// write writes a file by a temporary one and a rename, so that no reader meets a
// half-written one, and counts it. Many are written at a time.
func (a *archive) write(sub, path string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(path), temp+"*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && sub == accepted {
		err = a.flush(f)
	}
	if err := errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	var before int64 // of the same evidence's last time
	if i, err := os.Lstat(path); err == nil {
		before = i.Size()
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	a.size[sub] += int64(len(b)) - before
	return nil
}

// names makes the names in a directory durable, for many callers at a time: those
// who come while it does so share the next time.
type names struct {
	dir   string
	flush func(*os.File) error

	turn sync.Mutex // held by who syncs
	mu   sync.Mutex
	next *namesSync // that has not begun; nil: none
}

type namesSync struct {
	done chan struct{}
	err  error
}

// sync returns once the names that were there before the call are durable.
func (d *names) sync() error {
	d.mu.Lock()
	s, first := d.next, d.next == nil
	if first {
		s = &namesSync{done: make(chan struct{})}
		d.next = s
	}
	d.mu.Unlock()
	if !first {
		<-s.done
		return s.err
	}
	d.turn.Lock()
	defer d.turn.Unlock()
	d.mu.Lock()
	d.next = nil // who comes now may have come too late
	d.mu.Unlock()
	s.err = d.once()
	close(s.done)
	return s.err
}

func (d *names) once() error {
	f, err := os.Open(d.dir)
	if err == nil {
		err = errors.Join(d.flush(f), f.Close())
	}
	if err != nil {
		return fmt.Errorf("archiving: %w", err)
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

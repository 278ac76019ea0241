package modelowner

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// Codes of faults of the journal.
const (
	CodeLog     = "model.release_log"      // the log of releases cannot be written
	CodeLogBad  = "model.release_log_bad"  // it is damaged, or changed
	CodeLogBusy = "model.release_log_busy" // another service writes it
)

// maxRecord bounds a line, in bytes.
const maxRecord = 16 << 10

// Release is one release of a key: who got what, and what that was judged by.
type Release struct {
	Seq        uint64        `json:"seq"`  // 1, 2 …
	Time       string        `json:"time"` // RFC 3339, UTC
	Pack       string        `json:"pack"` // MODEL@REVISION:ROOT
	KeySHA256  digest.SHA256 `json:"key_sha256"`
	Manifest   digest.SHA256 `json:"manifest"`
	Image      string        `json:"image"`
	Version    uint64        `json:"version"`
	TrustClass string        `json:"trust_class"`
	Policy     digest.SHA256 `json:"policy_sha256"`
	Evidence   digest.SHA256 `json:"evidence_sha256"`
	Config     digest.SHA256 `json:"config_sha256"`
	ReceiptKey digest.SHA256 `json:"receipt_key"`
	Payout     string        `json:"payout"`
	From       string        `json:"from"`     // address of whoever asked
	Previous   digest.SHA256 `json:"previous"` // SHA-256 of the line before, without its newline
}

// Journal is the log of releases: one JSON document a line, in RFC 8785 form,
// each with the hash of the one before. A key is released only after its line
// is on disk.
type Journal struct {
	mu     sync.Mutex
	f      *os.File
	size   int64
	last   Release
	hash   digest.SHA256 // of the last line
	broken error
}

// OpenJournal opens a log, making it where there is none. It reads all of it:
// a log that was changed is refused. What a crash left of a last line is cut
// off; no key was released for it.
func OpenJournal(path string) (*Journal, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, CodeLog, "name a file that can be written with --log", "opening the log of releases: %w", err)
	}
	j := &Journal{f: f}
	if err := j.open(path); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return j, nil
}

func (j *Journal) open(path string) error {
	if err := unix.Flock(int(j.f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return fault.New(fault.ExitNotReady, CodeLogBusy, "end the other service, or give this one a log of its own", "opening the log of releases: %s is in use: %w", path, err)
	}
	var err error
	if j.size, err = read(j.f, func(r Release, hash digest.SHA256) { j.last, j.hash = r, hash }); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err == nil {
		err = errors.Join(j.f.Truncate(j.size), j.f.Sync(), dir.Sync(), dir.Close())
	}
	if err != nil {
		return fault.New(fault.ExitInternal, CodeLog, "check the disk", "opening the log of releases: %w", err)
	}
	return nil
}

// Count returns how many releases are in the log.
func (j *Journal) Count() uint64 {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.last.Seq
}

// Append puts a release on disk; Seq and Previous are the journal's. A log that
// could not be written takes nothing more: what the disk has is not known then.
func (j *Journal) Append(r Release) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.broken != nil {
		return j.broken
	}
	r.Seq, r.Previous = j.last.Seq+1, j.hash
	line, err := jcs.Marshal(r)
	if err != nil {
		return fmt.Errorf("encoding release: %w", err)
	}
	if len(line) >= maxRecord {
		return fmt.Errorf("encoding release: %d bytes, at most %d", len(line), maxRecord)
	}
	if _, err = j.f.WriteAt(append(line, '\n'), j.size); err == nil {
		err = j.f.Sync()
	}
	if err != nil {
		j.broken = fault.New(fault.ExitInternal, CodeLog, "make room, and start the service again", "writing the log of releases: %w", err)
		return j.broken
	}
	j.size += int64(len(line)) + 1
	j.last, j.hash = r, digest.Sum256(line)
	return nil
}

// Close closes the log.
func (j *Journal) Close() error { return j.f.Close() }

// ReadLog reads a log of releases and checks that nothing in it was changed,
// moved or taken out; that its end is missing, nobody can tell from the log
// alone. What follows the last whole line is not read.
func ReadLog(r io.Reader) ([]Release, error) {
	out := []Release{}
	_, err := read(r, func(r Release, _ digest.SHA256) { out = append(out, r) })
	return out, err
}

// read hands over each line and returns the size of all.
func read(r io.Reader, each func(Release, digest.SHA256)) (int64, error) {
	b := bufio.NewReaderSize(r, maxRecord)
	var size int64
	var last Release
	var hash digest.SHA256
	bad := func(err error) error {
		return fault.New(fault.ExitRefused, CodeLogBad, "keep it as it is, look for who changed it, and go on with a new file", "reading the log of releases: line %d: %w", last.Seq+1, err)
	}
	for {
		line, err := b.ReadSlice('\n')
		switch {
		case errors.Is(err, io.EOF):
			return size, nil
		case errors.Is(err, bufio.ErrBufferFull):
			return 0, bad(fmt.Errorf("longer than %d bytes", maxRecord))
		case err != nil:
			return 0, fmt.Errorf("reading the log of releases: %w", err)
		}
		line = bytes.TrimSuffix(line, []byte("\n"))
		var next Release
		if err := jcs.DecodeCanonical(line, maxRecord, &next); err != nil {
			return 0, bad(err)
		}
		if _, err := time.Parse(time.RFC3339, next.Time); err != nil {
			return 0, bad(err)
		}
		if next.Seq != last.Seq+1 || next.Previous != hash {
			return 0, bad(fmt.Errorf("it does not follow the one before it"))
		}
		last, hash = next, digest.Sum256(line)
		size += int64(len(line)) + 1
		each(last, hash)
	}
}

// Package store remembers which VMs a host daemon answers for, across its own
// restarts. What a VM is doing is in its directory; here is only that it
// exists, and its spec.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sys/unix"

	"cocoon/hostd/spec"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// File is the name of the database in the state directory.
const File = "hostd.db"

// ErrNotFound is returned for a VM that is not there.
var ErrNotFound = errors.New("no such VM")

var (
	bucketVMs  = []byte("vms-1")
	bucketHost = []byte("host-1")
	keyDrain   = []byte("drain")
)

// maxRecord bounds one record in bytes.
const maxRecord = 8 * spec.MaxSize

// What should be with a VM.
const (
	WantRunning = "running"
	WantStopped = "stopped"
)

// Record is one VM, with what its owner wants of it and what is under way. A
// VM is one record, so that each change of it is one transaction.
type Record struct {
	Spec    spec.Spec `json:"spec"`
	Created time.Time `json:"created"`
	Want    string    `json:"want,omitempty"`
	// Restarts counts those since it last ran for a while, Next is when the
	// next one is due, LastError why the last one failed.
	Restarts  int        `json:"restarts,omitempty"`
	Next      *time.Time `json:"next,omitempty"`
	LastError string     `json:"last_error,omitempty"`
	Upgrade   *Upgrade   `json:"upgrade,omitempty"`
	// Revive: it ended because the host was drained, and is started again
	// whatever its restart policy.
	Revive bool `json:"revive,omitempty"`
	// GPUsUsed: its devices were given to it, and not released since.
	GPUsUsed bool `json:"gpus_used,omitempty"`
}

// Upgrade is the journal of an upgrade that has not ended.
type Upgrade struct {
	From  spec.Spec `json:"from"`
	To    spec.Spec `json:"to"`
	Step  string    `json:"step"`  // that has begun
	Until string    `json:"until"` // stage or state that the new version has to reach
	Began time.Time `json:"began"`
	Ran   bool      `json:"ran"` // the old version was to run
	// Taker is the machine that takes the data disk's key over from the old
	// version; empty: none was started.
	Taker string `json:"taker,omitempty"`
}

// Store is an open database.
type Store struct{ db *bbolt.DB }

// ErrDamaged is returned for a file that is no database, or one with holes.
var ErrDamaged = errors.New("the file is damaged")

// Open opens or creates the database in dir.
func Open(dir string) (*Store, error) {
	path := filepath.Join(dir, File)
	db, err := open(path)
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "hostd.store", "close whatever has "+path+" open; if it is damaged, remove it: VMs then have to be started anew",
			"opening store: %w", err)
	}
	return &Store{db}, nil
}

// open opens the file and walks all of it. bbolt panics, or faults, on pages
// that are not what they should be.
func open(path string) (db *bbolt.DB, err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			// Closing it could panic again; the process keeps the descriptor.
			db, err = nil, fmt.Errorf("%w: %v", ErrDamaged, r)
		}
	}()
	// Another daemon on the directory is refused before this by its lock; the
	// timeout is for whoever looks into the file by other means.
	db, err = bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second})
	if err != nil {
		// What is neither the system's refusal nor somebody else's lock is said
		// of the content.
		var errno unix.Errno
		if errors.Is(err, bolterrors.ErrTimeout) || errors.As(err, &errno) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	err = db.Update(func(tx *bbolt.Tx) error {
		b, err := tx.CreateBucketIfNotExists(bucketVMs)
		if err != nil {
			return err
		}
		if _, err := tx.CreateBucketIfNotExists(bucketHost); err != nil {
			return err
		}
		return b.ForEach(func(k, v []byte) error {
			var r Record
			if err := jcs.Decode(v, maxRecord, &r); err != nil {
				return fmt.Errorf("%w: record %.64q: %w", ErrDamaged, k, err)
			}
			return nil
		})
	})
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// SetAside renames a damaged database, so that a new one can be made.
func SetAside(dir string, now time.Time) (string, error) {
	to := filepath.Join(dir, File+".damaged-"+now.UTC().Format("20060102T150405Z"))
	if err := os.Rename(filepath.Join(dir, File), to); err != nil {
		return "", fmt.Errorf("setting the damaged store aside: %w", err)
	}
	return to, nil
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Put adds or replaces a VM.
func (s *Store) Put(r Record) error {
	b, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("storing VM: %w", err)
	}
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketVMs).Put([]byte(r.Spec.Name), b) }); err != nil {
		if errors.Is(err, unix.ENOSPC) {
			return fault.New(fault.ExitNotReady, "vm.disk.full", "free space there, or choose another state directory", "storing VM: %w", err)
		}
		return fmt.Errorf("storing VM: %w", err)
	}
	return nil
}

// Get returns a VM, or ErrNotFound.
func (s *Store) Get(name string) (Record, error) {
	var r Record
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketVMs).Get([]byte(name))
		if b == nil {
			return ErrNotFound
		}
		return jcs.Decode(b, maxRecord, &r)
	})
	if err != nil {
		return Record{}, fmt.Errorf("reading VM %s: %w", name, err)
	}
	return r, nil
}

// List returns all VMs by name.
func (s *Store) List() ([]Record, error) {
	var rs []Record
	err := s.db.View(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketVMs).ForEach(func(k, b []byte) error {
			var r Record
			if err := jcs.Decode(b, maxRecord, &r); err != nil {
				return fmt.Errorf("record %q: %w", k, err)
			}
			rs = append(rs, r)
			return nil
		})
	})
	if err != nil {
		return nil, fmt.Errorf("listing VMs: %w", err)
	}
	return rs, nil
}

// Delete forgets a VM; one that is not there is no error.
func (s *Store) Delete(name string) error {
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketVMs).Delete([]byte(name)) }); err != nil {
		return fmt.Errorf("forgetting VM %s: %w", name, err)
	}
	return nil
}

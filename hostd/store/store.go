// Package store remembers which VMs a host daemon answers for, across its own
// restarts. What a VM is doing is in its directory; here is only that it
// exists, and its spec.
package store

import (
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"go.etcd.io/bbolt"

	"cocoon/hostd/spec"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// File is the name of the database in the state directory.
const File = "hostd.db"

// ErrNotFound is returned for a VM that is not there.
var ErrNotFound = errors.New("no such VM")

var bucketVMs = []byte("vms-1")

// maxRecord bounds one record in bytes.
const maxRecord = 2 * spec.MaxSize

// Record is one VM.
type Record struct {
	Spec    spec.Spec `json:"spec"`
	Created time.Time `json:"created"`
}

// Store is an open database.
type Store struct{ db *bbolt.DB }

// Open opens or creates the database in dir.
func Open(dir string) (*Store, error) {
	path := filepath.Join(dir, File)
	// Another daemon on the directory is refused before this by its lock; the
	// timeout is for whoever looks into the file by other means.
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: 2 * time.Second})
	if err == nil {
		err = db.Update(func(tx *bbolt.Tx) error {
			_, err := tx.CreateBucketIfNotExists(bucketVMs)
			return err
		})
		if err != nil {
			db.Close()
		}
	}
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "hostd.store", "close whatever has "+path+" open; if it is damaged, remove it: VMs then have to be started anew",
			"opening store: %w", err)
	}
	return &Store{db}, nil
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

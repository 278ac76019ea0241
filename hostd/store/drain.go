package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"

	"cocoon/internal/jcs"
)

// Drain says that the host is drained: nothing starts.
type Drain struct {
	Since time.Time `json:"since"`
	VMs   []string  `json:"vms"` // that ran, and run again afterwards
}

// Drain returns the drain that holds, or nil.
func (s *Store) Drain() (*Drain, error) {
	var d *Drain
	err := s.db.View(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketHost).Get(keyDrain)
		if b == nil {
			return nil
		}
		d = &Drain{}
		return jcs.Decode(b, maxRecord, d)
	})
	if err != nil {
		return nil, fmt.Errorf("reading whether the host is drained: %w", err)
	}
	return d, nil
}

// PutDrain begins a drain.
func (s *Store) PutDrain(d Drain) error {
	b, err := json.Marshal(d)
	if err != nil {
		return fmt.Errorf("beginning a drain: %w", err)
	}
	if err := s.db.Update(func(tx *bbolt.Tx) error { return tx.Bucket(bucketHost).Put(keyDrain, b) }); err != nil {
		return fmt.Errorf("beginning a drain: %w", err)
	}
	return nil
}

// EndDrain ends a drain and marks the VMs that ran before it, all in one step,
// and returns their names.
func (s *Store) EndDrain() ([]string, error) {
	d, err := s.Drain()
	if err != nil || d == nil {
		return nil, err
	}
	var names []string
	err = s.db.Update(func(tx *bbolt.Tx) error {
		vms := tx.Bucket(bucketVMs)
		for _, name := range slices.Compact(slices.Sorted(slices.Values(d.VMs))) {
			b := vms.Get([]byte(name))
			if b == nil {
				continue // removed meanwhile
			}
			var r Record
			if err := jcs.Decode(b, maxRecord, &r); err != nil {
				return err
			}
			if r.Want != WantRunning {
				continue // stopped by its owner meanwhile
			}
			r.Revive, r.Next = true, nil
			b, err := json.Marshal(r)
			if err != nil {
				return err
			}
			if err := vms.Put([]byte(name), b); err != nil {
				return err
			}
			names = append(names, name)
		}
		return tx.Bucket(bucketHost).Delete(keyDrain)
	})
	if err != nil {
		return nil, fmt.Errorf("ending a drain: %w", err)
	}
	return names, nil
}

package vfio

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"cocoon/internal/durable"
	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// StoreFile and LockFile are the names in a store's directory.
const (
	StoreFile = "gpus.json"
	LockFile  = "gpus.lock"
)

const maxStore = 1 << 20

// Store keeps on disk how devices were before they were prepared, and lets one
// process at a time change devices.
type Store struct {
	dir    string
	lock   *os.File
	Before []Previous // by device, oldest first
}

type storeDoc struct {
	Version int        `json:"version"`
	Before  []Previous `json:"before"`
}

// OpenStore locks and reads the store in a directory. Faults: gpu.locked,
// gpu.state.parse.
func OpenStore(dir string) (s *Store, err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fault.New(fault.ExitNotReady, "gpu.state", "run as root, or name a directory of your own with --state-dir", "making the state directory: %w", err)
	}
	lock, err := os.OpenFile(filepath.Join(dir, LockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fault.New(fault.ExitNotReady, "gpu.state", "run as root, or name a directory of your own with --state-dir", "opening the lock: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fault.New(fault.ExitNotReady, "gpu.locked", "wait for the other cocoon gpu command", "locking %s: %w", dir, err)
	}
	s = &Store{dir: dir, lock: lock}
	b, err := os.ReadFile(filepath.Join(dir, StoreFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading what was prepared: %w", err)
	}
	if s.Before, err = parseStore(b); err != nil {
		return nil, fault.New(fault.ExitParse, "gpu.state.parse", "remove "+filepath.Join(dir, StoreFile)+"; a reboot gives every device back to its driver", "reading what was prepared: %w", err)
	}
	return s, nil
}

func parseStore(b []byte) ([]Previous, error) {
	var doc storeDoc
	if err := jcs.Decode(b, maxStore, &doc); err != nil {
		return nil, err
	}
	if doc.Version != 1 || len(doc.Before) > maxDevices {
		return nil, fmt.Errorf("version %d with %d devices is not one of these", doc.Version, len(doc.Before))
	}
	for _, p := range doc.Before {
		if err := CheckBDF(p.BDF); err != nil {
			return nil, err
		}
	}
	return doc.Before, nil
}

// Add remembers how devices were. What is remembered already stays: a second
// preparation finds vfio-pci, which is not the owner's driver.
func (s *Store) Add(before []Previous) error {
	next := slices.Clone(s.Before)
	for _, p := range before {
		if !slices.ContainsFunc(next, func(q Previous) bool { return q.BDF == p.BDF }) {
			next = append(next, p)
		}
	}
	return s.save(next)
}

// Select returns what is remembered of some devices and of the other functions
// of each, of all without arguments.
func (s *Store) Select(bdfs ...string) []Previous {
	var out []Previous
	for _, p := range s.Before {
		if len(bdfs) == 0 || slices.ContainsFunc(bdfs, func(b string) bool { return len(b) == len(p.BDF) && b[:len(b)-1] == p.BDF[:len(b)-1] }) {
			out = append(out, p)
		}
	}
	return out
}

// Forget removes devices that were restored.
func (s *Store) Forget(done []Previous) error {
	next := slices.DeleteFunc(slices.Clone(s.Before), func(p Previous) bool { return slices.Contains(done, p) })
	return s.save(next)
}

func (s *Store) save(next []Previous) error {
	b, err := json.MarshalIndent(storeDoc{Version: 1, Before: next}, "", "  ")
	if err != nil {
		return fmt.Errorf("remembering what was prepared: %w", err)
	}
	if err := durable.Write(filepath.Join(s.dir, StoreFile), append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("remembering what was prepared: %w", err)
	}
	s.Before = next
	return nil
}

// Close lets go of the lock.
func (s *Store) Close() error { return s.lock.Close() }

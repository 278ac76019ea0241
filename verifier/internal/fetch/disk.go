package fetch

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"cocoon/internal/jcs"
)

// ErrMiss is returned for an entry that is not there.
var ErrMiss = errors.New("not cached")

// Disk keeps entries as files, one each. It is believed in nothing: an
// unreadable, foreign or corrupt file is a miss.
type Disk[V any] struct {
	Dir   string
	Scope string // sources and roots; entries of other scopes are never seen
}

// diskFile is the shape of a file. Name guards against files that were moved;
// the format's version is part of it.
type diskFile[V any] struct {
	Name  string `json:"name"`
	Entry V      `json:"entry"`
}

// name identifies an entry within its scope.
func (d *Disk[V]) name(key string) string { return "v1 " + d.Scope + " " + key }

func (d *Disk[V]) path(key string) string {
	sum := sha256.Sum256([]byte(d.name(key)))
	return filepath.Join(d.Dir, hex.EncodeToString(sum[:16])+".json")
}

// Load reads the entry of a key, a file of at most limit bytes. Any error
// means a miss; ErrMiss is the one that needs no words in a log.
func (d *Disk[V]) Load(key string, limit int) (*V, error) {
	f, err := os.Open(d.path(key))
	if errors.Is(err, os.ErrNotExist) {
		return nil, ErrMiss
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	v, err := d.Parse(key, b, limit)
	if err != nil {
		return nil, fmt.Errorf("reading cache file %s: %w", f.Name(), err)
	}
	return v, nil
}

// Parse reads what a file of this key holds.
func (d *Disk[V]) Parse(key string, b []byte, limit int) (*V, error) {
	var doc diskFile[V]
	if err := jcs.Decode(b, limit, &doc); err != nil {
		return nil, err
	}
	if doc.Name != d.name(key) {
		return nil, fmt.Errorf("it holds %.128q", doc.Name)
	}
	return &doc.Entry, nil
}

// Marshal returns the file of an entry.
func (d *Disk[V]) Marshal(key string, v *V) ([]byte, error) {
	return jcs.Marshal(diskFile[V]{Name: d.name(key), Entry: *v})
}

// Store writes an entry whole or not at all.
func (d *Disk[V]) Store(key string, v *V) error {
	b, err := d.Marshal(key, v)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.Dir, 0o700); err != nil {
		return fmt.Errorf("making cache directory: %w", err)
	}
	return WriteAtomic(d.path(key), b)
}

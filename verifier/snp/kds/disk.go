package kds

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"cocoon/internal/jcs"
	"cocoon/verifier/internal/atomicfile"
)

// entry is a held document.
type entry struct {
	Body    []byte    `json:"body"`
	Fetched time.Time `json:"fetched"` // a hint: it decides when to ask again
}

// file is the shape of a cache file. Name guards against files that were
// moved; the format's version is part of it.
type file struct {
	Name  string `json:"name"`
	Entry entry  `json:"entry"`
}

// disk keeps documents as files, one each. It is believed in nothing: an
// unreadable, foreign or corrupt file is a miss, and what it holds is verified
// as an answer of the service is.
type disk struct {
	dir   string
	scope string // source and roots; entries of other scopes are never seen
}

// errMiss is returned for a document that is not there.
var errMiss = errors.New("not cached")

func (d *disk) name(doc document) string { return "v1 " + d.scope + " " + doc.path() }

func (d *disk) path(doc document) string {
	sum := sha256.Sum256([]byte(d.name(doc)))
	return filepath.Join(d.dir, hex.EncodeToString(sum[:16])+".json")
}

// load reads a document. Any error means a miss; the text is for the log.
func (d *disk) load(doc document) (*entry, error) {
	f, err := os.Open(d.path(doc))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errMiss
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	limit := 2*doc.limit() + 4096 // base64 in JSON is a third longer than what it holds
	b, err := io.ReadAll(io.LimitReader(f, int64(limit)+1))
	if err != nil {
		return nil, err
	}
	e, err := d.parse(doc, b, limit)
	if err != nil {
		return nil, fmt.Errorf("reading cache file %s: %w", f.Name(), err)
	}
	return e, nil
}

// parse reads what a cache file holds.
func (d *disk) parse(doc document, b []byte, limit int) (*entry, error) {
	var in file
	if err := jcs.Decode(b, limit, &in); err != nil {
		return nil, err
	}
	if in.Name != d.name(doc) {
		return nil, fmt.Errorf("it holds %.128q", in.Name)
	}
	return &in.Entry, nil
}

// store writes a document.
func (d *disk) store(doc document, e *entry) error {
	b, err := jcs.Marshal(file{Name: d.name(doc), Entry: *e})
	if err != nil {
		return err
	}
	if err := os.MkdirAll(d.dir, 0o700); err != nil {
		return fmt.Errorf("making cache directory: %w", err)
	}
	return atomicfile.Write(d.path(doc), b)
}

package journal

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/log"
)

// entryHead is the first line of every entry. It keeps verdicts apart from
// anything else that a log might hold.
const entryHead = "cocoon-verdict/v1"

// EntrySize is the length of every verdict's entry in bytes: all its fields have
// fixed lengths. That of a manifest is shorter.
const EntrySize = 505

// ErrEntry is returned for entries that are incomplete or not in the one form
// that Text gives them.
var ErrEntry = errors.New("journal entry has a wrong form")

// Entry is what the journal says of one verdict: hashes and times, nothing of
// the evidence itself. Times are whole seconds, UTC. An entry that has nothing
// but a manifest's hash says that this verifier accepts that manifest; its text
// is measurements/log's.
type Entry struct {
	Time     time.Time     `json:"time"`    // when the verdict was given
	Expires  time.Time     `json:"expires"` // when it ends
	Key      digest.SHA256 `json:"key"`     // key id of the signer (result.KeyID)
	Verdict  digest.SHA256 `json:"verdict"` // SHA-256 of the EAR token
	Cell     digest.SHA256 `json:"cell"`    // hash of the common cell; zero where there is none
	Evidence digest.SHA256 `json:"evidence"`
	Policy   digest.SHA256 `json:"policy"`
	Manifest digest.SHA256 `json:"manifest"` // zero where only the platform was looked at
}

// ManifestEntry returns the entry of a manifest.
func ManifestEntry(manifest digest.SHA256) Entry { return Entry{Manifest: manifest} }

func (e *Entry) isManifest() bool { return *e == Entry{Manifest: e.Manifest} && !e.Manifest.IsZero() }

// validate checks what Text relies on.
func (e *Entry) validate() error {
	for _, t := range []time.Time{e.Time, e.Expires} {
		if u := t.UTC(); u.Year() < 2000 || u.Year() > 9999 || u.Nanosecond() != 0 {
			return fmt.Errorf("checking journal entry: time %v is not whole seconds of this age: %w", t, ErrEntry)
		}
	}
	if !e.Expires.After(e.Time) {
		return fmt.Errorf("checking journal entry: it ends before it begins: %w", ErrEntry)
	}
	// A token on a platform alone has no manifest; contracts act on none such.
	if e.Key.IsZero() || e.Verdict.IsZero() || e.Evidence.IsZero() || e.Policy.IsZero() || e.Manifest.IsZero() && !e.Cell.IsZero() {
		return fmt.Errorf("checking journal entry: a hash is missing: %w", ErrEntry)
	}
	return nil
}

// Text returns the log entry: one "name value" line per field, times in RFC
// 3339, hashes in hex. It is EntrySize bytes long, but for a manifest.
func (e *Entry) Text() ([]byte, error) {
	if e.isManifest() {
		return log.Entry(e.Manifest), nil
	}
	if err := e.validate(); err != nil {
		return nil, err
	}
	b := make([]byte, 0, EntrySize)
	b = append(b, entryHead...)
	b = append(b, "\ntime "...)
	b = e.Time.UTC().AppendFormat(b, time.RFC3339)
	b = append(b, "\nexpires "...)
	b = e.Expires.UTC().AppendFormat(b, time.RFC3339)
	for _, f := range e.hashes() {
		b = append(b, '\n')
		b = append(b, f.name...)
		b = append(b, ' ')
		b = hex.AppendEncode(b, f.hash[:])
	}
	b = append(b, '\n')
	if len(b) != EntrySize {
		return nil, fmt.Errorf("writing journal entry: %d bytes: %w", len(b), ErrEntry)
	}
	return b, nil
}

type namedHash struct {
	name string
	hash *digest.SHA256
}

func (e *Entry) hashes() []namedHash {
	return []namedHash{{"key", &e.Key}, {"verdict", &e.Verdict}, {"cell", &e.Cell}, {"evidence", &e.Evidence}, {"policy", &e.Policy}, {"manifest", &e.Manifest}}
}

// ParseEntry reads an entry in exactly the form that Text gives it.
func ParseEntry(b []byte) (*Entry, error) {
	var e Entry
	if m, err := log.ParseEntry(b); err == nil {
		e = ManifestEntry(m)
		return &e, nil
	}
	lines := strings.Split(string(b), "\n")
	hashes := e.hashes()
	if len(b) != EntrySize || len(lines) != 4+len(hashes) || lines[0] != entryHead {
		return nil, fmt.Errorf("reading journal entry of %d bytes: %w", len(b), ErrEntry)
	}
	value := func(line int, name string) string {
		s, _ := strings.CutPrefix(lines[line], name+" ")
		return s
	}
	var errs [2]error
	e.Time, errs[0] = time.Parse(time.RFC3339, value(1, "time"))
	e.Expires, errs[1] = time.Parse(time.RFC3339, value(2, "expires"))
	if err := errors.Join(errs[:]...); err != nil {
		return nil, fmt.Errorf("reading journal entry: %w: %w", ErrEntry, err)
	}
	for i, f := range hashes {
		d, err := digest.Parse256(value(3+i, f.name))
		if err != nil {
			return nil, fmt.Errorf("reading journal entry: %s: %w: %w", f.name, ErrEntry, err)
		}
		*f.hash = d
	}
	again, err := e.Text()
	if err != nil {
		return nil, err
	}
	if !bytes.Equal(again, b) {
		return nil, fmt.Errorf("reading journal entry: %w", ErrEntry)
	}
	return &e, nil
}

// Leaf returns the entry's hash in the tree.
func (e *Entry) Leaf() (digest.SHA256, error) {
	b, err := e.Text()
	if err != nil {
		return digest.SHA256{}, err
	}
	return log.HashLeaf(b), nil
}

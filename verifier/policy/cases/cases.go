// Package cases has the document with which a site tests its policy: pieces of
// evidence, and what the policy has to say of each. In comes strict JSON, out
// comes the list of cases; who runs them appraises.
package cases

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"cocoon/internal/jcs"
)

// Format is the version of the document that this package reads.
const Format = 1

// Limits of a document.
const (
	MaxSize  = 1 << 20
	MaxCases = 256
	maxFiles = 16 // manifests of a case
	maxCodes = 64
)

// File is the document.
type File struct {
	Format int    `json:"format"`
	Cases  []Case `json:"cases"`
}

// Case is one piece of evidence. Paths are relative to the document's
// directory.
type Case struct {
	Name       string    `json:"name"`
	Evidence   string    `json:"evidence"`             // path
	Manifests  []string  `json:"manifests"`            // paths; DSSE envelopes
	Collateral string    `json:"collateral,omitempty"` // path; for Intel quotes that carry none
	At         time.Time `json:"at"`                   // time of appraisal
	Want       Want      `json:"want"`
}

// Accepted is what Want is in JSON for evidence that must be accepted.
const Accepted = "accepted"

// Want is what must come out: nil, evidence is accepted; else the codes that
// refuse it, all of them and no other. In JSON it is "accepted" or a list.
type Want []string

// MarshalJSON writes "accepted" or a list.
func (w Want) MarshalJSON() ([]byte, error) {
	if len(w) == 0 {
		return json.Marshal(Accepted)
	}
	return json.Marshal([]string(w))
}

// UnmarshalJSON reads "accepted" or a list of at least one code.
func (w *Want) UnmarshalJSON(b []byte) error {
	var word string
	if json.Unmarshal(b, &word) == nil {
		if word != Accepted {
			return fmt.Errorf("want %.32q: neither %q nor a list of codes", word, Accepted)
		}
		*w = nil
		return nil
	}
	var codes []string
	if err := json.Unmarshal(b, &codes); err != nil {
		return fmt.Errorf("reading want: %w", err)
	}
	if len(codes) == 0 || len(codes) > maxCodes || slices.Contains(codes, "") {
		return fmt.Errorf("want has %d codes, want 1 to %d, none of them empty", len(codes), maxCodes)
	}
	slices.Sort(codes)
	*w = slices.Compact(codes)
	return nil
}

// Parse reads a document, strictly.
func Parse(doc []byte) (*File, error) {
	var f File
	if err := jcs.Decode(doc, MaxSize, &f); err != nil {
		return nil, fmt.Errorf("parsing cases: %w", err)
	}
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf("parsing cases: "+format, args...)) }
	if f.Format != Format {
		bad("format %d, want %d", f.Format, Format)
	}
	if len(f.Cases) == 0 || len(f.Cases) > MaxCases {
		bad("%d cases, want 1 to %d", len(f.Cases), MaxCases)
	}
	for i, c := range f.Cases {
		switch {
		case c.Name == "" || slices.ContainsFunc(f.Cases[:i], func(o Case) bool { return o.Name == c.Name }):
			bad("case %d: its name %.64q is empty or repeated", i, c.Name)
		case c.Evidence == "" || len(c.Manifests) == 0 || len(c.Manifests) > maxFiles:
			bad("case %.64q: evidence and 1 to %d manifests are needed", c.Name, maxFiles)
		case c.At.IsZero():
			bad("case %.64q: it has no time of appraisal (at)", c.Name)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return &f, nil
}

// Compare returns which wanted codes are missing among those that were found,
// and which were found and not wanted, both sorted.
func (w Want) Compare(found []string) (missing, extra []string) {
	found = slices.Clone(found)
	slices.Sort(found)
	found = slices.Compact(found)
	for _, c := range w {
		if !slices.Contains(found, c) {
			missing = append(missing, c)
		}
	}
	for _, c := range found {
		if !slices.Contains(w, c) {
			extra = append(extra, c)
		}
	}
	return missing, extra
}

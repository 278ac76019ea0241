package result

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// MaxChecks bounds the document of a verdict's checks, in bytes.
const MaxChecks = 1 << 20

// checksOf returns the document of a result's checks: in RFC 8785 form the lists
// of checks by submodule. It goes beside the token, which has its SHA-256: what
// decides is in the token, and only that has to be signed, hashed by Ed25519
// twice, and carried by everyone. What checks follow is left out, because their
// IDs say it (ReferenceOf).
func checksOf(r *Result) ([]byte, error) {
	for name, s := range r.Submods {
		if len(s.Checks) == 0 {
			return nil, fmt.Errorf("submodule %.32q has no checks", name)
		}
	}
	buf := documents.Get().(*[]byte)
	defer documents.Put(buf)
	out, ok := appendChecks((*buf)[:0], r.Submods)
	if ok {
		*buf = out
		out = bytes.Clone(out) // it is kept for a while: no larger than it has to be
	} else {
		var err error
		if out, err = jcs.Marshal(checksForm(r.Submods)); err != nil {
			return nil, err
		}
	}
	if len(out) > MaxChecks {
		return nil, fmt.Errorf("checks of %d bytes, limit %d", len(out), MaxChecks)
	}
	return out, nil
}

// documents are buffers for checksOf.
var documents = sync.Pool{New: func() any { return new([]byte) }}

// checksForm returns the document as package jcs writes it.
func checksForm(subs map[string]*Submod) map[string][]Check {
	out := make(map[string][]Check, len(subs))
	for name, s := range subs {
		list := slices.Clone(s.Checks)
		for i := range list {
			list[i].Document, list[i].Section = "", ""
		}
		out[name] = list
	}
	return out
}

// appendChecks appends the RFC 8785 form of checksForm(subs), as appendEAR does.
func appendChecks(b []byte, subs map[string]*Submod) ([]byte, bool) {
	w := &writer{b: b}
	w.raw(`{`)
	for i, name := range slices.Sorted(maps.Keys(subs)) {
		if i > 0 {
			w.raw(`,`)
		}
		w.key(name)
		w.unknown = w.unknown || subs[name].Checks == nil
		w.raw(`[`)
		for k := range subs[name].Checks {
			if k > 0 {
				w.raw(`,`)
			}
			w.check(&subs[name].Checks[k])
		}
		w.raw(`]`)
	}
	w.raw(`}`)
	return w.b, !w.unknown && subs != nil
}

func (w *writer) check(c *Check) {
	switch { // the first member has no comma
	case c.Actual != "" && c.Expected != "":
		w.text(`{"actual":`, c.Actual)
		w.text(`,"expected":`, c.Expected)
		w.raw(`,"id":`)
	case c.Actual != "":
		w.text(`{"actual":`, c.Actual)
		w.raw(`,"id":`)
	case c.Expected != "":
		w.text(`{"expected":`, c.Expected)
		w.raw(`,"id":`)
	default:
		w.raw(`{"id":`)
	}
	w.text("", c.ID)
	if c.Reason != "" {
		w.text(`,"reason":`, c.Reason)
	}
	if c.Remedy != "" {
		w.text(`,"remedy":`, c.Remedy)
	}
	if c.Status == Pass { // nearly every one
		w.raw(`,"status":"` + Pass + `"}`)
		return
	}
	w.text(`,"status":`, c.Status)
	w.raw(`}`)
}

// OpenChecks reads the document of a verdict's checks into its submodules. It
// believes nothing that the token does not have the hash of, and nothing that
// contradicts the token: whoever verified the one has verified the other.
func (e *EAR) OpenChecks(doc []byte) error {
	if len(doc) > MaxChecks {
		return fault.New(fault.ExitParse, "verdict.format", "ask the verifier again", "reading checks of %d bytes, limit %d", len(doc), MaxChecks)
	}
	if got := digest.Sum256(doc); got != e.ChecksSHA256 {
		return fault.Mismatch(fault.ExitRefused, "verdict.checks", "the hash of the verdict's checks", e.ChecksSHA256.String(), got.String(), "take the document that came with this token")
	}
	bad := func(err error) error {
		return fault.New(fault.ExitParse, "verdict.format", "check that verifier and reader are of one version", "reading the verdict's checks: %w", err)
	}
	var lists map[string][]Check
	if err := jcs.Decode(doc, MaxChecks, &lists); err != nil {
		return bad(err)
	}
	if len(lists) != len(e.Submods) || len(lists) > 4+evidence.MaxGPUs {
		return bad(fmt.Errorf("%d submodules with checks, %d in the token", len(lists), len(e.Submods)))
	}
	var errs []error
	for _, name := range e.names() {
		list := lists[name]
		if len(list) == 0 {
			return bad(fmt.Errorf("submodule %.32q has no checks", name))
		}
		for i := range list {
			if c := &list[i]; c.Status != Pass && c.Status != Skip {
				f := fault.New(fault.ExitRefused, c.ID, c.Remedy, "verifying verdict: check %s did not pass", c.ID)
				f.Expected, f.Actual = c.Expected, c.Actual
				errs = append(errs, f)
			}
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	for name, s := range e.Submods {
		Cite(lists[name])
		s.Claims = &EARChecks{Checks: lists[name]}
	}
	return nil
}

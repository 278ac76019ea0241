package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"
)

// reportedError is an error whose details a command has written to its
// output already: it decides the exit code and is not printed again.
type reportedError struct{ err error }

// Error returns the details all the same.
func (e *reportedError) Error() string { return e.err.Error() }

// Unwrap returns the error, whose faults decide the exit code.
func (e *reportedError) Unwrap() error { return e.err }

// reported marks an error as written already; nil stays nil.
func reported(err error) error {
	if err == nil {
		return nil
	}
	return &reportedError{err}
}

// writeJSON writes a document for machines, indented and with a line end.
func writeJSON(w io.Writer, v any) error {
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("writing JSON: %w", err)
	}
	return nil
}

// writeReport writes what was found, as a document for machines or as text for
// a person, and returns what decides the exit code.
func writeReport(w io.Writer, asJSON bool, doc any, text func() string, faults []error) error {
	if asJSON {
		if err := writeJSON(w, doc); err != nil {
			return err
		}
	} else if _, err := io.WriteString(w, text()); err != nil {
		return fmt.Errorf("writing the report: %w", err)
	}
	return reported(errors.Join(faults...))
}

// plain makes text from outside fit for a terminal: control characters, which
// could move the cursor or recolour the verdict, become question marks.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, s)
}

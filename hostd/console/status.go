package console

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"cocoon/internal/jcs"
)

// MaxLine bounds one status line in bytes; evidence with its event log is the
// longest.
const MaxLine = 4 << 20

// Line is what the host reads of a status line. The guest's own definition
// has more; the rest stays in Raw.
type Line struct {
	Type   string       `json:"type"`             // stage, state, …
	Stage  string       `json:"stage,omitempty"`  // of a stage line
	Status string       `json:"status,omitempty"` // running, ok or failed
	MS     int64        `json:"ms,omitempty"`     // duration of the stage
	Uptime int64        `json:"uptime_ms"`        // since the guest's kernel started
	State  string       `json:"state,omitempty"`  // of a state line
	Faults []GuestFault `json:"faults,omitempty"`
	Drain  *Drain       `json:"drain,omitempty"` // of a drain line
	// Voucher of a voucher line is unread: package vouchers reads it strictly.
	Voucher json.RawMessage `json:"voucher,omitempty"`
	Raw     json.RawMessage `json:"-"` // the line as it came
}

// Drain is how far a guest is with an order of the host to drain (package
// hostorder).
type Drain struct {
	Order   string `json:"order"`             // its id; empty: the guest's own
	Phase   string `json:"phase"`             // serving, draining or drained
	Running int    `json:"running"`           // requests that run
	Waiting int    `json:"waiting"`           // requests that wait for their turn
	LeftMS  int64  `json:"left_ms,omitempty"` // until those that run are cut off
	Cut     int    `json:"cut,omitempty"`     // requests that were cut off
}

// GuestFault is a failure that the guest reports.
type GuestFault struct {
	Code     string `json:"code"`
	Message  string `json:"message"`
	Expected string `json:"expected,omitempty"`
	Actual   string `json:"actual,omitempty"`
	Remedy   string `json:"remedy,omitempty"`
}

// maxField bounds the short texts of a line.
const maxField = 4096

// ParseLine reads one status line. Unknown keys are kept in Raw: the guest may
// be newer than the host. It is untrusted and decides nothing.
func ParseLine(b []byte) (*Line, error) {
	if len(b) > MaxLine {
		return nil, fmt.Errorf("parsing status line of %d bytes: %w", len(b), jcs.ErrTooLarge)
	}
	b = bytes.TrimSpace(b)
	if err := jcs.Check(b); err != nil {
		return nil, fmt.Errorf("parsing status line: %w", err)
	}
	var l Line
	if err := json.Unmarshal(b, &l); err != nil {
		return nil, fmt.Errorf("parsing status line: %w", err)
	}
	if l.Type == "" {
		return nil, errors.New("parsing status line: type is missing")
	}
	for _, s := range []string{l.Type, l.Stage, l.Status, l.State} {
		if len(s) > maxField {
			return nil, errors.New("parsing status line: a field is too long")
		}
	}
	if d := l.Drain; d != nil && (len(d.Order) > maxField || len(d.Phase) > maxField) {
		return nil, errors.New("parsing status line: a field is too long")
	}
	if len(l.Faults) > 256 {
		return nil, errors.New("parsing status line: too many faults")
	}
	l.Raw = append(json.RawMessage(nil), b...)
	return &l, nil
}

// Lines calls each for every line of r, until r ends. Lines that are too long
// or are not status lines go to bad and are skipped.
func Lines(r io.Reader, each func(*Line), bad func(error)) error {
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		b, err := readLine(br)
		switch {
		case errors.Is(err, jcs.ErrTooLarge):
			bad(fmt.Errorf("reading status line: %w", err))
			continue
		case errors.Is(err, io.EOF) && len(bytes.TrimSpace(b)) == 0:
			return nil
		case err != nil && !errors.Is(err, io.EOF):
			return fmt.Errorf("reading status port: %w", err)
		}
		end := err != nil
		if len(bytes.TrimSpace(b)) > 0 {
			if l, perr := ParseLine(b); perr != nil {
				bad(perr)
			} else {
				each(l)
			}
		}
		if end {
			return nil
		}
	}
}

// readLine reads up to and with the newline; a longer line than MaxLine is
// read to its end and dropped.
func readLine(br *bufio.Reader) ([]byte, error) {
	var line []byte
	tooLong := false
	for {
		part, err := br.ReadSlice('\n')
		if !tooLong {
			if len(line)+len(part) > MaxLine {
				tooLong, line = true, nil
			} else {
				line = append(line, part...)
			}
		}
		if errors.Is(err, bufio.ErrBufferFull) {
			continue
		}
		if tooLong && (err == nil || errors.Is(err, io.EOF)) {
			return nil, fmt.Errorf("more than %d bytes: %w", MaxLine, jcs.ErrTooLarge)
		}
		return line, err
	}
}

// Package eventlog reads and replays measured-boot logs: the crypto-agile log
// that firmware keeps beside a TPM, the CCEL of a confidential VM, which has
// the same form, and the JSON logs of guest agents. In come untrusted bytes;
// out come events and the register values that they give, in one pass, without
// copying event data. Check says whether the log has the form of a measured
// boot, Describe what its events say, Traces and Diff which events made a
// register and where it leaves a reference.
//
// A log proves nothing by itself. Digests are proven by a quote over the
// registers that replay to the same values; event types are labels that nobody
// signed, and event data is one unless the digest covers it.
//
// Definitions: TCG PC Client Platform Firmware Profile 1.06, section 10.2
// (event structures) and 10.4 (types); UEFI 2.10, section 38.4 (CCEL
// measurement registers).
package eventlog

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Limits on a log.
const (
	MaxSize       = 1 << 20 // bytes
	MaxEvents     = 4096
	MaxAlgorithms = 8
)

// Errors of Parse, by kind.
var (
	ErrTooLarge  = errors.New("event log too large")
	ErrTruncated = errors.New("event log ends within an event")
	ErrFormat    = errors.New("event log has a wrong form")
)

// Algorithm is a hash algorithm by its TCG identifier.
type Algorithm uint16

// Algorithms that a log can carry (TCG Algorithm Registry 1.34).
const (
	SHA1    Algorithm = 0x0004
	SHA256  Algorithm = 0x000B
	SHA384  Algorithm = 0x000C
	SHA512  Algorithm = 0x000D
	SM3_256 Algorithm = 0x0012
)

// sizes of the digests of known algorithms, in bytes.
var sizes = map[Algorithm]int{SHA1: 20, SHA256: 32, SHA384: 48, SHA512: 64, SM3_256: 32}

// Digest is one digest of an event.
type Digest struct {
	Algorithm Algorithm
	Value     []byte
}

// Event is one entry. Register is the PCR number, or the CC measurement
// register index of a CCEL: 1 to 4 for RTMR0 to RTMR3.
type Event struct {
	Register uint32
	Type     Type
	Digests  []Digest // one for each of the log's algorithms, in the log's order
	Data     []byte   // a label unless a digest covers it: see Describe
	Name     string   // of a runtime event in a JSON log, empty elsewhere
}

// Digest returns the event's digest under one algorithm, nil if it has none.
func (e *Event) Digest(a Algorithm) []byte {
	for _, d := range e.Digests {
		if d.Algorithm == a {
			return d.Value
		}
	}
	return nil
}

// Kind says where a log comes from, and so what its registers are.
type Kind string

// Kinds of logs.
const (
	KindTPM  Kind = "tpm"  // registers are PCRs
	KindCCEL Kind = "ccel" // registers are a confidential VM's, 1 to 4 for RTMR0 to RTMR3
	KindJSON Kind = "json" // likewise; see ParseJSON
)

// Log is a parsed log, without its header event.
type Log struct {
	Kind       Kind
	Algorithms []Algorithm
	Events     []Event
	// StartupLocality is the locality that TPM2_Startup was called from, which
	// is the first value of PCR 0 (PFP section 10.4.5.3). 0 in most logs.
	StartupLocality uint8
}

// kind tells the sorts of binary logs apart.
type kind struct {
	name                     Kind
	minRegister, maxRegister uint32
	padding                  bool
}

// Parse reads a log of whichever kind: a JSON log by its first character, a
// CCEL by its events, none of which is in register 0.
func Parse(b []byte) (*Log, error) {
	if looksLikeJSON(b) {
		return ParseJSON(b)
	}
	if l, err := ParseCCEL(b); err == nil && isCCEL(l) {
		return l, nil
	}
	return ParseTPM(b)
}

// isCCEL tells a CCEL from a TPM's log: every TPM's log has events in PCR 0.
func isCCEL(l *Log) bool {
	for i := range l.Events {
		if l.Events[i].Type != NoAction {
			return true // ParseCCEL takes no event in a register below 1 or above 4
		}
	}
	return false
}

// ParseTPM reads the log of a TPM, which ends with its last event.
func ParseTPM(b []byte) (*Log, error) { return parse(b, kind{KindTPM, 0, 23, false}) }

// ParseCCEL reads a CCEL. The table is larger than what is used of it: bytes
// of value 0x00 or 0xFF, all the same, may follow the last event.
func ParseCCEL(b []byte) (*Log, error) { return parse(b, kind{KindCCEL, 1, 4, true}) }

func parse(b []byte, k kind) (*Log, error) {
	if len(b) > MaxSize {
		return nil, fmt.Errorf("reading event log of %d bytes: %w, limit %d", len(b), ErrTooLarge, MaxSize)
	}
	r := &reader{b: b}
	l, err := parseHeader(r, k)
	if err != nil {
		return nil, fmt.Errorf("reading event log header: %w", err)
	}
	extendedPCR0 := false
	for r.left() > 0 {
		if k.padding && isPadding(r.b[r.off:]) {
			return l, nil
		}
		if len(l.Events) == MaxEvents {
			return nil, fmt.Errorf("reading event log: %w, more than %d events", ErrTooLarge, MaxEvents)
		}
		at := r.off
		e, err := parseEvent(r, l.Algorithms)
		if err == nil {
			err = l.check(&e, k, extendedPCR0)
		}
		if err != nil {
			return nil, fmt.Errorf("reading event %d at offset %d: %w", len(l.Events), at, err)
		}
		if e.Type != NoAction && e.Register == 0 {
			extendedPCR0 = true
		}
		l.Events = append(l.Events, e)
	}
	return l, nil
}

// check refuses events that a log of this kind cannot have, and takes the
// startup locality.
func (l *Log) check(e *Event, k kind, extendedPCR0 bool) error {
	if e.Type != NoAction {
		if e.Register < k.minRegister || e.Register > k.maxRegister {
			return fmt.Errorf("%w: register %d, want %d to %d", ErrFormat, e.Register, k.minRegister, k.maxRegister)
		}
		return nil
	}
	if bytes.HasPrefix(e.Data, []byte("Spec ID Event")) {
		return fmt.Errorf("%w: second header", ErrFormat)
	}
	if loc, ok := bytes.CutPrefix(e.Data, []byte("StartupLocality\x00")); ok && k.minRegister == 0 {
		// A locality that came after the first extension of PCR 0 would have no
		// meaning, and two of them no single one.
		if len(loc) != 1 || e.Register != 0 || extendedPCR0 || l.StartupLocality != 0 {
			return fmt.Errorf("%w: startup locality", ErrFormat)
		}
		if loc[0] != 0 && loc[0] != 3 && loc[0] != 4 {
			return fmt.Errorf("%w: startup locality %d", ErrFormat, loc[0])
		}
		l.StartupLocality = loc[0]
	}
	return nil
}

// parseHeader reads the first event, a TCG_PCR_EVENT of the old form whose
// data is a TCG_EfiSpecIdEvent (PFP section 10.4.5.1). A CCEL gives it register
// 1 where a TPM's log has 0.
func parseHeader(r *reader, k kind) (*Log, error) {
	pcr, typ := r.u32(), Type(r.u32())
	sha1 := r.bytes(20)
	if r.err != nil {
		return nil, r.err
	}
	if pcr > k.minRegister || typ != NoAction || !allByte(sha1, 0) {
		return nil, fmt.Errorf("%w: first event is no header", ErrFormat)
	}
	data := r.bytes(int(r.size()))
	if r.err != nil {
		return nil, r.err
	}
	s := &reader{b: data}
	sig := s.bytes(16)
	s.bytes(4) // platform class
	version := s.bytes(4)
	n := s.u32()
	if s.err != nil {
		return nil, s.err
	}
	if string(sig) != "Spec ID Event03\x00" || version[1] != 2 {
		return nil, fmt.Errorf("%w: not a crypto-agile log of version 2", ErrFormat)
	}
	if n == 0 || n > MaxAlgorithms {
		return nil, fmt.Errorf("%w: %d algorithms, want 1 to %d", ErrFormat, n, MaxAlgorithms)
	}
	l := &Log{Kind: k.name}
	for range n {
		a, size := Algorithm(s.u16()), s.u16()
		if s.err != nil {
			return nil, s.err
		}
		if want, ok := sizes[a]; !ok || want != int(size) {
			return nil, fmt.Errorf("%w: algorithm %#04x with digests of %d bytes", ErrFormat, uint16(a), size)
		}
		for _, b := range l.Algorithms {
			if a == b {
				return nil, fmt.Errorf("%w: algorithm %#04x twice", ErrFormat, uint16(a))
			}
		}
		l.Algorithms = append(l.Algorithms, a)
	}
	vendor := int(s.u8())
	s.bytes(vendor)
	if s.err != nil {
		return nil, s.err
	}
	if s.left() != 0 {
		return nil, fmt.Errorf("%w: %d bytes after the header", ErrFormat, s.left())
	}
	return l, nil
}

// parseEvent reads one TCG_PCR_EVENT2 (PFP section 10.2.2).
func parseEvent(r *reader, algs []Algorithm) (Event, error) {
	e := Event{Register: r.u32(), Type: Type(r.u32())}
	n := r.u32()
	if r.err != nil {
		return e, r.err
	}
	if int64(n) != int64(len(algs)) {
		return e, fmt.Errorf("%w: %d digests, want %d", ErrFormat, n, len(algs))
	}
	e.Digests = make([]Digest, 0, len(algs))
	for _, a := range algs {
		got := Algorithm(r.u16())
		v := r.bytes(sizes[a])
		if r.err != nil {
			return e, r.err
		}
		if got != a {
			return e, fmt.Errorf("%w: digest algorithm %#04x, want %#04x", ErrFormat, uint16(got), uint16(a))
		}
		e.Digests = append(e.Digests, Digest{a, v})
	}
	e.Data = r.bytes(int(r.size()))
	return e, r.err
}

// isPadding reports whether b is nothing but 0x00 or nothing but 0xFF. An
// event cannot look so: it has digests of a known algorithm.
func isPadding(b []byte) bool { return allByte(b, 0x00) || allByte(b, 0xFF) }

func allByte(b []byte, v byte) bool {
	for _, c := range b {
		if c != v {
			return false
		}
	}
	return true
}

// reader takes little-endian values off a byte slice; its first error stays.
type reader struct {
	b   []byte
	off int
	err error
}

func (r *reader) left() int { return len(r.b) - r.off }

func (r *reader) bytes(n int) []byte {
	if r.err != nil {
		return nil
	}
	if n < 0 || n > r.left() {
		r.err = ErrTruncated
		return nil
	}
	v := r.b[r.off : r.off+n : r.off+n]
	r.off += n
	return v
}

func (r *reader) u8() uint8 {
	if v := r.bytes(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *reader) u16() uint16 {
	if v := r.bytes(2); v != nil {
		return binary.LittleEndian.Uint16(v)
	}
	return 0
}

func (r *reader) u32() uint32 {
	if v := r.bytes(4); v != nil {
		return binary.LittleEndian.Uint32(v)
	}
	return 0
}

// size reads a length; one beyond MaxSize is cut so that it fits an int and
// fails as truncated.
func (r *reader) size() uint32 { return min(r.u32(), MaxSize+1) }

// Package dstack reads what dstack's guest agent hands over of its virtual
// machine: JSON with a TD's quote and event log ("quote", "event_log"), or an
// attestation in SCALE encoding, in hex ("attestation"). A document comes in,
// a quote with its log or a report with its certificate goes out; nothing is
// verified.
//
// The forms are those of Dstack-TEE/dstack, dstack-attest (getquote's answer,
// VersionedAttestation version 0) and of Parity's SCALE codec.
package dstack

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"

	"cocoon/internal/jcs"
	"cocoon/measurements/eventlog"
)

// Limits of a document.
const (
	MaxSize  = 2 << 20 // bytes
	maxCerts = 8
)

// ErrFormat is returned for documents that are not such evidence.
var ErrFormat = errors.New("not evidence of a dstack guest")

// Bundle is what a document has: a TD's quote, or an SNP report.
type Bundle struct {
	Quote    []byte // of a TD
	EventLog []byte // of that TD, a JSON log (package eventlog); nil: none, or not the whole of one
	Report   []byte // of an SNP guest
	VCEK     []byte // DER; nil: none
}

// Is reports whether a document looks like one, so that parsing it gives the
// error that helps.
func Is(doc []byte) bool {
	var head struct {
		Quote       *string         `json:"quote"`
		Log         json.RawMessage `json:"event_log"`
		Attestation *string         `json:"attestation"`
	}
	return json.Unmarshal(doc, &head) == nil && (head.Attestation != nil || head.Quote != nil && head.Log != nil)
}

// Parse reads a document. Members that it does not know are left alone: agents
// add some with every release, and none of them is evidence.
func Parse(doc []byte) (*Bundle, error) {
	if len(doc) > MaxSize {
		return nil, fmt.Errorf("reading dstack's evidence: %w: %d bytes, at most %d", ErrFormat, len(doc), MaxSize)
	}
	if err := jcs.Check(doc); err != nil {
		return nil, fmt.Errorf("reading dstack's evidence: %w: %w", ErrFormat, err)
	}
	var d struct {
		Quote       string          `json:"quote"`
		Log         json.RawMessage `json:"event_log"`
		Attestation string          `json:"attestation"`
	}
	if err := json.Unmarshal(doc, &d); err != nil {
		return nil, fmt.Errorf("reading dstack's evidence: %w: %w", ErrFormat, err)
	}
	var b *Bundle
	var err error
	switch {
	case d.Attestation != "" && d.Quote == "":
		b, err = attestation(d.Attestation)
	case d.Quote != "" && d.Attestation == "":
		b, err = answer(d.Quote, d.Log)
	default:
		err = errors.New("want a quote or an attestation")
	}
	if err != nil {
		return nil, fmt.Errorf("reading dstack's evidence: %w: %w", ErrFormat, err)
	}
	return b, nil
}

// answer reads what getquote answers. The log is JSON, or a string with JSON.
func answer(quote string, log json.RawMessage) (*Bundle, error) {
	q, err := hex.DecodeString(quote)
	if err != nil {
		return nil, errors.New("the quote is not hex")
	}
	b := &Bundle{Quote: q}
	if len(log) == 0 {
		return b, nil
	}
	var inner string
	if json.Unmarshal(log, &inner) == nil {
		log = json.RawMessage(inner)
	}
	if len(log) > eventlog.MaxSize || len(bytes.TrimSpace(log)) == 0 {
		return nil, fmt.Errorf("an event log of %d bytes", len(log))
	}
	b.EventLog = log
	return b, nil
}

// Variants of an attestation: what it is that the guest runs in.
const (
	variantTDX = 0
	variantSNP = 3
)

// attestation reads a VersionedAttestation of version 0. The log that a TD's
// has is not the whole of one, events that a verifier computes are left out, so
// that it replays to nothing by itself: it is not taken.
func attestation(text string) (*Bundle, error) {
	raw, err := hex.DecodeString(text)
	if err != nil {
		return nil, errors.New("the attestation is not hex")
	}
	r := &scale{b: raw}
	version, variant := r.byte(), r.byte()
	evidence := r.bytes()
	if r.err != nil {
		return nil, r.err
	}
	if version != 0 {
		return nil, fmt.Errorf("an attestation of version %d, want 0", version)
	}
	switch variant {
	case variantTDX:
		return &Bundle{Quote: evidence}, nil
	case variantSNP:
		b := &Bundle{Report: evidence}
		n := r.length()
		if n > maxCerts {
			return nil, fmt.Errorf("%d certificates, at most %d", n, maxCerts)
		}
		for range n {
			c := r.bytes()
			if block, _ := pem.Decode(c); block != nil {
				c = block.Bytes
			}
			b.VCEK = c // from the authority's down: the last is the chip's
		}
		return b, r.err
	}
	return nil, fmt.Errorf("an attestation of kind %d, want %d, a TD's, or %d, an SNP guest's", variant, variantTDX, variantSNP)
}

// scale takes values off a byte slice; its first error stays.
type scale struct {
	b   []byte
	err error
}

func (r *scale) take(n int) []byte {
	if r.err == nil && n > len(r.b) {
		r.err = errors.New("the attestation ends within a value")
	}
	if r.err != nil {
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *scale) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

// length reads a compact number: two bits say how many bytes it has, 1, 2 or
// 4; a longer one is beyond every limit.
func (r *scale) length() int {
	first := r.byte()
	n := int(first)
	switch first & 3 {
	case 1:
		if v := r.take(1); v != nil {
			n |= int(v[0]) << 8
		}
	case 2:
		if v := r.take(3); v != nil {
			n |= int(v[0])<<8 | int(v[1])<<16 | int(v[2])<<24
		}
	case 3:
		if r.err == nil {
			r.err = errors.New("the attestation has a value of more than a gigabyte")
		}
	}
	if r.err != nil {
		return 0
	}
	return n >> 2
}

func (r *scale) bytes() []byte { return r.take(r.length()) }

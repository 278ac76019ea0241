// Package jcs reads and writes the project's JSON documents: RFC 8785
// canonical form out; in, strict decoding that refuses duplicate keys,
// unknown keys, trailing data and documents over a size limit.
package jcs

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/gowebpki/jcs"
)

// MaxDepth bounds nesting in any document that Decode accepts.
const MaxDepth = 32

// ErrTooLarge is returned for documents over the caller's limit.
var ErrTooLarge = errors.New("document too large")

// DuplicateKeyError reports a key that appears twice in one object.
type DuplicateKeyError struct{ Key string }

// Error names the key.
func (e *DuplicateKeyError) Error() string { return fmt.Sprintf("duplicate key %q", e.Key) }

// Marshal returns the RFC 8785 form of v.
func Marshal(v any) ([]byte, error) {
	pooled := buffers.Get().(*[]byte)
	if out, ok := appendValue((*pooled)[:0], v); ok {
		*pooled = out
		out = bytes.Clone(out)
		buffers.Put(pooled)
		return out, nil
	}
	buffers.Put(pooled)
	return marshal(v)
}

// marshal is Marshal by way of encoding/json.
func marshal(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encoding JSON: %w", err)
	}
	return transform(b)
}

// transform returns the RFC 8785 form of good JSON.
func transform(doc []byte) ([]byte, error) {
	if out, ok := appendCanonical(make([]byte, 0, len(doc)), doc); ok {
		return out, nil
	}
	out, err := jcs.Transform(doc)
	if err != nil {
		return nil, fmt.Errorf("canonicalising JSON: %w", err)
	}
	return out, nil
}

// Canonical returns the RFC 8785 form of a JSON text, which must pass Check.
func Canonical(doc []byte) ([]byte, error) {
	if err := Check(doc); err != nil {
		return nil, err
	}
	return transform(doc)
}

// Hash returns the SHA-256 of the RFC 8785 form of v.
func Hash(v any) ([32]byte, error) {
	pooled := buffers.Get().(*[]byte)
	defer buffers.Put(pooled)
	if out, ok := appendValue((*pooled)[:0], v); ok {
		*pooled = out
		return sha256.Sum256(out), nil
	}
	b, err := marshal(v)
	if err != nil {
		return [32]byte{}, err
	}
	return sha256.Sum256(b), nil
}

// Decode reads exactly one JSON value of at most limit bytes into v and
// refuses duplicate keys, keys that v does not have, and trailing data.
func Decode(doc []byte, limit int, v any) error {
	_, err := DecodeExact(doc, limit, v)
	return err
}

// DecodeExact is Decode, and reports whether it is sure that doc is, byte for
// byte, what Marshal makes of v: Hash is then the hash of doc. It is not sure of
// everything.
func DecodeExact(doc []byte, limit int, v any) (exact bool, err error) {
	if len(doc) > limit {
		return false, fmt.Errorf("decoding JSON of %d bytes, limit %d: %w", len(doc), limit, ErrTooLarge)
	}
	if done, exact := decodeFast(doc, v); done {
		return exact, nil
	}
	return false, decode(doc, v)
}

// decode is Decode by way of encoding/json.
func decode(doc []byte, v any) error {
	if err := Check(doc); err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return fmt.Errorf("decoding JSON: %w", err)
	}
	return nil
}

// DecodeCanonical is Decode for documents that must be, byte for byte, the
// RFC 8785 form of what they decode to, as signed documents are. This also
// refuses keys that differ from the field's name in case only, which
// encoding/json would take.
func DecodeCanonical(doc []byte, limit int, v any) error {
	if err := Decode(doc, limit, v); err != nil {
		return err
	}
	canon, err := Marshal(v)
	if err != nil {
		return err
	}
	if !bytes.Equal(canon, doc) {
		return errors.New("decoding JSON: document is not the RFC 8785 form of its own content")
	}
	return nil
}

// Check refuses invalid JSON, duplicate keys at any depth, nesting beyond
// MaxDepth and trailing data.
func Check(doc []byte) error {
	if checkFast(doc) {
		return nil
	}
	dec := json.NewDecoder(bytes.NewReader(doc))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		return err
	}
	if _, err := dec.Token(); err != io.EOF {
		return errors.New("data after the JSON value")
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	if depth > MaxDepth {
		return fmt.Errorf("nesting deeper than %d", MaxDepth)
	}
	tok, err := dec.Token()
	if err != nil {
		if err == io.EOF {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	delim, ok := tok.(json.Delim)
	if !ok {
		return nil
	}
	seen := map[string]bool{}
	for dec.More() {
		if delim == '{' {
			key, err := dec.Token()
			if err != nil {
				return err
			}
			name, ok := key.(string)
			if !ok {
				return fmt.Errorf("object key %v is not a string", key)
			}
			// encoding/json matches field names without regard to case, so two
			// keys that differ in case only are duplicates here.
			fold := strings.ToLower(name)
			if seen[fold] {
				return &DuplicateKeyError{Key: name}
			}
			seen[fold] = true
		}
		if err := checkValue(dec, depth+1); err != nil {
			return err
		}
	}
	_, err = dec.Token()
	return err
}

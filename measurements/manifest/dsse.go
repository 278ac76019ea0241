package manifest

import (
	"bytes"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"sort"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// Types of the layers (in-toto Attestation Framework, Statement v1 and
// Envelope).
const (
	statementType = "https://in-toto.io/Statement/v1"
	payloadType   = "application/vnd.in-toto+json"
	maxSignatures = 32
)

// Errors of Open, by kind.
var (
	ErrNotTrusted = errors.New("manifest is not signed by enough of the trusted keys")
	ErrForm       = errors.New("manifest has a wrong form")
)

// statement is an in-toto Statement v1. The order of subjects is that of the
// artifacts.
type statement struct {
	Type          string    `json:"_type"`
	Subject       []subject `json:"subject"`
	PredicateType string    `json:"predicateType"`
	Predicate     *Manifest `json:"predicate"`
}

type subject struct {
	Name   string `json:"name"`
	Digest struct {
		SHA256 digest.SHA256 `json:"sha256"`
	} `json:"digest"`
}

// envelope is a DSSE envelope (DSSE 1.0.2).
type envelope struct {
	PayloadType string      `json:"payloadType"`
	Payload     string      `json:"payload"` // standard base64
	Signatures  []signature `json:"signatures"`
}

type signature struct {
	KeyID string `json:"keyid"` // hex of the SHA-256 of the raw key; a hint only
	Sig   string `json:"sig"`   // standard base64
}

func subjects(m *Manifest) []subject {
	out := make([]subject, len(m.Artifacts))
	for i, a := range m.Artifacts {
		out[i].Name = a.Name
		out[i].Digest.SHA256 = a.SHA256
	}
	return out
}

// Payload returns the DSSE payload of a manifest: the statement in RFC 8785
// form. Its SHA-256 is the manifest's identity.
func (m *Manifest) Payload() ([]byte, error) {
	if err := m.Validate(); err != nil {
		return nil, fmt.Errorf("encoding manifest: %w", err)
	}
	return jcs.Marshal(statement{statementType, subjects(m), PredicateType, m})
}

// ParsePayload reads a DSSE payload, which must be in RFC 8785 form, and
// validates it. It says nothing about who signed it.
func ParsePayload(b []byte) (*Manifest, error) {
	var s statement
	if err := jcs.DecodeCanonical(b, MaxPayload, &s); err != nil {
		return nil, fmt.Errorf("parsing manifest: %w: %w", ErrForm, err)
	}
	if s.Type != statementType || s.PredicateType != PredicateType || s.Predicate == nil {
		return nil, fmt.Errorf("parsing manifest: %w: not a statement with predicate %s", ErrForm, PredicateType)
	}
	if err := s.Predicate.Validate(); err != nil {
		return nil, fmt.Errorf("parsing manifest: %w: %w", ErrForm, err)
	}
	if !slices.Equal(s.Subject, subjects(s.Predicate)) {
		return nil, fmt.Errorf("parsing manifest: %w: subjects are not the artifacts", ErrForm)
	}
	return s.Predicate, nil
}

// KeyID returns the key id of a public key in envelopes.
func KeyID(key ed25519.PublicKey) string { return digest.Sum256(key).String() }

// Sign returns the manifest in a DSSE envelope with a signature by each key.
// Without keys the envelope is unsigned: it can be accepted by its hash only.
func Sign(m *Manifest, keys ...ed25519.PrivateKey) ([]byte, error) {
	payload, err := m.Payload()
	if err != nil {
		return nil, err
	}
	if len(keys) > maxSignatures {
		return nil, fmt.Errorf("signing manifest: %d keys, limit %d", len(keys), maxSignatures)
	}
	e := envelope{PayloadType: payloadType, Payload: base64.StdEncoding.EncodeToString(payload), Signatures: []signature{}}
	for _, k := range keys {
		e.Signatures = append(e.Signatures, sign(k, payload))
	}
	return jcs.Marshal(e)
}

// Trust says which envelopes Open accepts: those whose payload has one of the
// hashes, or that Threshold distinct keys signed. The zero value accepts
// nothing.
type Trust struct {
	Hashes    []digest.SHA256
	Keys      []digest.SHA256 // raw Ed25519 public keys
	Threshold int
}

// Open reads an envelope and accepts it by the trust that is given.
func Open(env []byte, t Trust) (*Verified, error) {
	v, err := Read(env, t.Keys)
	if err != nil {
		return nil, err
	}
	if slices.Contains(t.Hashes, v.SHA256) || t.Threshold > 0 && len(v.Signers) >= t.Threshold {
		return v, nil
	}
	return nil, fmt.Errorf("opening manifest %s: %w: %d signed, %d needed", v.SHA256, ErrNotTrusted, len(v.Signers), t.Threshold)
}

// Read reads an envelope and says which of the keys signed it. It does not
// say whether that is enough: Open does, or whoever asks a registry.
//
// The library's envelope verifier is not used because it writes to standard
// output; the pre-authentication encoding is the library's.
func Read(env []byte, keys []digest.SHA256) (*Verified, error) {
	var e envelope
	if err := jcs.Decode(env, MaxEnvelope, &e); err != nil {
		return nil, fmt.Errorf("opening manifest: %w: %w", ErrForm, err)
	}
	if e.PayloadType != payloadType || len(e.Signatures) > maxSignatures {
		return nil, fmt.Errorf("opening manifest: %w: payload type or number of signatures", ErrForm)
	}
	payload, err := base64.StdEncoding.Strict().DecodeString(e.Payload)
	if err != nil || len(payload) > MaxPayload {
		return nil, fmt.Errorf("opening manifest: %w: payload is not base64 of at most %d bytes", ErrForm, MaxPayload)
	}
	v := &Verified{SHA256: digest.Sum256(payload), Payload: payload, Envelope: bytes.Clone(env), Signers: signers(&e, payload, keys)}
	if v.Manifest, err = ParsePayload(payload); err != nil {
		return nil, err
	}
	return v, nil
}

// signers returns which of the keys signed the payload, each once.
func signers(e *envelope, payload []byte, keys []digest.SHA256) []digest.SHA256 {
	msg := dsse.PAE(payloadType, payload)
	var out []digest.SHA256
	for _, k := range keys {
		if slices.Contains(out, k) {
			continue
		}
		for _, s := range e.Signatures {
			sig, err := base64.StdEncoding.Strict().DecodeString(s.Sig)
			if err == nil && ed25519.Verify(k[:], msg, sig) {
				out = append(out, k)
				break
			}
		}
	}
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i][:], out[j][:]) < 0 })
	return out
}

// AddSignatures returns an envelope with a signature by each key beside those
// that it has. Its payload must be a valid manifest; a key that has signed
// already is an error.
func AddSignatures(env []byte, keys ...ed25519.PrivateKey) ([]byte, error) {
	v, err := Read(env, nil)
	if err != nil {
		return nil, err
	}
	var e envelope
	if err := jcs.Decode(env, MaxEnvelope, &e); err != nil {
		return nil, fmt.Errorf("signing manifest: %w: %w", ErrForm, err)
	}
	if len(e.Signatures)+len(keys) > maxSignatures {
		return nil, fmt.Errorf("signing manifest: %w: more than %d signatures", ErrForm, maxSignatures)
	}
	for _, k := range keys {
		s := sign(k, v.Payload)
		if slices.ContainsFunc(e.Signatures, func(t signature) bool { return t.KeyID == s.KeyID }) {
			return nil, fmt.Errorf("signing manifest: %w: key %s has signed already", ErrForm, s.KeyID)
		}
		e.Signatures = append(e.Signatures, s)
	}
	return jcs.Marshal(e)
}

func sign(k ed25519.PrivateKey, payload []byte) signature {
	return signature{
		KeyID: KeyID(k.Public().(ed25519.PublicKey)),
		Sig:   base64.StdEncoding.EncodeToString(ed25519.Sign(k, dsse.PAE(payloadType, payload))),
	}
}

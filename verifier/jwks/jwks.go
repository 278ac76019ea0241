// Package jwks reads and writes the public keys of verifiers as a JSON Web Key
// Set (RFC 7517; Ed25519 as in RFC 8037, section 2). In comes a document, out
// come raw keys; whether they are to be trusted is the caller's affair.
package jwks

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"cocoon/internal/jcs"
	"cocoon/verifier/result"
)

// Path is where a verifier serves its keys, under its base URL.
const Path = "/.well-known/jwks.json"

// Limits of a document.
const (
	MaxSize = 64 << 10
	MaxKeys = 64
)

// Set is the document.
type Set struct {
	Keys []Key `json:"keys"`
}

// Key is a public Ed25519 key that verifies signatures.
type Key struct {
	KeyType   string `json:"kty"`           // "OKP"
	Curve     string `json:"crv"`           // "Ed25519"
	X         string `json:"x"`             // base64url of the raw key
	KeyID     string `json:"kid,omitempty"` // result.KeyID
	Use       string `json:"use,omitempty"` // "sig"
	Algorithm string `json:"alg,omitempty"` // "EdDSA"
}

// Of returns the set of some keys.
func Of(keys ...ed25519.PublicKey) *Set {
	s := &Set{Keys: []Key{}}
	for _, k := range keys {
		s.Keys = append(s.Keys, Key{KeyType: "OKP", Curve: "Ed25519", X: base64.RawURLEncoding.EncodeToString(k),
			KeyID: result.KeyID(k), Use: "sig", Algorithm: "EdDSA"})
	}
	return s
}

// Parse returns the Ed25519 keys of a document. As RFC 7517, section 5,
// demands, keys of other types and members that are not known are ignored; a
// key that is Ed25519 and malformed, or under another key's id, is an error, as
// is a document without any.
func Parse(doc []byte) ([]ed25519.PublicKey, error) {
	if len(doc) > MaxSize {
		return nil, fmt.Errorf("parsing key set: %d bytes, limit %d", len(doc), MaxSize)
	}
	if err := jcs.Check(doc); err != nil {
		return nil, fmt.Errorf("parsing key set: %w", err)
	}
	var s Set
	if err := json.Unmarshal(doc, &s); err != nil {
		return nil, fmt.Errorf("parsing key set: %w", err)
	}
	if len(s.Keys) > MaxKeys {
		return nil, fmt.Errorf("parsing key set: %d keys, limit %d", len(s.Keys), MaxKeys)
	}
	var out []ed25519.PublicKey
	for i, k := range s.Keys {
		if k.KeyType != "OKP" || k.Curve != "Ed25519" {
			continue
		}
		raw, err := base64.RawURLEncoding.Strict().DecodeString(k.X)
		switch {
		case err != nil || len(raw) != ed25519.PublicKeySize:
			return nil, fmt.Errorf("parsing key set: key %d: x is not 32 bytes of base64url", i)
		case k.Use != "" && k.Use != "sig" || k.Algorithm != "" && k.Algorithm != "EdDSA" && k.Algorithm != "Ed25519":
			return nil, fmt.Errorf("parsing key set: key %d: use %.32q and alg %.32q are not those of a key that verifies", i, k.Use, k.Algorithm)
		case k.KeyID != "" && k.KeyID != result.KeyID(raw):
			return nil, fmt.Errorf("parsing key set: key %d: its id %.80q is another key's", i, k.KeyID)
		case slices.ContainsFunc(out, func(o ed25519.PublicKey) bool { return o.Equal(ed25519.PublicKey(raw)) }):
			return nil, fmt.Errorf("parsing key set: key %d is there twice", i)
		}
		out = append(out, raw)
	}
	if len(out) == 0 {
		return nil, errors.New("parsing key set: it has no Ed25519 key")
	}
	return out, nil
}

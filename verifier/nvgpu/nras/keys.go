package nras

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
)

// Limits of a key set.
const (
	MaxKeySet = 1 << 20 // bytes
	maxKeys   = 128     // NVIDIA's has some 36
	maxX5C    = 4
)

// Keys are the keys of the service, by their ids.
type Keys struct{ byID map[string]*ecdsa.PublicKey }

// Len returns the number of keys.
func (k *Keys) Len() int { return len(k.byID) }

// ParseJWKS reads a key set (RFC 7517) of P-384 keys, as the service has it at
// /.well-known/jwks.json. Where roots are given, each key must be that of the
// first certificate of its x5c, whose chain ends in a root and is valid now;
// without them the caller vouches for the set, as TLS to the service does.
// NVIDIA does not publish the root of these chains.
func ParseJWKS(doc []byte, roots *x509.CertPool, now time.Time) (*Keys, error) {
	bad := func(err error) error {
		return fault.New(fault.ExitParse, "nras.keys", "get "+Issuer+"/.well-known/jwks.json again", "reading key set: %w", err)
	}
	if len(doc) > MaxKeySet {
		return nil, bad(fmt.Errorf("%d bytes, limit %d", len(doc), MaxKeySet))
	}
	var set struct {
		Keys []jwk `json:"keys"`
	}
	if err := errors.Join(jcs.Check(doc), json.Unmarshal(doc, &set)); err != nil {
		return nil, bad(err)
	}
	if len(set.Keys) == 0 || len(set.Keys) > maxKeys {
		return nil, bad(fmt.Errorf("%d keys, want 1 to %d", len(set.Keys), maxKeys))
	}
	out := &Keys{byID: map[string]*ecdsa.PublicKey{}}
	for _, j := range set.Keys {
		key, err := j.key()
		if err == nil && roots != nil {
			err = j.verify(key, roots, now)
		}
		if err == nil && (j.ID == "" || out.byID[j.ID] != nil) {
			err = errors.New("it has no id, or that of another")
		}
		if err != nil {
			return nil, bad(fmt.Errorf("key %.120q: %w", j.ID, err))
		}
		out.byID[j.ID] = key
	}
	return out, nil
}

// jwk is a key of a set; NVIDIA may add members.
type jwk struct {
	Type  string   `json:"kty"`
	Curve string   `json:"crv"`
	X     string   `json:"x"`
	Y     string   `json:"y"`
	ID    string   `json:"kid"`
	X5C   [][]byte `json:"x5c"` // standard base64 (RFC 7517, section 4.7)
}

func (j *jwk) key() (*ecdsa.PublicKey, error) {
	if j.Type != "EC" || j.Curve != "P-384" {
		return nil, fmt.Errorf("%.16q on %.16q, want EC on P-384", j.Type, j.Curve)
	}
	point := []byte{4}
	for _, s := range []string{j.X, j.Y} {
		b, err := base64.RawURLEncoding.Strict().DecodeString(s)
		if err != nil || len(b) > 48 {
			return nil, errors.New("a coordinate is not 48 bytes of base64url")
		}
		point = append(point, new(big.Int).SetBytes(b).FillBytes(make([]byte, 48))...)
	}
	return ecdsa.ParseUncompressedPublicKey(elliptic.P384(), point)
}

// verify checks the key's certificate chain.
func (j *jwk) verify(key *ecdsa.PublicKey, roots *x509.CertPool, now time.Time) error {
	if len(j.X5C) == 0 || len(j.X5C) > maxX5C {
		return fmt.Errorf("x5c of %d certificates, want 1 to %d", len(j.X5C), maxX5C)
	}
	pool := x509.NewCertPool()
	var leaf *x509.Certificate
	for i, der := range j.X5C {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("reading certificate %d: %w", i+1, err)
		}
		if i == 0 {
			leaf = c
		} else {
			pool.AddCert(c)
		}
	}
	want, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		return fmt.Errorf("encoding key: %w", err)
	}
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, want) {
		return errors.New("its certificate is for another key")
	}
	if _, err := leaf.Verify(x509.VerifyOptions{Roots: roots, Intermediates: pool, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		return fmt.Errorf("verifying its certificate: %w", err)
	}
	return nil
}

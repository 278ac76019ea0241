// Package nrastest signs what NVIDIA's Remote Attestation Service would say, with
// a key of its own: for tests of package nras and of its users. Nothing that it
// signs is NVIDIA's word.
package nrastest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/golang-jwt/jwt/v5"

	"cocoon/verifier/nvgpu/nras"
	"cocoon/verifier/nvgpu/rimtest"
)

// T is what of testing.TB is needed.
type T interface{ Fatal(args ...any) }

// KeyID is the id of the service's key.
const KeyID = "nv-eat-kid-test-1"

// Nonce is what the tokens are about, unless changed.
func Nonce() []byte { return bytes.Repeat([]byte{0xab}, 32) }

// Service signs as NVIDIA's does.
type Service struct {
	Key  *ecdsa.PrivateKey
	Keys *nras.Keys
	Set  []byte // JWKS with the key
}

// JWKS writes a key set.
func JWKS(t T, id string, key *ecdsa.PublicKey, x5c ...[]byte) []byte {
	raw, err := key.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-384", "use": "sig", "kid": id, "x5c": x5c,
		"x": base64.RawURLEncoding.EncodeToString(raw[1:49]), "y": base64.RawURLEncoding.EncodeToString(raw[49:])}}})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// New makes a service whose key has this id.
func New(t T, id string) *Service {
	key, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	set := JWKS(t, id, &key.PublicKey)
	keys, err := nras.ParseJWKS(set, nil, rimtest.Now)
	if err != nil {
		t.Fatal(err)
	}
	return &Service{key, keys, set}
}

// Doc is a token's claims.
type Doc = map[string]any

// Common returns the claims of every token.
func Common() Doc {
	now := rimtest.Now.Unix()
	return Doc{"iss": nras.Issuer, "iat": now, "nbf": now, "exp": now + 3600, "eat_nonce": hex.EncodeToString(Nonce())}
}

// Device returns the claims about the n-th GPU, which is good.
func Device(n int) Doc {
	d := Common()
	for k, v := range (Doc{"measres": "success", "secboot": true, "dbgstat": "disabled", "hwmodel": "GH100 A01 GSP BROM", "ueid": fmt.Sprint(4781763792860 + n), "oemid": "5703",
		"x-nvidia-gpu-arch-check": true, "x-nvidia-gpu-attestation-report-parsed": true, "x-nvidia-gpu-attestation-report-nonce-match": true,
		"x-nvidia-gpu-attestation-report-signature-verified": true, "x-nvidia-gpu-driver-version": "550.90.07", "x-nvidia-gpu-vbios-version": "96.00.9F.00.01",
		"x-nvidia-gpu-mode": "spt", "x-nvidia-attestation-warning": nil,
		"x-nvidia-gpu-driver-rim-cert-chain": Doc{"x-nvidia-cert-status": "valid", "x-nvidia-cert-ocsp-status": "good", "x-nvidia-cert-revocation-reason": nil}}) {
		d[k] = v
	}
	return d
}

// Sign signs claims.
func (s *Service) Sign(t T, c Doc) string {
	tok := jwt.NewWithClaims(jwt.SigningMethodES384, jwt.MapClaims(c))
	tok.Header = map[string]any{"alg": "ES384", "kid": KeyID}
	out, err := tok.SignedString(s.Key)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Bundle signs devices and an overall token over them, after change.
func (s *Service) Bundle(t T, devices []Doc, change func(overall Doc, tokens map[string]string)) []byte {
	overall := Common()
	overall["sub"], overall["x-nvidia-ver"], overall["x-nvidia-overall-att-result"] = "NVIDIA-PLATFORM-ATTESTATION", "3.0", true
	tokens, submods := map[string]string{}, Doc{}
	for i, d := range devices {
		name := fmt.Sprintf("GPU-%d", i)
		tokens[name] = s.Sign(t, d)
		sum := sha256.Sum256([]byte(tokens[name]))
		submods[name] = []any{"DIGEST", []string{"SHA-256", hex.EncodeToString(sum[:])}}
	}
	overall["submods"] = submods
	if change != nil {
		change(overall, tokens)
	}
	b, err := json.Marshal([]any{[]string{"JWT", s.Sign(t, overall)}, tokens})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

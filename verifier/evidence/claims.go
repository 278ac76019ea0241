// Package evidence has the documents that a confidential VM shows: claims,
// guest config, and the evidence that carries both with the hardware's quote
// (DESIGN section 4). In come untrusted bytes, out come typed, bounded values;
// whether they are true is decided by package appraise.
package evidence

import (
	"bytes"
	"crypto/sha256"
	"crypto/sha512"
	"errors"
	"fmt"
	"sort"

	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
)

// Limits on documents, in bytes, and on counts.
const (
	MaxClaims      = 8 << 10
	MaxConfig      = 64 << 10
	MaxEvidence    = 8 << 20
	MaxNonceInputs = 64
	MaxGPUs        = 16
	MaxModels      = 16 // of one machine: a PCI bus has 32 slots
)

// Model names a model and fixes its bytes by the dm-verity root of its pack.
type Model struct {
	Name       string        `json:"name"`
	VerityRoot digest.SHA256 `json:"verity_root"`
}

// Claims are what the hardware quote signs: the keys that live in this VM,
// who is paid, and hashes of everything else
// (application/vnd.cocoon.claims+json).
type Claims struct {
	TLSSPKISHA256     digest.SHA256 `json:"tls_spki_sha256"`     // SHA-256 of the TLS key's SubjectPublicKeyInfo
	ReceiptKey        digest.SHA256 `json:"receipt_key"`         // raw Ed25519 public key, new at each boot
	Payout            string        `json:"payout"`              // TON address that is paid, or empty
	ConfigSHA256      digest.SHA256 `json:"config_sha256"`       // SHA-256 of the JCS of the config
	Model             Model         `json:"model"`               // one of the config's models
	GPUEvidenceSHA256 digest.SHA256 `json:"gpu_evidence_sha256"` // SHA-256 of the JCS of Evidence.GPUs
	Nonce             digest.SHA256 `json:"nonce"`               // NonceOf(Evidence.NonceInputs)
	// StagesSHA256 is the SHA-256 of the JCS of Evidence.Stages; nil without a
	// record.
	StagesSHA256 *digest.SHA256 `json:"stages_sha256,omitempty"`
}

// ParseClaims reads claims, which must be in RFC 8785 form.
func ParseClaims(b []byte) (*Claims, error) {
	var c Claims
	if err := jcs.DecodeCanonical(b, MaxClaims, &c); err != nil {
		return nil, fmt.Errorf("parsing claims: %w", err)
	}
	return &c, nil
}

// ReportData returns the 64 bytes that a TDX, SNP or SGX report carries:
// SHA-512 of the JCS of the claims.
func (c *Claims) ReportData() ([64]byte, error) {
	b, err := jcs.Marshal(c)
	if err != nil {
		return [64]byte{}, fmt.Errorf("encoding claims: %w", err)
	}
	return sha512.Sum512(b), nil
}

// QualifyingData returns the 32 bytes that a TPM quote carries as extraData:
// SHA-256 of the JCS of the claims.
func (c *Claims) QualifyingData() ([32]byte, error) {
	b, err := jcs.Marshal(c)
	if err != nil {
		return [32]byte{}, fmt.Errorf("encoding claims: %w", err)
	}
	return sha256.Sum256(b), nil
}

// GPUNonce returns the nonce that GPUs must sign: SHA-256("cocoon-gpu-v1" ‖
// nonce ‖ SHA-256(JCS(claims without gpu_evidence_sha256))) (DESIGN section 2).
func (c *Claims) GPUNonce() ([32]byte, error) {
	bare := struct {
		TLSSPKISHA256 digest.SHA256  `json:"tls_spki_sha256"`
		ReceiptKey    digest.SHA256  `json:"receipt_key"`
		Payout        string         `json:"payout"`
		ConfigSHA256  digest.SHA256  `json:"config_sha256"`
		Model         Model          `json:"model"`
		Nonce         digest.SHA256  `json:"nonce"`
		StagesSHA256  *digest.SHA256 `json:"stages_sha256,omitempty"`
	}{c.TLSSPKISHA256, c.ReceiptKey, c.Payout, c.ConfigSHA256, c.Model, c.Nonce, c.StagesSHA256}
	sum, err := jcs.Hash(bare)
	if err != nil {
		return [32]byte{}, fmt.Errorf("encoding claims: %w", err)
	}
	h := sha256.New()
	h.Write([]byte("cocoon-gpu-v1"))
	h.Write(c.Nonce[:])
	h.Write(sum[:])
	return [32]byte(h.Sum(nil)), nil
}

// ErrNonceInputs is returned for nonce contributions that are empty, too
// many, unsorted or repeated.
var ErrNonceInputs = errors.New("nonce inputs must be 1 to 64 values, sorted and distinct")

// SortNonceInputs returns the contributions in the order that NonceOf wants,
// without repetitions.
func SortNonceInputs(in []digest.SHA256) []digest.SHA256 {
	out := append([]digest.SHA256(nil), in...)
	sort.Slice(out, func(i, j int) bool { return bytes.Compare(out[i][:], out[j][:]) < 0 })
	n := 0
	for i, d := range out {
		if i == 0 || d != out[n-1] {
			out[n] = d
			n++
		}
	}
	return out[:n]
}

// NonceOf returns the nonce for a sorted list of contributions: SHA-256 of
// the JCS of the list (DESIGN section 2).
func NonceOf(inputs []digest.SHA256) (digest.SHA256, error) {
	if len(inputs) == 0 || len(inputs) > MaxNonceInputs {
		return digest.SHA256{}, ErrNonceInputs
	}
	for i := 1; i < len(inputs); i++ {
		if bytes.Compare(inputs[i-1][:], inputs[i][:]) >= 0 {
			return digest.SHA256{}, ErrNonceInputs
		}
	}
	sum, err := jcs.Hash(inputs)
	return digest.SHA256(sum), err
}

// Package envelope encrypts a secret to an attested enclave, and to no other:
// the key of an encrypted model pack, the key of a data disk that moves to a
// new machine.
//
// The enclave makes a key for one purpose and one challenge of the holder and
// signs it with its receipt key, which its evidence claims (DESIGN section 4,
// claims). The holder of the secret appraises the evidence, gives the result
// here, and gets bytes that anyone may carry: only the enclave opens them,
// once. Encryption is HPKE (RFC 9180) with X25519 and ML-KEM-768
// (draft-ietf-hpke-pq), HKDF-SHA256 and AES-256-GCM: what is recorded today
// stays closed to who can break elliptic curves tomorrow.
package envelope

import (
	"crypto/ed25519"
	"crypto/hpke"
	"fmt"
	"time"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/result"
)

// Format names this version of requests and envelopes.
const Format = "cocoon-envelope/1"

// Purposes. A key that was made for one opens nothing of another.
const (
	PurposeModelKey = "model-key" // the key of an encrypted model pack
	PurposeHandover = "handover"  // the key of a data disk
)

// Limits in bytes.
const (
	MaxRequest = 8 << 10
	MaxSecret  = 4 << 10
	// MaxEnvelope has room for a secret, the encapsulated key (1120 bytes) and
	// the tag.
	MaxEnvelope = MaxSecret + 2<<10
)

// Codes of faults.
const (
	CodeRequest  = "envelope.request"   // the request does not parse
	CodeRefused  = "envelope.refused"   // the evidence was not accepted
	CodeForeign  = "envelope.foreign"   // the request is of other evidence, purpose or challenge
	CodeExpired  = "envelope.expired"   // the appraisal is too old
	CodeSignedBy = "envelope.signature" // the receipt key did not sign
	CodeOpen     = "envelope.open"      // the envelope is for another key, or changed
	CodeUsed     = "envelope.used"      // the key has opened an envelope already
)

// Request asks for a secret. It travels beside the evidence that it names.
type Request struct {
	Format         string        `json:"format"`
	Purpose        string        `json:"purpose"`
	Challenge      digest.SHA256 `json:"challenge"`       // of the holder, for this request
	EvidenceSHA256 digest.SHA256 `json:"evidence_sha256"` // of the evidence document
	Key            []byte        `json:"key"`             // HPKE public key, 1216 bytes
	Signature      []byte        `json:"signature"`       // Ed25519 by claims.receipt_key over bound()
}

// bound is what the receipt key signs and what both sides bind the encryption
// to: a label that no other signature of that key begins with, then the JCS of
// the request without its signature.
func (r *Request) bound() ([]byte, error) {
	bare := *r
	bare.Signature = []byte{}
	doc, err := jcs.Marshal(bare)
	if err != nil {
		return nil, fmt.Errorf("encoding request: %w", err)
	}
	return append([]byte("cocoon-envelope-v1\x00"), doc...), nil
}

// suite returns the one suite of this format.
func suite() (hpke.KEM, hpke.KDF, hpke.AEAD) {
	return hpke.MLKEM768X25519(), hpke.HKDFSHA256(), hpke.AES256GCM()
}

// Key is the enclave's half: it lives in memory, for one envelope.
type Key struct {
	private hpke.PrivateKey
	info    []byte
	request []byte
	used    bool
}

// NewKey makes a key for a purpose and a holder's challenge. document is the
// enclave's evidence, which claims receipt's public half.
func NewKey(purpose string, challenge digest.SHA256, document []byte, receipt ed25519.PrivateKey) (*Key, error) {
	kem, _, _ := suite()
	private, err := kem.GenerateKey()
	if err != nil {
		return nil, fmt.Errorf("making envelope key: %w", err)
	}
	r := Request{Format: Format, Purpose: purpose, Challenge: challenge, EvidenceSHA256: digest.Sum256(document), Key: private.PublicKey().Bytes()}
	info, err := r.bound()
	if err != nil {
		return nil, err
	}
	r.Signature = ed25519.Sign(receipt, info)
	doc, err := jcs.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encoding request: %w", err)
	}
	return &Key{private: private, info: info, request: doc}, nil
}

// Request returns the request, in RFC 8785 form.
func (k *Key) Request() []byte { return k.request }

// Open opens an envelope. context must be the holder's. The key opens one
// envelope; what fails to open does not use it up, for anybody could send that.
func (k *Key) Open(envelope, context []byte) ([]byte, error) {
	if k.used {
		return nil, fault.New(fault.ExitRefused, CodeUsed, "make a new request", "opening envelope: its key was used")
	}
	fail := func(err error) ([]byte, error) {
		return nil, fault.New(fault.ExitRefused, CodeOpen, "ask the holder for an envelope to this very request", "opening envelope: %w", err)
	}
	kem, kdf, aead := suite()
	n, err := encapsulated(kem)
	if err != nil {
		return nil, err
	}
	if len(envelope) <= n || len(envelope) > MaxEnvelope {
		return fail(fmt.Errorf("%d bytes, want %d to %d", len(envelope), n+1, MaxEnvelope))
	}
	r, err := hpke.NewRecipient(envelope[:n], k.private, kdf, aead, k.info)
	if err != nil {
		return fail(err)
	}
	secret, err := r.Open(context, envelope[n:])
	if err != nil {
		return fail(err)
	}
	k.used = true
	return secret, nil
}

// encapsulated returns the length of the encapsulated key.
func encapsulated(kem hpke.KEM) (int, error) {
	const mlkem768Ciphertext, x25519Point = 1088, 32
	if id := kem.ID(); id != 0x647a { // HPKE KEM registry: MLKEM768-X25519
		return 0, fmt.Errorf("opening envelope: KEM %#x has an unknown length", id)
	}
	return mlkem768Ciphertext + x25519Point, nil
}

// ParseRequest reads a request, which must be in RFC 8785 form.
func ParseRequest(b []byte) (*Request, error) {
	var r Request
	err := jcs.DecodeCanonical(b, MaxRequest, &r)
	if err == nil && (r.Format != Format || r.Purpose == "" || len(r.Purpose) > 64 || len(r.Signature) != ed25519.SignatureSize || len(r.Key) == 0) {
		err = fmt.Errorf("format %.32q, purpose of %d bytes, signature of %d, key of %d", r.Format, len(r.Purpose), len(r.Signature), len(r.Key))
	}
	if err != nil {
		return nil, fault.New(fault.ExitParse, CodeRequest, "use the same release on both sides", "reading request for a secret: %w", err)
	}
	return &r, nil
}

// Holder is what the holder of a secret knows about a request.
type Holder struct {
	Purpose   string
	Challenge digest.SHA256  // that it gave out, for one request
	Result    *result.Result // of its own appraisal of the enclave's evidence
	Now       time.Time
}

// Seal checks a request and returns the secret for the enclave that made it,
// encrypted. context is bound to it and must be known to both sides: what the
// secret is for. Whether an enclave may have the secret is the caller's policy,
// which Result answers; this is the one place that ties the answer to a key
// (DESIGN section 2: everything fails closed).
func (h Holder) Seal(request, secret, context []byte) ([]byte, error) {
	r, err := ParseRequest(request)
	if err != nil {
		return nil, err
	}
	if err := h.check(r); err != nil {
		return nil, err
	}
	if len(secret) == 0 || len(secret) > MaxSecret {
		return nil, fmt.Errorf("sealing envelope: secret of %d bytes, want 1 to %d", len(secret), MaxSecret)
	}
	info, err := r.bound()
	if err != nil {
		return nil, err
	}
	kem, kdf, aead := suite()
	public, err := kem.NewPublicKey(r.Key)
	if err != nil {
		return nil, fault.New(fault.ExitParse, CodeRequest, "use the same release on both sides", "reading the request's key: %w", err)
	}
	enc, s, err := hpke.NewSender(public, kdf, aead, info)
	if err != nil {
		return nil, fmt.Errorf("sealing envelope: %w", err)
	}
	ct, err := s.Seal(context, secret)
	if err != nil {
		return nil, fmt.Errorf("sealing envelope: %w", err)
	}
	return append(enc, ct...), nil
}

// check holds a request against what the holder knows.
func (h Holder) check(r *Request) error {
	res := h.Result
	if res == nil || !res.Accepted || res.Foreign {
		return fault.New(fault.ExitRefused, CodeRefused, "see the failed checks of the appraisal", "sealing envelope: the enclave's evidence was not accepted")
	}
	if !h.Now.Before(res.NotAfter) {
		return fault.Mismatch(fault.ExitRefused, CodeExpired, "the appraisal's end", "after "+h.Now.UTC().Format(time.RFC3339), res.NotAfter.UTC().Format(time.RFC3339), "send fresh evidence")
	}
	const remedy = "make a request for this challenge and purpose, with the evidence that is sent beside it"
	for _, c := range []struct{ what, want, got string }{
		{"the request's purpose", h.Purpose, r.Purpose},
		{"the request's challenge", h.Challenge.String(), r.Challenge.String()},
		{"the request's evidence", res.EvidenceSHA256.String(), r.EvidenceSHA256.String()},
	} {
		if c.want != c.got {
			return fault.Mismatch(fault.ExitRefused, CodeForeign, c.what, c.want, c.got, remedy)
		}
	}
	if h.Challenge.IsZero() {
		return fault.New(fault.ExitRefused, CodeForeign, remedy, "sealing envelope: the holder gave no challenge")
	}
	msg, err := r.bound()
	if err != nil {
		return err
	}
	if !ed25519.Verify(res.Claims.ReceiptKey[:], msg, r.Signature) {
		return fault.New(fault.ExitRefused, CodeSignedBy, remedy, "sealing envelope: the receipt key of the evidence did not sign the request")
	}
	return nil
}

// Package ratls carries attestation in TLS (DESIGN section 4, RA-TLS
// certificate): a self-signed, short-lived certificate whose extension holds
// the evidence for its own key, and an endpoint on the same connection that
// returns the current evidence with a proof that the receipt key lives at the
// other end. It moves evidence and proves bindings; whether the evidence is
// true is decided by the check that the caller passes in.
package ratls

import (
	"bytes"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"time"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
)

// OIDCMW is id-pe-cmw, the extension that holds a Conceptual Message Wrapper
// (draft-ietf-rats-msg-wrap, section 6.1).
var OIDCMW = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 1, 35}

// cmwEvidence is the "ind" bit for evidence in a CMW record (section 3.1).
const cmwEvidence = 1 << 2

// MaxEvidence bounds the evidence in a certificate; TLS itself stops at
// 256 KiB for a certificate message.
const MaxEvidence = 160 << 10

// Fault codes of this package.
const (
	CodeCertificate = "ratls.certificate"
	CodeExtension   = "ratls.extension"
	CodeExpired     = "ratls.expired"
	CodeBinding     = "ratls.binding"
	CodeModel       = "ratls.model"
)

// SPKIHash returns the SHA-256 of a public key's SubjectPublicKeyInfo, the
// value of tls_spki_sha256 in the claims.
func SPKIHash(pub crypto.PublicKey) (digest.SHA256, error) {
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return digest.SHA256{}, fmt.Errorf("encoding public key: %w", err)
	}
	return sha256.Sum256(der), nil
}

// NewCertificate returns a self-signed certificate for key that holds the
// evidence document (the JCS bytes of evidence.Evidence). It is valid from a
// minute before now, for clocks that differ, until now+life.
func NewCertificate(key crypto.Signer, doc []byte, now time.Time, life time.Duration) (*tls.Certificate, error) {
	if len(doc) > MaxEvidence {
		return nil, fmt.Errorf("making certificate: evidence of %d bytes, at most %d", len(doc), MaxEvidence)
	}
	ext, err := encodeCMW(doc)
	if err != nil {
		return nil, fmt.Errorf("making certificate: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("making certificate: %w", err)
	}
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "cocoon enclave"},
		NotBefore:             now.Add(-time.Minute),
		NotAfter:              now.Add(life),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
		ExtraExtensions:       []pkix.Extension{{Id: OIDCMW, Value: ext}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// encodeCMW returns the extension's value: CMW ::= CHOICE { json UTF8String,
// cbor OCTET STRING }, in the JSON form [type, base64url value, indicator].
func encodeCMW(doc []byte) ([]byte, error) {
	rec, err := json.Marshal([]any{evidence.MediaType, base64.RawURLEncoding.EncodeToString(doc), cmwEvidence})
	if err != nil {
		return nil, err
	}
	return asn1.MarshalWithParams(string(rec), "utf8")
}

// EvidenceFrom returns the evidence document in a certificate's CMW
// extension.
func EvidenceFrom(cert *x509.Certificate) ([]byte, error) {
	for _, ext := range cert.Extensions {
		if ext.Id.Equal(OIDCMW) {
			return ParseCMW(ext.Value)
		}
	}
	return nil, fault.New(fault.ExitRefused, CodeExtension,
		"the peer is no attested worker; check the address and the receipt key",
		"reading certificate: no attestation extension %v", OIDCMW)
}

// ParseCMW reads the value of an id-pe-cmw extension in its JSON form and
// returns the evidence document in it.
func ParseCMW(der []byte) ([]byte, error) {
	bad := func(format string, args ...any) error {
		return fault.New(fault.ExitParse, CodeExtension, "the peer's certificate is malformed; use another worker",
			"reading attestation extension: "+format, args...)
	}
	if len(der) > MaxEvidence*2 {
		return nil, bad("%d bytes", len(der))
	}
	var text string
	rest, err := asn1.UnmarshalWithParams(der, &text, "utf8")
	if err != nil {
		return nil, bad("%w", err)
	}
	if len(rest) != 0 {
		return nil, bad("%d trailing bytes", len(rest))
	}
	var rec []json.RawMessage
	if err := json.Unmarshal([]byte(text), &rec); err != nil {
		return nil, bad("%w", err)
	}
	if len(rec) != 3 {
		return nil, bad("record of %d elements, want 3", len(rec))
	}
	var typ, val string
	var ind int
	if err := errors.Join(json.Unmarshal(rec[0], &typ), json.Unmarshal(rec[1], &val), json.Unmarshal(rec[2], &ind)); err != nil {
		return nil, bad("%w", err)
	}
	if typ != evidence.MediaType || ind != cmwEvidence {
		return nil, bad("type %.80q with indicator %d, want %s with %d", typ, ind, evidence.MediaType, cmwEvidence)
	}
	doc, err := base64.RawURLEncoding.Strict().DecodeString(val)
	if err != nil {
		return nil, bad("%w", err)
	}
	return doc, nil
}

// OIDs of the extensions in certificates of the C++ Cocoon.
var (
	oidLegacyReportData = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 12345, 1}
	oidLegacyQuote      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 12345, 2}
)

// Legacy is what a certificate of the C++ Cocoon carries.
type Legacy struct {
	ReportData []byte // 64 bytes, SHA-512 of the public key
	Quote      []byte // TDX quote, at most 32 KiB
}

// LegacyFrom returns the quote in a certificate of the C++ Cocoon, or false
// where the certificate has none.
func LegacyFrom(cert *x509.Certificate) (Legacy, bool) {
	var l Legacy
	for _, ext := range cert.Extensions {
		switch {
		case ext.Id.Equal(oidLegacyReportData):
			l.ReportData = bytes.Clone(ext.Value)
		case ext.Id.Equal(oidLegacyQuote) && len(ext.Value) <= 32<<10:
			l.Quote = bytes.Clone(ext.Value)
		}
	}
	return l, len(l.ReportData) == 64 && len(l.Quote) > 0
}

// Package ocsp makes requests to NVIDIA's OCSP responder and verifies its
// answers: a certificate, its issuer and a nonce come in, DER goes out; the
// DER of an answer comes in, the status of the certificate goes out.
//
// The nonce is why this is not golang.org/x/crypto/ocsp, which can neither
// send nor show one. Definitions: RFC 6960 (OCSP), RFC 9654 (nonce).
package ocsp

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	_ "crypto/sha1" // CertID hashes of RFC 5019
	_ "crypto/sha256"
	_ "crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"cocoon/internal/fault"
)

// Limits.
const (
	MaxResponse = 32 << 10 // bytes; NVIDIA's have about 1 KiB
	MinNonce    = 16       // bytes
	MaxNonce    = 32
	// DefaultValidity is how long an answer without a next update is taken,
	// as NVIDIA's SDK does.
	DefaultValidity = time.Hour
	maxSkew         = time.Minute // that an answer may lie in the future
)

// Media types of RFC 6960, appendix A.1.
const (
	RequestType  = "application/ocsp-request"
	ResponseType = "application/ocsp-response"
)

// Status of a certificate.
type Status string

// The four statuses. Hold is a revocation for the reason certificateHold.
const (
	Good    Status = "good"
	Revoked Status = "revoked"
	Hold    Status = "hold"
	Unknown Status = "unknown"
)

// ReasonHold is CRLReason certificateHold (RFC 5280, section 5.3.1).
const ReasonHold = 6

// Response is a verified answer. That it verified says nothing of the
// certificate: look at Status, or call Err.
type Response struct {
	Status     Status
	RevokedAt  time.Time // zero unless revoked or on hold
	Reason     int       // CRLReason, 0 where none is stated
	ProducedAt time.Time
	ThisUpdate time.Time
	NextUpdate time.Time // ThisUpdate + DefaultValidity where none is stated
	// Until is when these options stop taking it: NextUpdate, ThisUpdate + MaxAge, or
	// the end of the signer's certificate, whichever is first.
	Until         time.Time
	Nonce         []byte // as echoed, or nil
	ResponderName string // common name of the signer
}

// Err returns nil for a good certificate and otherwise a fault with the code
// ocsp.revoked, ocsp.hold or ocsp.unknown.
func (r *Response) Err() error {
	var remedy string
	switch r.Status {
	case Good:
		return nil
	case Hold:
		remedy = "NVIDIA has put the certificate on hold: update firmware or driver, or allow it by name in the policy"
	case Revoked:
		remedy = "do not use this device or document: NVIDIA has revoked its certificate"
	default:
		remedy = "the responder does not know the certificate: check that device and document are production ones"
	}
	f := fault.New(fault.ExitRefused, "ocsp."+string(r.Status), remedy, "checking revocation: certificate is %s", r.Status)
	f.Expected, f.Actual = string(Good), string(r.Status)
	return f
}

// Options of Verify.
type Options struct {
	Now    time.Time     // zero: the present
	Nonce  []byte        // that must be echoed; nil: not demanded
	MaxAge time.Duration // oldest ThisUpdate; 0: only NextUpdate bounds it
	Cache  *Cache        // nil: nothing is kept
}

var (
	oidNonce = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
	oidBasic = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidECDSA = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3} // with SHA-384
)

// hashes are the digests that a CertID may be made with. It names a
// certificate and protects nothing: the answer is signed.
func hashes() map[string]crypto.Hash {
	return map[string]crypto.Hash{
		asn1.ObjectIdentifier{1, 3, 14, 3, 2, 26}.String():             crypto.SHA1,
		asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 1}.String(): crypto.SHA256,
		oidSHA384.String(): crypto.SHA384,
		asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 3}.String(): crypto.SHA512,
	}
}

var oidSHA384 = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}

// NewRequest returns the DER of a request for one certificate, with the
// CertID in SHA-384 as NVIDIA's own verifier has it. A nonce of 16 to 32
// bytes is sent along; nil: none.
func NewRequest(cert, issuer *x509.Certificate, nonce []byte) ([]byte, error) {
	if nonce != nil && (len(nonce) < MinNonce || len(nonce) > MaxNonce) {
		return nil, fmt.Errorf("making OCSP request: nonce of %d bytes, want %d to %d", len(nonce), MinNonce, MaxNonce)
	}
	id, err := newCertID(cert, issuer, crypto.SHA384)
	if err != nil {
		return nil, fmt.Errorf("making OCSP request: %w", err)
	}
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // OCSPRequest
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // TBSRequest
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // requestList
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // Request
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // CertID
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(oidSHA384)
							b.AddASN1NULL()
						})
						b.AddASN1OctetString(id.name)
						b.AddASN1OctetString(id.key)
						b.AddASN1BigInt(cert.SerialNumber)
					})
				})
			})
			if nonce != nil {
				b.AddASN1(cbasn1.Tag(2).ContextSpecific().Constructed(), func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { // Extensions
						b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
							b.AddASN1ObjectIdentifier(oidNonce)
							b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(nonce) })
						})
					})
				})
			}
		})
	})
	der, err := b.Bytes()
	if err != nil {
		return nil, fmt.Errorf("making OCSP request: %w", err)
	}
	return der, nil
}

// Verify reads an answer about cert, which issuer issued, and verifies it: it
// is about this certificate, signed by the issuer or a responder that the
// issuer itself appointed (RFC 6960, section 4.2.2.2), current, and echoes
// the nonce where one is demanded. The caller has verified cert and issuer.
//
// The error joins faults: ocsp.parse, ocsp.refused (the responder gave no
// answer), ocsp.cert_id, ocsp.responder, ocsp.signature, ocsp.validity,
// ocsp.nonce. A certificate that is not good is no error here.
func Verify(der []byte, cert, issuer *x509.Certificate, o *Options) (*Response, error) {
	if o == nil {
		o = &Options{}
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	a, err := parse(der)
	if err != nil {
		return nil, fault.New(fault.ExitParse, "ocsp.parse", "ask the responder again", "reading OCSP response: %w", err)
	}
	if a.status != 0 {
		f := fault.New(fault.ExitNetwork, "ocsp.refused", "check which certificate is asked for, or try again later", "asking OCSP responder: it gave no answer")
		f.Expected, f.Actual = "successful", statusText(a.status)
		return nil, f
	}
	var errs []error
	refuse := func(code, remedy string, err error) {
		f := fault.New(fault.ExitRefused, code, remedy, "verifying OCSP response: %w", err)
		var m *mismatchError
		if errors.As(err, &m) {
			f.Expected, f.Actual = m.expected, m.actual
		}
		errs = append(errs, f)
	}
	if err := a.checkID(cert, issuer); err != nil {
		refuse("ocsp.cert_id", "the answer is about another certificate", err)
	}
	signer, err := a.responder(issuer, now, o.Cache)
	if err != nil {
		refuse("ocsp.responder", "only the issuer, or a responder it appointed, can answer for a certificate", err)
	} else if err := o.Cache.verify("answer", signer, a.tbs, a.signature, func() error { return a.checkSignature(signer) }); err != nil {
		refuse("ocsp.signature", "the answer was changed: ask the responder again", err)
	}
	if err := a.checkWindow(now, o.MaxAge); err != nil {
		refuse("ocsp.validity", "ask the responder again, and check the clock", err)
	}
	if o.Nonce != nil {
		if err := a.checkNonce(o.Nonce); err != nil {
			refuse("ocsp.nonce", "the answer was made for another request: ask the responder itself, not a cache, or do not demand the nonce", err)
		}
	}
	if len(errs) > 0 {
		return nil, errors.Join(errs...)
	}
	r := a.Response
	r.ResponderName, r.Until = signer.Subject.CommonName, a.NextUpdate
	if end := a.ThisUpdate.Add(o.MaxAge); o.MaxAge > 0 && end.Before(r.Until) {
		r.Until = end
	}
	if signer.NotAfter.Before(r.Until) {
		r.Until = signer.NotAfter
	}
	return &r, nil
}

// mismatchError is a value that differs from what was expected.
type mismatchError struct{ what, expected, actual string }

// Error says what differs.
func (e *mismatchError) Error() string { return e.what + " differs" }

func statusText(s int) string {
	names := map[int]string{1: "malformedRequest", 2: "internalError", 3: "tryLater", 5: "sigRequired", 6: "unauthorized"}
	if n, ok := names[s]; ok {
		return n
	}
	return fmt.Sprintf("status %d", s)
}

// p384 returns the key of a certificate if it is of NVIDIA's algorithm.
func p384(c *x509.Certificate) (*ecdsa.PublicKey, error) {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, fmt.Errorf("key of %q is not ECDSA P-384", c.Subject.CommonName)
	}
	return key, nil
}

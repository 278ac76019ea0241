package rimtest

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha1" // the key hash of a ResponderID
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// Answer says what an OCSP response states.
type Answer struct {
	Status string // good, revoked, hold or unknown; empty: good
	// This and Next bound it; zero: an hour before Now and 23 after. NoNext
	// leaves the latter out.
	This, Next time.Time
	NoNext     bool
	Nonce      []byte // echoed; nil: none
	// Responder signs; nil: a delegated one made by the issuer. Its
	// certificate is enclosed unless it is the issuer itself.
	Responder *Authority
	ByName    bool // ResponderID is the name, not the key's hash
	// Critical adds a critical extension that nobody knows.
	Critical bool
}

// Responder makes a delegated responder of an issuer.
func Responder(issuer *Authority) (*Authority, error) {
	return Issue(issuer, Profile{Name: "Test OCSP Responder of " + issuer.Cert.Subject.CommonName, EKU: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}})
}

var (
	oidSHA384   = asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}
	oidECDSA384 = asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}
	oidBasic    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}
	oidNonce    = asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}
	oidOdd      = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 99999, 1}
)

func context(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }

// OCSP returns a response about cert, which issuer issued (RFC 6960, section
// 4.2.1).
func OCSP(cert *x509.Certificate, issuer *Authority, a Answer) ([]byte, error) {
	signer := a.Responder
	if signer == nil {
		var err error
		if signer, err = Responder(issuer); err != nil {
			return nil, err
		}
	}
	if a.This.IsZero() {
		a.This = Now.Add(-time.Hour)
	}
	if a.Next.IsZero() {
		a.Next = a.This.Add(24 * time.Hour)
	}
	tbs, err := responseData(cert, issuer.Cert, signer.Cert, a)
	if err != nil {
		return nil, err
	}
	sum := sha512.Sum384(tbs)
	sig, err := ecdsa.SignASN1(rand.Reader, signer.Key, sum[:])
	if err != nil {
		return nil, fmt.Errorf("signing OCSP response: %w", err)
	}
	var basic, b cryptobyte.Builder
	basic.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddBytes(tbs)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidECDSA384) })
		b.AddASN1BitString(sig)
		if !signer.Cert.Equal(issuer.Cert) {
			b.AddASN1(context(0).Constructed(), func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddBytes(signer.Cert.Raw) })
			})
		}
	})
	raw, err := basic.Bytes()
	if err != nil {
		return nil, fmt.Errorf("making OCSP response: %w", err)
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		b.AddASN1Enum(0)
		b.AddASN1(context(0).Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1ObjectIdentifier(oidBasic)
				b.AddASN1OctetString(raw)
			})
		})
	})
	return b.Bytes()
}

// responseData makes ResponseData with one SingleResponse.
func responseData(cert, issuer, signer *x509.Certificate, a Answer) ([]byte, error) {
	issuerKey, err := keyBits(issuer)
	if err != nil {
		return nil, err
	}
	signerKey, err := keyBits(signer)
	if err != nil {
		return nil, err
	}
	name, key, id := sha512.Sum384(issuer.RawSubject), sha512.Sum384(issuerKey), sha1.Sum(signerKey)
	var b cryptobyte.Builder
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		if a.ByName {
			b.AddASN1(context(1).Constructed(), func(b *cryptobyte.Builder) { b.AddBytes(signer.RawSubject) })
		} else {
			b.AddASN1(context(2).Constructed(), func(b *cryptobyte.Builder) { b.AddASN1OctetString(id[:]) })
		}
		b.AddASN1GeneralizedTime(a.This)
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) { b.AddASN1ObjectIdentifier(oidSHA384) })
					b.AddASN1OctetString(name[:])
					b.AddASN1OctetString(key[:])
					b.AddASN1BigInt(cert.SerialNumber)
				})
				status(b, a)
				b.AddASN1GeneralizedTime(a.This)
				if !a.NoNext {
					b.AddASN1(context(0).Constructed(), func(b *cryptobyte.Builder) { b.AddASN1GeneralizedTime(a.Next) })
				}
			})
		})
		if a.Nonce != nil || a.Critical {
			extensions(b, a)
		}
	})
	return b.Bytes()
}

func status(b *cryptobyte.Builder, a Answer) {
	switch a.Status {
	case "", "good":
		b.AddASN1(context(0), func(*cryptobyte.Builder) {})
	case "unknown":
		b.AddASN1(context(2), func(*cryptobyte.Builder) {})
	default:
		reason := int64(1) // keyCompromise
		if a.Status == "hold" {
			reason = 6
		}
		b.AddASN1(context(1).Constructed(), func(b *cryptobyte.Builder) {
			b.AddASN1GeneralizedTime(a.This)
			b.AddASN1(context(0).Constructed(), func(b *cryptobyte.Builder) { b.AddASN1Enum(reason) })
		})
	}
}

func extensions(b *cryptobyte.Builder, a Answer) {
	b.AddASN1(context(1).Constructed(), func(b *cryptobyte.Builder) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			if a.Nonce != nil {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidNonce)
					b.AddASN1(cbasn1.OCTET_STRING, func(b *cryptobyte.Builder) { b.AddASN1OctetString(a.Nonce) })
				})
			}
			if a.Critical {
				b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
					b.AddASN1ObjectIdentifier(oidOdd)
					b.AddASN1Boolean(true)
					b.AddASN1OctetString([]byte{5, 0})
				})
			}
		})
	})
}

// keyBits returns the content of the BIT STRING of a subjectPublicKey.
func keyBits(c *x509.Certificate) ([]byte, error) {
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil {
		return nil, fmt.Errorf("reading key of %q: %w", c.Subject.CommonName, err)
	}
	return spki.Key.RightAlign(), nil
}

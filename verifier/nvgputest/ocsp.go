package nvgputest

import (
	"crypto"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"math/big"
	"time"
)

// Statuses of certificates.
const (
	Good    = "good"
	Revoked = "revoked"
	Hold    = "hold"
	Unknown = "unknown"
)

// The ASN.1 of RFC 6960, section 4.2.1, as far as it is written here.
type (
	ocspResponse struct {
		Status asn1.Enumerated
		Bytes  ocspBytes `asn1:"explicit,tag:0"`
	}
	ocspBytes struct {
		Type     asn1.ObjectIdentifier
		Response []byte
	}
	ocspBasic struct {
		Data      asn1.RawValue
		Algorithm pkix.AlgorithmIdentifier
		Signature asn1.BitString
		Certs     []asn1.RawValue `asn1:"explicit,tag:0"`
	}
	ocspData struct {
		Responder  asn1.RawValue
		ProducedAt time.Time `asn1:"generalized"`
		Responses  []ocspSingle
		Extensions []pkix.Extension `asn1:"explicit,tag:1,optional,omitempty"`
	}
	ocspSingle struct {
		ID         ocspCertID
		Status     asn1.RawValue
		ThisUpdate time.Time `asn1:"generalized"`
		NextUpdate time.Time `asn1:"generalized,explicit,tag:0"`
	}
	ocspCertID struct {
		Hash      pkix.AlgorithmIdentifier
		Name, Key []byte
		Serial    *big.Int
	}
	ocspRevoked struct {
		At     time.Time       `asn1:"generalized"`
		Reason asn1.Enumerated `asn1:"explicit,tag:0"`
	}
)

// OCSP makes a response for a certificate that this PKI issued, by a responder
// of its issuer's, good for a day from thisUpdate. A nonce is echoed; nil:
// none.
func (p *PKI) OCSP(cert *x509.Certificate, status string, thisUpdate time.Time, nonce []byte) ([]byte, error) {
	issuer := p.issuerOf(cert)
	if issuer == nil {
		return nil, fmt.Errorf("answering for %q: not issued here", cert.Subject.CommonName)
	}
	id := "responder of " + issuer.cert.Subject.CommonName + issuer.cert.SerialNumber.String()
	responder, err := p.issue(id, &x509.Certificate{SerialNumber: serial(id), Subject: subject("NVIDIA OCSP Responder"), KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}, NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(2, 0, 0)}, issuer)
	if err != nil {
		return nil, err
	}
	single := ocspSingle{ThisUpdate: thisUpdate, NextUpdate: thisUpdate.AddDate(0, 0, 1)}
	if single.ID, err = certID(cert, issuer.cert); err != nil {
		return nil, err
	}
	if single.Status, err = statusOf(status); err != nil {
		return nil, err
	}
	data := ocspData{ProducedAt: thisUpdate, Responses: []ocspSingle{single},
		Responder: asn1.RawValue{Class: asn1.ClassContextSpecific, Tag: 1, IsCompound: true, Bytes: responder.cert.RawSubject}}
	if nonce != nil {
		value, err := asn1.Marshal(nonce)
		if err != nil {
			return nil, fmt.Errorf("making OCSP response: %w", err)
		}
		data.Extensions = []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 2}, Value: value}}
	}
	return seal(data, responder)
}

// seal signs response data.
func seal(data ocspData, responder *authority) ([]byte, error) {
	tbs, err := asn1.Marshal(data)
	if err != nil {
		return nil, fmt.Errorf("making OCSP response: %w", err)
	}
	digest := sha512.Sum384(tbs)
	sig, err := responder.key.Sign(nil, digest[:], crypto.SHA384)
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	basic, err := asn1.Marshal(ocspBasic{Data: asn1.RawValue{FullBytes: tbs}, Algorithm: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{1, 2, 840, 10045, 4, 3, 3}},
		Signature: asn1.BitString{Bytes: sig, BitLength: 8 * len(sig)}, Certs: []asn1.RawValue{{FullBytes: responder.cert.Raw}}})
	if err != nil {
		return nil, fmt.Errorf("making OCSP response: %w", err)
	}
	return asn1.Marshal(ocspResponse{Bytes: ocspBytes{asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 1}, basic}})
}

func certID(cert, issuer *x509.Certificate) (ocspCertID, error) {
	var spki struct {
		Algorithm pkix.AlgorithmIdentifier
		Key       asn1.BitString
	}
	if _, err := asn1.Unmarshal(issuer.RawSubjectPublicKeyInfo, &spki); err != nil {
		return ocspCertID{}, fmt.Errorf("making OCSP response: %w", err)
	}
	name, key := sha512.Sum384(issuer.RawSubject), sha512.Sum384(spki.Key.RightAlign())
	return ocspCertID{Hash: pkix.AlgorithmIdentifier{Algorithm: asn1.ObjectIdentifier{2, 16, 840, 1, 101, 3, 4, 2, 2}, Parameters: asn1.NullRawValue},
		Name: name[:], Key: key[:], Serial: cert.SerialNumber}, nil
}

// statusOf returns a CertStatus.
func statusOf(status string) (asn1.RawValue, error) {
	v := asn1.RawValue{Class: asn1.ClassContextSpecific}
	reason := asn1.Enumerated(1) // keyCompromise
	switch status {
	case Good:
		return v, nil
	case Unknown:
		v.Tag = 2
		return v, nil
	case Hold:
		reason = 6
	case Revoked:
	default:
		return v, fmt.Errorf("making OCSP response: status %q", status)
	}
	der, err := asn1.Marshal(ocspRevoked{Now.AddDate(0, -1, 0), reason})
	if err != nil {
		return v, fmt.Errorf("making OCSP response: %w", err)
	}
	var seq asn1.RawValue
	if _, err := asn1.Unmarshal(der, &seq); err != nil {
		return v, fmt.Errorf("making OCSP response: %w", err)
	}
	v.Tag, v.IsCompound, v.Bytes = 1, true, seq.Bytes
	return v, nil
}

func (p *PKI) issuerOf(cert *x509.Certificate) *authority {
	for _, a := range append([]*authority{p.root, p.rimRoot}, p.all()...) {
		if string(a.cert.RawSubject) == string(cert.RawIssuer) && cert.CheckSignatureFrom(a.cert) == nil {
			return a
		}
	}
	return nil
}

func (p *PKI) all() []*authority {
	var out []*authority
	for _, a := range p.made {
		out = append(out, a)
	}
	return out
}

package ocsp

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha1" // key hash of a ResponderID, RFC 6960, section 4.2.1
	"crypto/sha512"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"
)

// answer is an OCSPResponse with one SingleResponse, as parsed.
type answer struct {
	Response
	status     int    // OCSPResponseStatus; all below is set for 0 only
	tbs        []byte // DER that is signed
	signature  []byte // DER
	certs      []*x509.Certificate
	byName     []byte // ResponderID: a Name, or
	byKey      []byte // a SHA-1 of the key
	id         certID
	hash       crypto.Hash
	serial     *big.Int
	statedNext bool
}

// certID names a certificate: hashes of its issuer's name and key.
type certID struct{ name, key []byte }

func newCertID(cert, issuer *x509.Certificate, h crypto.Hash) (certID, error) {
	if !bytes.Equal(cert.RawIssuer, issuer.RawSubject) {
		return certID{}, fmt.Errorf("%q is not the issuer of %q", issuer.Subject.CommonName, cert.Subject.CommonName)
	}
	bits, err := keyBits(issuer)
	if err != nil {
		return certID{}, err
	}
	sum := func(b []byte) []byte {
		w := h.New()
		w.Write(b)
		return w.Sum(nil)
	}
	return certID{name: sum(issuer.RawSubject), key: sum(bits)}, nil
}

// keyBits returns the content of the BIT STRING of a subjectPublicKey.
func keyBits(c *x509.Certificate) ([]byte, error) {
	var spki struct {
		Algorithm asn1.RawValue
		Key       asn1.BitString
	}
	if rest, err := asn1.Unmarshal(c.RawSubjectPublicKeyInfo, &spki); err != nil || len(rest) != 0 {
		return nil, fmt.Errorf("reading key of %q: not a SubjectPublicKeyInfo", c.Subject.CommonName)
	}
	return spki.Key.RightAlign(), nil
}

var errForm = errors.New("not of the form of RFC 6960")

func context(n uint8) cbasn1.Tag { return cbasn1.Tag(n).ContextSpecific() }

// parse reads an answer strictly: no bytes are left over in any structure.
func parse(der []byte) (*answer, error) {
	if len(der) > MaxResponse {
		return nil, fmt.Errorf("response of %d bytes, limit %d", len(der), MaxResponse)
	}
	a := &answer{}
	var top, wrap, inner, basic cryptobyte.String
	in := cryptobyte.String(der)
	if !in.ReadASN1(&top, cbasn1.SEQUENCE) || !in.Empty() || !top.ReadASN1Enum(&a.status) || a.status < 0 || a.status > 6 {
		return nil, errForm
	}
	if a.status != 0 {
		if !top.Empty() {
			return nil, errors.New("an answer with an error status")
		}
		return a, nil
	}
	var kind asn1.ObjectIdentifier
	if !top.ReadASN1(&wrap, context(0).Constructed()) || !top.Empty() ||
		!wrap.ReadASN1(&inner, cbasn1.SEQUENCE) || !wrap.Empty() ||
		!inner.ReadASN1ObjectIdentifier(&kind) || !kind.Equal(oidBasic) ||
		!inner.ReadASN1(&basic, cbasn1.OCTET_STRING) || !inner.Empty() {
		return nil, errForm
	}
	return a, a.parseBasic(basic)
}

// parseBasic reads a BasicOCSPResponse (RFC 6960, section 4.2.1).
func (a *answer) parseBasic(in cryptobyte.String) error {
	var seq, tbs, alg, certs, list cryptobyte.String
	var oid asn1.ObjectIdentifier
	var has bool
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !in.Empty() || !seq.ReadASN1Element(&tbs, cbasn1.SEQUENCE) ||
		!seq.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) || !alg.Empty() ||
		!seq.ReadASN1BitStringAsBytes(&a.signature) || !seq.ReadOptionalASN1(&certs, &has, context(0).Constructed()) || !seq.Empty() {
		return errForm
	}
	if !oid.Equal(oidECDSA) {
		return fmt.Errorf("signature algorithm %s, want ECDSA with SHA-384", oid)
	}
	if has {
		var der cryptobyte.String
		if !certs.ReadASN1(&list, cbasn1.SEQUENCE) || !certs.Empty() || !list.ReadASN1Element(&der, cbasn1.SEQUENCE) || !list.Empty() {
			return errors.New("not exactly one responder certificate")
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return fmt.Errorf("reading the responder's certificate: %w", err)
		}
		a.certs = []*x509.Certificate{c}
	}
	a.tbs = tbs
	return a.parseData(tbs)
}

// parseData reads ResponseData.
func (a *answer) parseData(in cryptobyte.String) error {
	var seq, id, list, single, exts cryptobyte.String
	var has bool
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) {
		return errForm
	}
	// DER leaves version v1, the default, out.
	switch {
	case seq.PeekASN1Tag(context(1).Constructed()):
		if !seq.ReadASN1(&id, context(1).Constructed()) {
			return errForm
		}
		a.byName = id
	case seq.PeekASN1Tag(context(2).Constructed()):
		if !seq.ReadASN1(&id, context(2).Constructed()) || !id.ReadASN1Bytes(&a.byKey, cbasn1.OCTET_STRING) || !id.Empty() {
			return errForm
		}
	default:
		return errForm
	}
	if !seq.ReadASN1GeneralizedTime(&a.ProducedAt) || !seq.ReadASN1(&list, cbasn1.SEQUENCE) ||
		!list.ReadASN1(&single, cbasn1.SEQUENCE) || !list.Empty() {
		return errors.New("not exactly one answer")
	}
	if !seq.ReadOptionalASN1(&exts, &has, context(1).Constructed()) || !seq.Empty() {
		return errForm
	}
	if has {
		if err := a.parseExtensions(exts, true); err != nil {
			return err
		}
	}
	return a.parseSingle(single)
}

// parseSingle reads the content of a SingleResponse.
func (a *answer) parseSingle(in cryptobyte.String) error {
	var id, alg, state, next, exts cryptobyte.String
	var oid asn1.ObjectIdentifier
	var has bool
	a.serial = new(big.Int)
	if !in.ReadASN1(&id, cbasn1.SEQUENCE) || !id.ReadASN1(&alg, cbasn1.SEQUENCE) || !alg.ReadASN1ObjectIdentifier(&oid) {
		return errForm
	}
	if !alg.Empty() && (!alg.ReadASN1(&state, cbasn1.NULL) || !state.Empty() || !alg.Empty()) {
		return errForm
	}
	if !id.ReadASN1Bytes(&a.id.name, cbasn1.OCTET_STRING) || !id.ReadASN1Bytes(&a.id.key, cbasn1.OCTET_STRING) ||
		!id.ReadASN1Integer(a.serial) || !id.Empty() {
		return errForm
	}
	var ok bool
	if a.hash, ok = hashes()[oid.String()]; !ok {
		return fmt.Errorf("certificate named with hash %s", oid)
	}
	var tag cbasn1.Tag
	if !in.ReadAnyASN1(&state, &tag) {
		return errForm
	}
	if err := a.parseStatus(state, tag); err != nil {
		return err
	}
	if !in.ReadASN1GeneralizedTime(&a.ThisUpdate) || !in.ReadOptionalASN1(&next, &a.statedNext, context(0).Constructed()) {
		return errForm
	}
	a.NextUpdate = a.ThisUpdate.Add(DefaultValidity)
	if a.statedNext && (!next.ReadASN1GeneralizedTime(&a.NextUpdate) || !next.Empty()) {
		return errForm
	}
	if !in.ReadOptionalASN1(&exts, &has, context(1).Constructed()) || !in.Empty() {
		return errForm
	}
	if has {
		return a.parseExtensions(exts, false)
	}
	return nil
}

func (a *answer) parseStatus(in cryptobyte.String, tag cbasn1.Tag) error {
	switch tag {
	case context(0):
		a.Status = Good
	case context(2):
		a.Status = Unknown
	case context(1).Constructed():
		var reason cryptobyte.String
		var has bool
		if !in.ReadASN1GeneralizedTime(&a.RevokedAt) || !in.ReadOptionalASN1(&reason, &has, context(0).Constructed()) {
			return errForm
		}
		if has && (!reason.ReadASN1Enum(&a.Reason) || !reason.Empty()) {
			return errForm
		}
		if a.Status = Revoked; a.Reason == ReasonHold {
			a.Status = Hold
		}
	default:
		return errForm
	}
	if !in.Empty() {
		return errForm
	}
	return nil
}

// parseExtensions reads Extensions; only the nonce is understood, and only in
// responseExtensions (RFC 9654, section 2.1). A critical one that is not
// understood refuses the answer.
func (a *answer) parseExtensions(in cryptobyte.String, outer bool) error {
	var list cryptobyte.String
	if !in.ReadASN1(&list, cbasn1.SEQUENCE) || !in.Empty() || list.Empty() {
		return errForm
	}
	for !list.Empty() {
		var ext, value cryptobyte.String
		var oid asn1.ObjectIdentifier
		var critical bool
		if !list.ReadASN1(&ext, cbasn1.SEQUENCE) || !ext.ReadASN1ObjectIdentifier(&oid) ||
			!ext.ReadOptionalASN1Boolean(&critical, cbasn1.BOOLEAN, false) ||
			!ext.ReadASN1(&value, cbasn1.OCTET_STRING) || !ext.Empty() {
			return errForm
		}
		switch {
		case outer && oid.Equal(oidNonce):
			if a.Nonce != nil || !value.ReadASN1Bytes(&a.Nonce, cbasn1.OCTET_STRING) || !value.Empty() || len(a.Nonce) == 0 {
				return errors.New("nonce is not one octet string")
			}
		case critical:
			return fmt.Errorf("unknown critical extension %s", oid)
		}
	}
	return nil
}

func (a *answer) checkID(cert, issuer *x509.Certificate) error {
	if a.serial.Cmp(cert.SerialNumber) != 0 {
		return &mismatchError{"serial number", cert.SerialNumber.Text(16), a.serial.Text(16)}
	}
	want, err := newCertID(cert, issuer, a.hash)
	if err != nil {
		return err
	}
	if !bytes.Equal(want.name, a.id.name) || !bytes.Equal(want.key, a.id.key) {
		return &mismatchError{"issuer", hex.EncodeToString(want.key), hex.EncodeToString(a.id.key)}
	}
	return nil
}

// responder returns the certificate whose key must have signed: the issuer's
// own, or the enclosed one if the issuer appointed it (RFC 6960, section
// 4.2.2.2) and it is valid now.
func (a *answer) responder(issuer *x509.Certificate, now time.Time, cache *Cache) (*x509.Certificate, error) {
	signer := issuer
	if len(a.certs) > 0 && !bytes.Equal(a.certs[0].Raw, issuer.Raw) {
		signer = a.certs[0]
		name := signer.Subject.CommonName
		if !bytes.Equal(signer.RawIssuer, issuer.RawSubject) {
			return nil, &mismatchError{"issuer of responder " + name, issuer.Subject.String(), signer.Issuer.String()}
		}
		// The whole certificate stands for what was signed: the algorithm is beside it.
		if err := cache.verify("responder", issuer, signer.Raw, nil, func() error { return signer.CheckSignatureFrom(issuer) }); err != nil {
			return nil, fmt.Errorf("certificate of responder %q: %w", name, err)
		}
		if signer.IsCA || !slices.Contains(signer.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) || signer.KeyUsage&x509.KeyUsageDigitalSignature == 0 {
			return nil, fmt.Errorf("certificate %q is not appointed to sign OCSP responses", name)
		}
		if len(signer.UnhandledCriticalExtensions) != 0 || signer.SignatureAlgorithm != x509.ECDSAWithSHA384 {
			return nil, fmt.Errorf("certificate of responder %q has an unknown critical extension or algorithm", name)
		}
	}
	if now.Before(signer.NotBefore) || now.After(signer.NotAfter) {
		return nil, &mismatchError{"validity of responder " + signer.Subject.CommonName,
			stamp(signer.NotBefore) + " to " + stamp(signer.NotAfter), stamp(now)}
	}
	if _, err := p384(signer); err != nil {
		return nil, err
	}
	if a.byName != nil {
		if !bytes.Equal(a.byName, signer.RawSubject) {
			return nil, errors.New("the responder's name is not that of its certificate")
		}
		return signer, nil
	}
	bits, err := keyBits(signer)
	if err != nil {
		return nil, err
	}
	if sum := sha1.Sum(bits); !bytes.Equal(a.byKey, sum[:]) {
		return nil, &mismatchError{"responder's key", hex.EncodeToString(sum[:]), hex.EncodeToString(a.byKey)}
	}
	return signer, nil
}

func (a *answer) checkSignature(signer *x509.Certificate) error {
	key, err := p384(signer)
	if err != nil {
		return err
	}
	sum := sha512.Sum384(a.tbs)
	if !ecdsa.VerifyASN1(key, sum[:], a.signature) {
		return errors.New("signature does not verify")
	}
	return nil
}

// checkWindow holds the answer's times against the clock. NVIDIA's own SDK
// leaves this out; without a nonce it is all that bounds a replay.
func (a *answer) checkWindow(now time.Time, maxAge time.Duration) error {
	window := stamp(a.ThisUpdate) + " to " + stamp(a.NextUpdate)
	switch {
	case a.NextUpdate.Before(a.ThisUpdate):
		return fmt.Errorf("it ends before it begins: %s", window)
	case a.ThisUpdate.After(now.Add(maxSkew)), a.ProducedAt.After(now.Add(maxSkew)):
		return &mismatchError{"time (the answer is from the future)", window, stamp(now)}
	case !now.Before(a.NextUpdate):
		return &mismatchError{"time (the answer has expired)", window, stamp(now)}
	case maxAge > 0 && now.Sub(a.ThisUpdate) > maxAge:
		return &mismatchError{"age", "at most " + maxAge.String(), now.Sub(a.ThisUpdate).String()}
	}
	return nil
}

func (a *answer) checkNonce(want []byte) error {
	if a.Nonce == nil {
		return &mismatchError{"nonce", hex.EncodeToString(want), "none"}
	}
	if !bytes.Equal(a.Nonce, want) {
		return &mismatchError{"nonce", hex.EncodeToString(want), hex.EncodeToString(a.Nonce)}
	}
	return nil
}

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

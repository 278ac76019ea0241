package tpm

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math/big"
	"net/url"
	"slices"
	"strings"
	"time"

	"cocoon/measurements/digest"
)

// Extended key usages (TCG EK Credential Profile 2.5, section 3.2.16, and TCG
// Credential Profiles 1.1, section 3.5.8).
var (
	oidEKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 1}
	oidAKCertificate = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
	oidSAN           = asn1.ObjectIdentifier{2, 5, 29, 17}
)

// publicURN is a URI in the subject alternative name of an attestation key
// certificate: it carries the key's TPMT_PUBLIC in hex, so that everyone who
// verifies a quote sees the attributes that the issuer saw.
const publicURN = "urn:cocoon:tpm-public:"

// ekRootURN is a URI beside it: it carries the SHA-256 of the certificate of
// the authority under which the issuer found the TPM's endorsement key, so that
// a policy can name the makers of TPMs and not only the issuers.
const ekRootURN = "urn:cocoon:tpm-ek-root:"

// maxChain bounds certificate chains.
const maxChain = 8

// parseChain parses DER certificates, leaf first.
func parseChain(der [][]byte) ([]*x509.Certificate, error) {
	if len(der) == 0 || len(der) > maxChain {
		return nil, fmt.Errorf("%d certificates, want 1 to %d", len(der), maxChain)
	}
	out := make([]*x509.Certificate, len(der))
	for i, b := range der {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("parsing certificate %d: %w", i, err)
		}
		out[i] = c
	}
	return out, nil
}

// ParseRoots parses the DER certificates of a policy.
func ParseRoots(der [][]byte) ([]*x509.Certificate, error) {
	var out []*x509.Certificate
	for i, b := range der {
		c, err := x509.ParseCertificate(b)
		if err != nil {
			return nil, fmt.Errorf("parsing root certificate %d: %w", i, err)
		}
		out = append(out, c)
	}
	return out, nil
}

// verifyChain verifies chain[0] up to one of the roots at a time, and that it
// has the extended key usage. It returns the end of the shortest validity and
// the root.
func verifyChain(chain, roots []*x509.Certificate, usage asn1.ObjectIdentifier, now time.Time) (time.Time, *x509.Certificate, error) {
	leaf := chain[0]
	if leaf.IsCA {
		return time.Time{}, nil, errors.New("certificate is one of an authority")
	}
	if !slices.ContainsFunc(leaf.UnknownExtKeyUsage, usage.Equal) {
		return time.Time{}, nil, fmt.Errorf("certificate lacks the extended key usage %s", usage)
	}
	opts := x509.VerifyOptions{
		Roots: x509.NewCertPool(), Intermediates: x509.NewCertPool(),
		CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny},
	}
	for _, r := range roots {
		opts.Roots.AddCert(r)
	}
	for _, c := range chain[1:] {
		opts.Intermediates.AddCert(c)
	}
	// An EK certificate's alternative name is critical and holds a directory
	// name with the TPM's maker (EK Credential Profile, section 3.2.9), which
	// crypto/x509 does not read; nothing is decided by it.
	cp := *leaf
	cp.UnhandledCriticalExtensions = slices.DeleteFunc(slices.Clone(leaf.UnhandledCriticalExtensions), oidSAN.Equal)
	paths, err := cp.Verify(opts)
	if err != nil {
		return time.Time{}, nil, err
	}
	var end time.Time
	var root *x509.Certificate
	for _, path := range paths {
		if !isPath(chain, path) {
			continue
		}
		notAfter := path[0].NotAfter
		for _, c := range path {
			if c.NotAfter.Before(notAfter) {
				notAfter = c.NotAfter
			}
		}
		if notAfter.After(end) {
			end, root = notAfter, path[len(path)-1]
		}
	}
	if end.IsZero() {
		return time.Time{}, nil, errors.New("certificates are not one chain in order, leaf first")
	}
	return end, root, nil
}

// isPath reports whether a chain as it was sent is a verified path, with or
// without the root: certificates that nothing rests on are not taken along.
func isPath(chain, path []*x509.Certificate) bool {
	if len(chain) != len(path) && len(chain) != len(path)-1 {
		return false
	}
	for i, c := range chain {
		if !c.Equal(path[i]) {
			return false
		}
	}
	return true
}

// isExpired reports whether a chain fails because of the time alone.
func isExpired(err error) bool {
	var inv x509.CertificateInvalidError
	return errors.As(err, &inv) && inv.Reason == x509.Expired
}

// issuerName names a certificate's issuer, with the id of its key where the
// certificate has it.
func issuerName(c *x509.Certificate) string { return withKeyID(c.Issuer.String(), c.AuthorityKeyId) }

func withKeyID(name string, id []byte) string {
	if len(id) == 0 {
		return name
	}
	return name + " (key id " + hex.EncodeToString(id[:min(len(id), 20)]) + ")"
}

// certifiedPublic returns the TPMT_PUBLIC that an attestation key certificate
// carries.
func certifiedPublic(c *x509.Certificate) ([]byte, error) {
	return certified(c, publicURN, "public area")
}

// certifiedEKRoot returns the SHA-256 of the authority's certificate under
// which the endorsement key was found.
func certifiedEKRoot(c *x509.Certificate) (digest.SHA256, error) {
	b, err := certified(c, ekRootURN, "EK authority")
	if err != nil {
		return digest.SHA256{}, err
	}
	if len(b) != len(digest.SHA256{}) {
		return digest.SHA256{}, fmt.Errorf("certificate's EK authority has %d bytes", len(b))
	}
	return digest.SHA256(b), nil
}

// certified returns what a certificate says under one URN.
func certified(c *x509.Certificate, urn, what string) ([]byte, error) {
	var found []byte
	for _, u := range c.URIs {
		text, ok := strings.CutPrefix(u.String(), urn)
		if !ok {
			continue
		}
		b, err := hex.DecodeString(text)
		if err != nil || found != nil {
			return nil, fmt.Errorf("certificate's %s is not hex, or there are two", what)
		}
		found = b
	}
	if found == nil {
		return nil, fmt.Errorf("certificate carries no %s", what)
	}
	return found, nil
}

// CA issues attestation key certificates: it is what a verifier's word "this
// key lives in a TPM whose EK certificate I accept" is worth.
type CA struct {
	Cert *x509.Certificate
	Key  crypto.Signer
}

// NewCA makes a certificate authority with an ECDSA P-256 key.
func NewCA(name string, notBefore time.Time, lifetime time.Duration) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making AK CA key: %w", err)
	}
	serial, err := newSerial(rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: name},
		NotBefore: notBefore.UTC(), NotAfter: notBefore.Add(lifetime).UTC(),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making AK CA certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making AK CA certificate: %w", err)
	}
	return &CA{Cert: cert, Key: key}, nil
}

// Issue certifies an attestation key, whose attributes the caller has
// checked and which it has found to live beside an endorsement key of the
// authority ekRoot.
func (ca *CA) Issue(public []byte, key crypto.PublicKey, ekRoot *x509.Certificate, notBefore, notAfter time.Time) ([]byte, error) {
	serial, err := newSerial(rand.Reader)
	if err != nil {
		return nil, err
	}
	tmpl := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "cocoon attestation key"},
		NotBefore: notBefore.UTC(), NotAfter: notAfter.UTC(),
		KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{oidAKCertificate},
		URIs: []*url.URL{
			{Scheme: "urn", Opaque: strings.TrimPrefix(publicURN, "urn:") + hex.EncodeToString(public)},
			{Scheme: "urn", Opaque: strings.TrimPrefix(ekRootURN, "urn:") + digest.Sum256(ekRoot.Raw).String()},
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Cert, key, ca.Key)
	if err != nil {
		return nil, fmt.Errorf("issuing AK certificate: %w", err)
	}
	return der, nil
}

func newSerial(r io.Reader) (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := io.ReadFull(r, b); err != nil {
		return nil, fmt.Errorf("making serial number: %w", err)
	}
	b[0] &= 0x7f // positive
	b[0] |= 0x40 // not zero
	return new(big.Int).SetBytes(b), nil
}

// LoadCA returns an authority from its certificate and key, which must fit.
func LoadCA(cert *x509.Certificate, key crypto.Signer) (*CA, error) {
	if !cert.IsCA || cert.KeyUsage&x509.KeyUsageCertSign == 0 {
		return nil, errors.New("loading AK CA: certificate is not one of an authority")
	}
	if !sameKey(cert, key.Public()) {
		return nil, errors.New("loading AK CA: certificate is for another key")
	}
	return &CA{Cert: cert, Key: key}, nil
}

// Package nvgputest makes NVIDIA GPU and NVSwitch evidence, reference
// integrity manifests and OCSP responses under test roots: for what no real
// device shows, for negatives, and for whoever tests what is built on the
// verifier. A seed goes in; the same keys come out of it every time, so that
// nothing signed here is worth anything: each certificate says so in its
// subject. The shapes are those that package nvgpu reads.
package nvgputest

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/nvgpu/rim"
)

// Organization is the organization in the subject of every certificate.
const Organization = "COCOON TEST ONLY - NOT NVIDIA"

// Now is the time at which what the defaults make is valid: RIM signers from
// a year before it to a year after it, OCSP responses for a day around it.
var Now = time.Date(2026, 6, 1, 12, 0, 0, 0, time.UTC)

// PKI is a device root and a RIM root with everything below them.
type PKI struct {
	seed          string
	root, rimRoot *authority
	made          map[string]*authority
	roots         *nvgpu.Roots
	rimRoots      *rim.Roots
}

// authority is a certificate with its key.
type authority struct {
	key  *ecdsa.PrivateKey
	cert *x509.Certificate
}

// New makes the roots from a seed.
func New(seed string) (*PKI, error) {
	p := &PKI{seed: seed, made: map[string]*authority{}}
	var err error
	if p.root, err = p.authority("NVIDIA Device Identity CA", nil); err != nil {
		return nil, err
	}
	if p.rimRoot, err = p.authority("NVIDIA CoRIM signing Root CA", nil); err != nil {
		return nil, err
	}
	if p.roots, err = nvgpu.PinRoots(sha256.Sum256(p.root.cert.RawSubjectPublicKeyInfo)); err != nil {
		return nil, err
	}
	p.rimRoots, err = rim.ParseRoots(pemOf(p.rimRoot.cert))
	return p, err
}

// Roots returns the pinned device root for nvgpu.Options.
func (p *PKI) Roots() *nvgpu.Roots { return p.roots }

// RIMRoots returns the pinned RIM root for nvgpu.Options.
func (p *PKI) RIMRoots() *rim.Roots { return p.rimRoots }

// RootsPEM returns both root certificates in PEM, the device root first.
func (p *PKI) RootsPEM() []byte { return append(pemOf(p.root.cert), pemOf(p.rimRoot.cert)...) }

func pemOf(c *x509.Certificate) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})
}

// key derives a P-384 key from the seed and a name.
func (p *PKI) key(name string) (*ecdsa.PrivateKey, error) {
	h := sha512.Sum384(fmt.Appendf(nil, "cocoon nvgputest\x00%s\x00%s", p.seed, name))
	h[0] &= 0x7f // below the group order
	return ecdsa.ParseRawPrivateKey(elliptic.P384(), h[:])
}

// authority makes a CA certificate, or returns the one made before.
func (p *PKI) authority(name string, issuer *authority) (*authority, error) {
	from := ""
	if issuer != nil {
		from = fmt.Sprintf("%x", sha256.Sum256(issuer.cert.Raw))
	}
	id := name + " of " + from
	if a, ok := p.made[id]; ok {
		return a, nil
	}
	a, err := p.issue(id, &x509.Certificate{SerialNumber: serial(id), Subject: subject(name), IsCA: true, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign, NotBefore: Now.AddDate(-3, 0, 0), NotAfter: Now.AddDate(30, 0, 0)}, issuer)
	if err == nil {
		p.made[id] = a
	}
	return a, err
}

// issue makes a certificate over the key of a name.
func (p *PKI) issue(keyName string, tmpl *x509.Certificate, issuer *authority) (*authority, error) {
	key, err := p.key(keyName)
	if err != nil {
		return nil, fmt.Errorf("making test key: %w", err)
	}
	parent, signer := tmpl, key
	if issuer != nil {
		parent, signer = issuer.cert, issuer.key
	}
	tmpl.SignatureAlgorithm = x509.ECDSAWithSHA384
	// Without randomness the signature is that of RFC 6979.
	der, err := x509.CreateCertificate(nil, tmpl, parent, &key.PublicKey, signer)
	if err != nil {
		return nil, fmt.Errorf("issuing test certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("issuing test certificate: %w", err)
	}
	return &authority{key: key, cert: cert}, nil
}

func subject(name string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{Organization}, Country: []string{"XX"}}
}

func serial(of string) *big.Int {
	h := sha256.Sum256([]byte(of))
	h[0] = h[0]&0x3f | 0x40
	return new(big.Int).SetBytes(h[:16])
}

// signRaw signs the SHA-384 of data: r then s, 48 bytes each.
func signRaw(key *ecdsa.PrivateKey, data []byte) ([]byte, error) {
	digest := sha512.Sum384(data)
	der, err := key.Sign(nil, digest[:], crypto.SHA384) // RFC 6979
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	var sig struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &sig); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	out := make([]byte, 96)
	sig.R.FillBytes(out[:48])
	sig.S.FillBytes(out[48:])
	return out, nil
}

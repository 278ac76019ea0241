// Package snptest makes SEV-SNP reports, VCEK and VLEK certificates and CRLs
// under test authorities: for products and states that no real report shows,
// for negatives, and for whoever tests what is built on the verifier. Nothing
// signed here is worth anything: each certificate says so in its subject, and
// the authorities' private keys lie in the source.
//
// The shapes are those that packages report, vek and idblock read.
package snptest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	_ "embed"
	"encoding/asn1"
	"encoding/pem"
	"fmt"
	"math/big"
	"time"

	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// Organization is the organization in the subject of every certificate.
const Organization = "COCOON TEST ONLY - NOT AMD"

// Now is the time at which what the defaults make is valid.
var Now = time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)

var (
	//go:embed keys/ark.pem
	arkPEM []byte
	//go:embed keys/ask.pem
	askPEM []byte
	//go:embed keys/asvk.pem
	asvkPEM []byte
)

// Serial numbers of the authorities' certificates, and of leaves unless they
// say otherwise: AMD's leaves have serial number 0.
const (
	SerialARK  = 0x10000
	SerialASK  = 0x10001
	SerialASVK = 0x10101
	SerialLeaf = 0
)

// PKI has the test authorities of all product lines.
type PKI struct {
	seed  string
	lines map[report.Product]*line
	roots *vek.Roots
	pem   []byte
}

type line struct {
	ark, ask, asvk *authority
}

// authority is a certificate with its key.
type authority struct {
	key  *rsa.PrivateKey
	cert *x509.Certificate
}

// Ends are when the authorities' certificates end; zero: in 2049.
type Ends struct{ ARK, ASK, ASVK time.Time }

// New makes a PKI. The seed decides the leaves' keys.
func New(seed string) (*PKI, error) { return NewEnding(seed, Ends{}) }

// NewEnding is New, with other ends of the authorities' certificates.
func NewEnding(seed string, ends Ends) (*PKI, error) {
	p := &PKI{seed: seed, lines: map[report.Product]*line{}}
	keys := make([]*rsa.PrivateKey, 3)
	for i, b := range [][]byte{arkPEM, askPEM, asvkPEM} {
		block, _ := pem.Decode(b)
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading test key: %w", err)
		}
		keys[i] = key.(*rsa.PrivateKey)
	}
	for _, name := range []report.Product{report.Milan, report.Genoa, report.Turin} {
		l := &line{}
		var err error
		if l.ark, err = issueCA("ARK-"+string(name), SerialARK, keys[0], nil, ends.ARK); err != nil {
			return nil, err
		}
		if l.ask, err = issueCA("SEV-"+string(name), SerialASK, keys[1], l.ark, ends.ASK); err != nil {
			return nil, err
		}
		if l.asvk, err = issueCA("SEV-VLEK-"+string(name), SerialASVK, keys[2], l.ark, ends.ASVK); err != nil {
			return nil, err
		}
		p.lines[name] = l
		p.pem = append(p.pem, p.Chain(name, report.VCEK)...)
		p.pem = append(p.pem, p.Chain(name, report.VLEK)...)
	}
	var err error
	p.roots, err = vek.ParseRoots(p.pem)
	return p, err
}

// Roots returns the test authorities for Options.Roots.
func (p *PKI) Roots() *vek.Roots { return p.roots }

// RootsPEM returns the certificates of all authorities.
func (p *PKI) RootsPEM() []byte { return append([]byte(nil), p.pem...) }

// Chain returns ASK or ASVK, then ARK, in PEM, as the KDS's cert_chain.
func (p *PKI) Chain(name report.Product, s report.Signer) []byte {
	l := p.lines[name.Line()]
	return append(PEM(l.issuer(s).cert.Raw), PEM(l.ark.cert.Raw)...)
}

// PEM returns a certificate in PEM.
func PEM(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

func (l *line) issuer(s report.Signer) *authority {
	if s == report.VLEK {
		return l.asvk
	}
	return l.ask
}

func subject(name string) pkix.Name {
	return pkix.Name{CommonName: name, Organization: []string{Organization}, Country: []string{"XX"}}
}

func issueCA(name string, serial int64, key *rsa.PrivateKey, issuer *authority, end time.Time) (*authority, error) {
	if end.IsZero() {
		end = time.Date(2049, 12, 31, 0, 0, 0, 0, time.UTC)
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(serial), Subject: subject(name), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		NotBefore: time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC), NotAfter: end,
		BasicConstraintsValid: true, IsCA: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	a := &authority{key: key, cert: tmpl}
	if issuer == nil {
		issuer = a
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer.cert, &key.PublicKey, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("issuing test certificate: %w", err)
	}
	if a.cert, err = x509.ParseCertificate(der); err != nil {
		return nil, fmt.Errorf("issuing test certificate: %w", err)
	}
	return a, nil
}

// key derives a P-384 key from the seed and a name.
func (p *PKI) key(name string) (*ecdsa.PrivateKey, error) {
	for i := 0; ; i++ {
		h := sha512.Sum384(fmt.Appendf(nil, "cocoon snptest\x00%s\x00%s\x00%d", p.seed, name, i))
		// A scalar above the group order is as rare as a collision.
		key, err := ecdsa.ParseRawPrivateKey(elliptic.P384(), h[:])
		if err == nil || i > 8 {
			return key, err
		}
	}
}

// Cert is a VCEK or VLEK certificate to be made.
type Cert struct {
	Signer              report.Signer
	Line                report.Product // whose ASK or ASVK signs
	ProductName         string
	TCB                 report.TCB
	ChipID              []byte // hwID; nil: none
	CSP                 string // empty: none
	Serial              int64
	NotBefore, NotAfter time.Time
	KeyName             string // of the leaf's key; reports name the same

	ByARK      bool             // signed by the ARK instead of ASK or ASVK
	Drop       string           // an extension to leave out, by its OID
	Extra      []pkix.Extension // extensions to add
	CommonName string           // instead of SEV-VCEK or SEV-VLEK
}

const arc = "1.3.6.1.4.1.3704.1."

// Certificate issues a certificate, in DER.
func (p *PKI) Certificate(c *Cert) ([]byte, error) {
	l := p.lines[c.Line.Line()]
	key, err := p.key(c.KeyName)
	if err != nil {
		return nil, err
	}
	var exts []pkix.Extension
	add := func(oid string, value []byte, err error) error {
		if err != nil {
			return fmt.Errorf("making extension: %w", err)
		}
		if arc+oid != c.Drop {
			exts = append(exts, pkix.Extension{Id: parseOID(arc + oid), Value: value})
		}
		return nil
	}
	integer := func(oid string, n uint8) error {
		b, err := asn1.Marshal(int(n))
		return add(oid, b, err)
	}
	ia5 := func(oid, s string) error {
		b, err := asn1.MarshalWithParams(s, "ia5")
		return add(oid, b, err)
	}
	turin := c.Line == report.Turin
	steps := []error{
		integer("1", map[bool]uint8{false: 0, true: 1}[turin]), ia5("2", c.ProductName),
		integer("3.1", c.TCB.Bootloader), integer("3.2", c.TCB.TEE), integer("3.3", c.TCB.SNP), integer("3.8", c.TCB.Microcode),
	}
	if turin {
		steps = append(steps, integer("3.9", c.TCB.FMC), integer("3.5", 0), integer("3.6", 0), integer("3.7", 0))
	} else {
		steps = append(steps, integer("3.4", 0), integer("3.5", 0), integer("3.6", 0), integer("3.7", 0))
	}
	if c.ChipID != nil {
		steps = append(steps, add("4", c.ChipID, nil))
	}
	if c.CSP != "" {
		steps = append(steps, ia5("5", c.CSP))
	}
	for _, err := range steps {
		if err != nil {
			return nil, err
		}
	}
	name := c.CommonName
	if name == "" {
		name = "SEV-" + string(c.Signer)
	}
	issuer := l.issuer(c.Signer)
	if c.ByARK {
		issuer = l.ark
	}
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(c.Serial), Subject: subject(name), SignatureAlgorithm: x509.SHA384WithRSAPSS,
		NotBefore: c.NotBefore, NotAfter: c.NotAfter, ExtraExtensions: append(exts, c.Extra...),
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, issuer.cert, &key.PublicKey, issuer.key)
	if err != nil {
		return nil, fmt.Errorf("issuing test certificate: %w", err)
	}
	return der, nil
}

func parseOID(s string) asn1.ObjectIdentifier {
	var oid asn1.ObjectIdentifier
	n := 0
	for _, c := range s + "." {
		if c == '.' {
			oid = append(oid, n)
			n = 0
			continue
		}
		n = 10*n + int(c-'0')
	}
	return oid
}

// CRL is a revocation list to be made.
type CRL struct {
	Line                   report.Product
	Number                 int64
	ThisUpdate, NextUpdate time.Time
	Revoked                []int64
	ByASK                  bool             // signed by the ASK instead of the ARK
	Extra                  []pkix.Extension // extensions to add
}

// DefaultCRL returns a list that revokes nothing, a day old at Now.
func DefaultCRL(name report.Product) CRL {
	return CRL{Line: name.Line(), Number: 7, ThisUpdate: Now.AddDate(0, 0, -1), NextUpdate: Now.AddDate(0, 0, 29)}
}

// CRL issues a revocation list, in DER.
func (p *PKI) CRL(c *CRL) ([]byte, error) {
	l := p.lines[c.Line.Line()]
	tmpl := &x509.RevocationList{Number: big.NewInt(c.Number), ThisUpdate: c.ThisUpdate, NextUpdate: c.NextUpdate,
		SignatureAlgorithm: x509.SHA384WithRSAPSS, ExtraExtensions: c.Extra}
	for _, n := range c.Revoked {
		tmpl.RevokedCertificateEntries = append(tmpl.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(n), RevocationTime: c.ThisUpdate})
	}
	by := l.ark
	if c.ByASK {
		// The name stays the ARK's: only the key is another.
		by = &authority{key: l.ask.key, cert: l.ark.cert}
		cert := *l.ark.cert
		cert.PublicKey = &l.ask.key.PublicKey
		by.cert = &cert
	}
	der, err := x509.CreateRevocationList(rand.Reader, tmpl, by.cert, by.key)
	if err != nil {
		return nil, fmt.Errorf("issuing test CRL: %w", err)
	}
	return der, nil
}

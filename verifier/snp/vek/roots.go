// Package vek verifies the certificates of the keys that sign SEV-SNP reports,
// VCEKs and VLEKs, up to AMD's roots, and AMD's CRLs: DER or PEM comes in, a
// certificate with its TCB version and chip comes out.
//
// Definition: AMD 57230, Versioned Chip Endorsement Key (VCEK) Certificate and
// KDS Interface Specification, chapters 2 to 4; RFC 5280 for CRLs.
package vek

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/google/go-sev-guest/verify/trust"

	"cocoon/verifier/snp/report"
)

// Errors that this package's errors wrap.
var (
	ErrMalformed = errors.New("malformed certificate or CRL")
	ErrSignature = errors.New("signature does not verify")
	ErrProduct   = errors.New("certificate is of another product")
	ErrKind      = errors.New("certificate is of another kind of key")
	ErrUnpinned  = errors.New("certificate is not one of the trusted chain")
)

// Authority is a product line's certificates: the root key (ARK), and the keys
// that it signed for VCEKs (ASK) and VLEKs (ASVK).
type Authority struct {
	Line           report.Product
	ARK, ASK, ASVK *x509.Certificate // ASK or ASVK may be nil
}

// issuer returns the certificate whose key signs a kind of key.
func (a *Authority) issuer(s report.Signer) *x509.Certificate {
	if s == report.VLEK {
		return a.ASVK
	}
	return a.ASK
}

// has reports whether der is one of the certificates.
func (a *Authority) has(der []byte) bool {
	for _, c := range []*x509.Certificate{a.ARK, a.ASK, a.ASVK} {
		if c != nil && bytes.Equal(c.Raw, der) {
			return true
		}
	}
	return false
}

// Roots are trusted product lines. It is immutable.
type Roots struct {
	lines map[report.Product]*Authority
	hash  [32]byte
}

// pinned are the SHA-256 of the certificates that AMD's KDS publishes under
// /vcek/v1/{product}/cert_chain and /vlek/v1/{product}/cert_chain.
var pinned = [...]string{
	"69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd", // ARK-Milan, 2020-10-22 to 2045-10-22
	"67d303bd3905fd38db8b20e0793699870e7fa612eaad5dec358293fd8c0bac1b", // SEV-Milan
	"c5e081f59b7efab1fe2f8b505e159704e72f29cab7ef7cf628a05a42439082f5", // SEV-VLEK-Milan
	"4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1", // ARK-Genoa
	"5464738c1546aed5f2cecf1dc98c5c960a92e8913238a61711bc90ec6e828521", // SEV-Genoa
	"197e610743a917d6b9bb982a5a9226ccc0a15b611be0619e626aca9151457372", // SEV-VLEK-Genoa
	"1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a", // ARK-Turin, 2023-05-15 to 2048-05-15
	"5b77ef5fe7a7a004fd9032668fba9d0fda22f88c4442069a479636a6ae3b3185", // SEV-Turin
	"104e10a8bd060a3c20a434261a57d0588fd65a88915b4f65b08bdecaf8df1a3c", // SEV-VLEK-Turin
}

// AMDRoots returns AMD's production chains for Milan, Genoa (with Bergamo and
// Siena) and Turin. The bytes come with go-sev-guest; what is trusted is the
// hashes here.
func AMDRoots() *Roots { return amdRoots() }

// AMD reports whether the set is AMD's own, as nil is.
func (r *Roots) AMD() bool { return r == nil || r.hash == amdRoots().hash }

var amdRoots = sync.OnceValue(func() *Roots {
	r, err := ParseRoots(slices.Concat(trust.AskArkMilanVcekBytes, trust.AskArkMilanVlekBytes, trust.AskArkGenoaVcekBytes,
		trust.AskArkGenoaVlekBytes, trust.AskArkTurinVcekBytes, trust.AskArkTurinVlekBytes))
	if err == nil {
		err = r.checkPins()
	}
	if err != nil {
		panic("vek: embedded AMD certificates: " + err.Error())
	}
	return r
})

// checkPins checks that exactly the pinned certificates are there.
func (r *Roots) checkPins() error {
	n := 0
	for _, a := range r.lines {
		for _, c := range []*x509.Certificate{a.ARK, a.ASK, a.ASVK} {
			if c == nil {
				return fmt.Errorf("%s lacks a certificate", a.Line)
			}
			sum := sha256.Sum256(c.Raw)
			if !slices.Contains(pinned[:], hex.EncodeToString(sum[:])) {
				return fmt.Errorf("certificate of %q is not the pinned one", c.Subject.CommonName)
			}
			n++
		}
	}
	if n != len(pinned) {
		return fmt.Errorf("%d certificates, want %d", n, len(pinned))
	}
	return nil
}

// Bounds of what is read.
const (
	MaxChain = 1 << 16 // bytes of a chain or of roots
	maxCerts = 32
)

// ParseRoots reads the chains of one or more product lines from PEM or DER:
// for each an ARK, and an ASK, an ASVK or both, in any order; repetitions do
// no harm. The product line is that of the common names, such as "ARK-Milan",
// "SEV-Milan" and "SEV-VLEK-Milan". Every signature below a root is verified.
func ParseRoots(data []byte) (*Roots, error) {
	ders, err := splitCerts(data)
	if err != nil {
		return nil, fmt.Errorf("parsing roots: %w", err)
	}
	r := &Roots{lines: map[report.Product]*Authority{}}
	for _, der := range ders {
		if err := r.add(der); err != nil {
			return nil, fmt.Errorf("parsing roots: %w", err)
		}
	}
	h := sha256.New()
	for _, line := range []report.Product{report.Milan, report.Genoa, report.Turin} {
		a := r.lines[line]
		if a == nil {
			continue
		}
		if err := a.check(); err != nil {
			return nil, fmt.Errorf("parsing roots of %s: %w", line, err)
		}
		for _, c := range []*x509.Certificate{a.ARK, a.ASK, a.ASVK} {
			var sum [32]byte
			if c != nil {
				sum = sha256.Sum256(c.Raw)
			}
			h.Write(sum[:])
		}
		h.Write([]byte(line))
	}
	if len(r.lines) == 0 {
		return nil, fmt.Errorf("parsing roots: no certificate: %w", ErrMalformed)
	}
	h.Sum(r.hash[:0])
	return r, nil
}

// add files one certificate by its common name.
func (r *Roots) add(der []byte) error {
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	name := c.Subject.CommonName
	var line string
	var slot func(*Authority) **x509.Certificate
	if s, ok := strings.CutPrefix(name, "ARK-"); ok {
		line, slot = s, func(a *Authority) **x509.Certificate { return &a.ARK }
	} else if s, ok := strings.CutPrefix(name, "SEV-VLEK-"); ok {
		line, slot = s, func(a *Authority) **x509.Certificate { return &a.ASVK }
	} else if s, ok := strings.CutPrefix(name, "SEV-"); ok {
		line, slot = s, func(a *Authority) **x509.Certificate { return &a.ASK }
	}
	p := report.Product(line)
	if p != report.Milan && p != report.Genoa && p != report.Turin {
		return fmt.Errorf("%q names no ARK, ASK or ASVK of a known product: %w", name, ErrMalformed)
	}
	a := r.lines[p]
	if a == nil {
		a = &Authority{Line: p}
		r.lines[p] = a
	}
	to := slot(a)
	if *to != nil && !bytes.Equal((*to).Raw, der) {
		return fmt.Errorf("two certificates of %q: %w", name, ErrMalformed)
	}
	*to = c
	return nil
}

// check verifies a line's chain (AMD 57230, chapter 2).
func (a *Authority) check() error {
	if a.ARK == nil || (a.ASK == nil && a.ASVK == nil) {
		return fmt.Errorf("want an ARK and an ASK or ASVK: %w", ErrMalformed)
	}
	for _, c := range []*x509.Certificate{a.ARK, a.ASK, a.ASVK} {
		if c == nil {
			continue
		}
		key, ok := c.PublicKey.(*rsa.PublicKey)
		if !ok || key.N.BitLen() != 4096 || c.Version != 3 || !c.BasicConstraintsValid || !c.IsCA ||
			c.SignatureAlgorithm != x509.SHA384WithRSAPSS || c.KeyUsage&x509.KeyUsageCertSign == 0 || len(c.UnhandledCriticalExtensions) > 0 {
			return fmt.Errorf("%q is no RSA-4096 authority of AMD's shape: %w", c.Subject.CommonName, ErrMalformed)
		}
		if err := checkIssued(c, a.ARK); err != nil {
			return err
		}
	}
	return nil
}

// checkIssued checks that issuer's key signed c, and that c says so.
func checkIssued(c, issuer *x509.Certificate) error {
	if !bytes.Equal(c.RawIssuer, issuer.RawSubject) {
		return fmt.Errorf("%q is issued by %q, not by %q: %w", c.Subject.CommonName, c.Issuer.CommonName, issuer.Subject.CommonName, ErrSignature)
	}
	if err := c.CheckSignatureFrom(issuer); err != nil {
		return fmt.Errorf("%q: %w: %w", c.Subject.CommonName, ErrSignature, err)
	}
	return nil
}

// Authority returns the chain of a product line, or nil.
func (r *Roots) Authority(line report.Product) *Authority { return r.lines[line] }

// Hash identifies the set.
func (r *Roots) Hash() [32]byte { return r.hash }

// CheckChain checks that every certificate of a chain that came with a report
// is one of the trusted ones of its product line: a chain adds no trust, and
// another one is refused rather than left out of account.
func (r *Roots) CheckChain(data []byte, line report.Product) error {
	ders, err := splitCerts(data)
	if err != nil {
		return err
	}
	a := r.lines[line]
	for _, der := range ders {
		if a == nil || !a.has(der) {
			name := "a certificate that does not parse"
			if c, err := x509.ParseCertificate(der); err == nil {
				name = c.Subject.CommonName
			}
			sum := sha256.Sum256(der)
			return fmt.Errorf("%q with SHA-256 %x: %w", name, sum, ErrUnpinned)
		}
	}
	return nil
}

var pemBegin = []byte("-----BEGIN")

// splitCerts returns the DER of each certificate in PEM or concatenated DER.
func splitCerts(data []byte) ([][]byte, error) {
	if len(data) > MaxChain {
		return nil, fmt.Errorf("%d bytes of certificates, limit %d: %w", len(data), MaxChain, ErrMalformed)
	}
	var out [][]byte
	for rest := data; len(bytes.TrimSpace(rest)) > 0; {
		if len(out) == maxCerts {
			return nil, fmt.Errorf("more than %d certificates: %w", maxCerts, ErrMalformed)
		}
		if rest[0] == 0x30 { // DER SEQUENCE
			n, err := derLength(rest)
			if err != nil {
				return nil, err
			}
			out, rest = append(out, rest[:n]), rest[n:]
			continue
		}
		rest = bytes.TrimSpace(rest)
		block, more := pem.Decode(rest)
		// Decode skips what stands before a block, and blocks that do not read.
		if block == nil || block.Type != "CERTIFICATE" || !bytes.HasPrefix(rest, pemBegin) || bytes.Count(rest[:len(rest)-len(more)], pemBegin) != 1 {
			return nil, fmt.Errorf("neither DER nor PEM certificates: %w", ErrMalformed)
		}
		out, rest = append(out, block.Bytes), more
	}
	return out, nil
}

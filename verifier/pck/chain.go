package pck

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
)

// Errors that the package wraps.
var (
	ErrMalformed     = errors.New("malformed")
	ErrUntrustedRoot = errors.New("chain does not end in a trusted root")
	ErrSignature     = errors.New("signature does not verify")
)

// MaxChain bounds a PEM chain in bytes.
const MaxChain = 32 << 10

const (
	pemBegin = "-----BEGIN CERTIFICATE-----"
	pemEnd   = "-----END CERTIFICATE-----"
)

// SplitPEM returns the DER of each certificate in a PEM chain: exactly count
// of them, nothing but line ends between them, and line ends or NUL
// bytes after the last. One DER has one base64 here: encoding/pem would skip
// what it cannot read and ignore bits that carry nothing. Its errors wrap
// ErrMalformed.
func SplitPEM(chain []byte, count int) ([][]byte, error) {
	if len(chain) > MaxChain {
		return nil, fmt.Errorf("certificate chain of %d bytes, limit %d: %w", len(chain), MaxChain, ErrMalformed)
	}
	out := make([][]byte, 0, count)
	rest := bytes.TrimRight(chain, "\x00\r\n")
	for len(rest) > 0 {
		if len(out) == count {
			return nil, fmt.Errorf("certificate chain has more than %d certificates: %w", count, ErrMalformed)
		}
		body, ok := bytes.CutPrefix(rest, []byte(pemBegin))
		if !ok {
			return nil, fmt.Errorf("certificate %d of the chain is not PEM: %w", len(out)+1, ErrMalformed)
		}
		body, more, ok := bytes.Cut(body, []byte(pemEnd))
		if !ok {
			return nil, fmt.Errorf("certificate %d of the chain has no end: %w", len(out)+1, ErrMalformed)
		}
		der := make([]byte, base64.StdEncoding.DecodedLen(len(body)))
		n, err := base64.StdEncoding.Strict().Decode(der, body) // ignores line ends
		if err != nil {
			return nil, fmt.Errorf("certificate %d of the chain: %w: %w", len(out)+1, ErrMalformed, err)
		}
		out = append(out, der[:n])
		rest = bytes.TrimLeft(more, "\r\n")
	}
	if len(out) != count {
		return nil, fmt.Errorf("certificate chain has %d certificates, not %d: %w", len(out), count, ErrMalformed)
	}
	return out, nil
}

// Issued is a certificate that a pinned root issued, with that root.
type Issued struct {
	Cert *x509.Certificate
	Root *x509.Certificate
}

// VerifyIssued verifies a chain of two certificates, as the issuer chains of
// collateral are: the second is a pinned root, the first is a CA or not, as
// the caller says, and issued by the root. Validity times are not looked at.
func VerifyIssued(chain []byte, roots *Roots, ca bool) (*Issued, error) {
	ders, err := SplitPEM(chain, 2)
	if err != nil {
		return nil, err
	}
	return verifyIssued(ders[0], ders[1], roots, ca)
}

func verifyIssued(der, rootDER []byte, roots *Roots, ca bool) (*Issued, error) {
	root := roots.Find(rootDER)
	if root == nil {
		return nil, fmt.Errorf("verifying certificate chain: %w", ErrUntrustedRoot)
	}
	cert, err := parseCert(der, ca)
	if err != nil {
		return nil, err
	}
	if err := checkSignature(cert, root); err != nil {
		return nil, err
	}
	return &Issued{Cert: cert, Root: root}, nil
}

func parseCert(der []byte, ca bool) (*x509.Certificate, error) {
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parsing certificate: %w: %w", ErrMalformed, err)
	}
	if err := checkShape(cert, ca); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	return cert, nil
}

// Verify verifies a PCK chain in PEM: leaf, PCK CA, root. The root must be
// pinned, byte for byte; where the CA certificate is known, an Issued one
// that was verified before, its signature is not verified again. Validity
// times and revocation are not looked at: they depend on the moment.
func Verify(chain []byte, roots *Roots, known *Issued) (*Chain, error) {
	ders, err := SplitPEM(chain, 3)
	if err != nil {
		return nil, err
	}
	ca := known
	if known == nil || !bytes.Equal(known.Cert.Raw, ders[1]) || !bytes.Equal(known.Root.Raw, ders[2]) {
		if ca, err = verifyIssued(ders[1], ders[2], roots, true); err != nil {
			return nil, err
		}
	}
	return verifyLeaf(ders[0], ca)
}

// VerifyLeaf verifies a single PCK certificate in PEM against a CA that was
// verified before.
func VerifyLeaf(leaf []byte, ca *Issued) (*Chain, error) {
	ders, err := SplitPEM(leaf, 1)
	if err != nil {
		return nil, err
	}
	return verifyLeaf(ders[0], ca)
}

func verifyLeaf(der []byte, ca *Issued) (*Chain, error) {
	kind, err := Kind(ca.Cert)
	if err != nil {
		return nil, err
	}
	leaf, err := parseCert(der, false)
	if err != nil {
		return nil, err
	}
	// QuoteVerifier.cpp, step 4.1.2.5.5.
	if !strings.Contains(leaf.Subject.CommonName, "SGX PCK Certificate") {
		return nil, fmt.Errorf("certificate %q is no PCK certificate: %w", leaf.Subject.CommonName, ErrMalformed)
	}
	if err := checkSignature(leaf, ca.Cert); err != nil {
		return nil, err
	}
	c := &Chain{Leaf: leaf, Intermediate: ca.Cert, CA: kind, Key: leaf.PublicKey.(*ecdsa.PublicKey)}
	if err := c.Extensions.parse(leaf); err != nil {
		return nil, err
	}
	c.NotBefore, c.NotAfter = window(leaf, ca.Cert, ca.Root)
	return c, nil
}

// Kind says which PCK CA a certificate is of, by its subject's common name.
func Kind(cert *x509.Certificate) (CA, error) {
	switch cn := cert.Subject.CommonName; {
	case strings.Contains(cn, "SGX PCK Platform CA"):
		return PlatformCA, nil
	case strings.Contains(cn, "SGX PCK Processor CA"):
		return ProcessorCA, nil
	default:
		return "", fmt.Errorf("certificate %q is no PCK CA: %w", cn, ErrMalformed)
	}
}

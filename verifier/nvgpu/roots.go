package nvgpu

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
)

// nvidiaRootSPKI is the SHA-256 of the SubjectPublicKeyInfo of the NVIDIA
// Device Identity CA, the root of every GPU's and NVSwitch's chain. Two
// self-signed certificates have that key: serial number
// 2d3670b1ca100411c1fec0e82a065b54 (SHA-256 of the DER
// 102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48), which is
// the one in the devices' chains and in NVIDIA's nvtrust and attestation-sdk,
// and the one published at
// https://docs.ndis.nvidia.com/certs/identity-root/Root-CA-L1B.cer (SHA-256
// 8805700fd307db6801f9a8a7a91acbf72e513cdf8ed16e0bfeaf62318037ad96). So the
// key is pinned, not a certificate.
var nvidiaRootSPKI = [32]byte{
	0xa9, 0x0c, 0x4e, 0xb5, 0xac, 0xfd, 0x3e, 0x3d, 0x03, 0xa2, 0x5d, 0xb6, 0xa2, 0x6b, 0x84, 0xf7,
	0x20, 0xad, 0x05, 0x03, 0x19, 0x6c, 0x62, 0x7c, 0x21, 0xdd, 0xd4, 0x8d, 0xd8, 0x5b, 0x06, 0xa4,
}

// maxRoots bounds a set of roots.
const maxRoots = 16

// Roots is a set of trusted device roots, each pinned by the SHA-256 of its
// SubjectPublicKeyInfo.
type Roots struct {
	pins   [][32]byte
	hash   [32]byte
	nvidia bool
}

// NVIDIARoots returns NVIDIA's device root.
func NVIDIARoots() *Roots {
	return &Roots{pins: [][32]byte{nvidiaRootSPKI}, hash: sha256.Sum256(nvidiaRootSPKI[:]), nvidia: true}
}

// PinRoots returns a set of roots from the SHA-256 of each root's
// SubjectPublicKeyInfo; between 1 and 16 are taken.
func PinRoots(spki ...[32]byte) (*Roots, error) {
	if len(spki) == 0 || len(spki) > maxRoots {
		return nil, fmt.Errorf("pinning device roots: %d of them, want 1 to %d", len(spki), maxRoots)
	}
	h := sha256.New()
	for _, p := range spki {
		h.Write(p[:])
	}
	return &Roots{pins: slices.Clone(spki), hash: [32]byte(h.Sum(nil))}, nil
}

// NVIDIA reports whether the set is NVIDIA's own, as nil is.
func (r *Roots) NVIDIA() bool { return r == nil || r.nvidia }

// errUntrusted is the refusal of a chain that ends elsewhere.
var errUntrusted = errors.New("chain does not end in a trusted device root")

// check refuses a certificate that is not a pinned root: its key must be
// pinned and its own signature must verify, so that nothing in it is anyone
// else's word.
func (r *Roots) check(cert *x509.Certificate) error {
	if !slices.Contains(r.pins, sha256.Sum256(cert.RawSubjectPublicKeyInfo)) {
		return errUntrusted
	}
	if err := checkShape(cert, true); err != nil {
		return err
	}
	return checkIssued(cert, cert)
}

// checkShape checks what every certificate of a device chain has in common:
// an ECDSA P-384 key, a signature with SHA-384, the right basic constraints
// and key usage, and no critical extension that nobody here understands.
func checkShape(c *x509.Certificate, ca bool) error {
	key, ok := c.PublicKey.(*ecdsa.PublicKey)
	switch {
	case c.Version != 3:
		return fmt.Errorf("certificate %q is of version %d, not 3", c.Subject.CommonName, c.Version)
	case !ok || key.Curve != elliptic.P384():
		return fmt.Errorf("certificate %q has no P-384 key", c.Subject.CommonName)
	case c.SignatureAlgorithm != x509.ECDSAWithSHA384:
		return fmt.Errorf("certificate %q is not signed with ECDSA and SHA-384", c.Subject.CommonName)
	case len(c.UnhandledCriticalExtensions) > 0:
		return fmt.Errorf("certificate %q has an unknown critical extension", c.Subject.CommonName)
	case c.IsCA != ca:
		return fmt.Errorf("certificate %q: authority %t, want %t", c.Subject.CommonName, c.IsCA, ca)
	case ca && (!c.BasicConstraintsValid || c.KeyUsage&x509.KeyUsageCertSign == 0):
		return fmt.Errorf("certificate %q may not sign certificates", c.Subject.CommonName)
	case !ca && c.KeyUsage != x509.KeyUsageDigitalSignature:
		return fmt.Errorf("certificate %q is not for signatures alone", c.Subject.CommonName)
	}
	return nil
}

// checkIssued checks that parent issued cert: name and signature.
func checkIssued(cert, parent *x509.Certificate) error {
	if string(cert.RawIssuer) != string(parent.RawSubject) {
		return fmt.Errorf("certificate %q names another issuer than %q", cert.Subject.CommonName, parent.Subject.CommonName)
	}
	if err := parent.CheckSignature(cert.SignatureAlgorithm, cert.RawTBSCertificate, cert.Signature); err != nil {
		return fmt.Errorf("verifying the signature of certificate %q: %w", cert.Subject.CommonName, err)
	}
	return nil
}

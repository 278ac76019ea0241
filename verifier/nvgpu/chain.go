package nvgpu

import (
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/nvgpu/spdm"
)

// Kind says what a device is.
type Kind string

// Kinds of devices.
const (
	KindGPU    Kind = "gpu"
	KindSwitch Kind = "switch"
)

// Arch is a device's architecture.
type Arch string

// Architectures that are verified.
const (
	Hopper    Arch = "hopper"
	Blackwell Arch = "blackwell"
	LS10      Arch = "ls10" // third-generation NVSwitch
)

// ParseArch reads an architecture in any case of letters.
func ParseArch(s string) (Arch, error) {
	switch a := Arch(strings.ToLower(s)); a {
	case Hopper, Blackwell, LS10:
		return a, nil
	}
	return "", fmt.Errorf("architecture %.32q is none of hopper, blackwell and ls10", s)
}

// Certificates of a device chain, leaf first: the key that signs reports, the
// boot ROM's, the provisioner's, the product's identity, the root.
const (
	certLeaf = iota
	certBROM
	certICA
	certIdentity
	certRoot
	chainLength
)

// maxCert bounds one certificate in bytes.
const maxCert = 4096

// Subjects of NVIDIA's chains. The chip is in all of them, so that no
// authority of one product can speak for another.
var (
	leafName     = regexp.MustCompile(`^((GH1[0-9]{2}|GB[0-9X]{3}) [A-Z][0-9]{2} GSP|(LS_10) [A-Z][0-9]{2} FSP) FMC LF$`)
	identityName = regexp.MustCompile(`^NVIDIA (G[HB])[0-9X]{3} Identity$`)
)

// deviceChain is a verified device chain. Times are not looked at yet.
type deviceChain struct {
	certs     [chainLength]*x509.Certificate
	kind      Kind
	arch      Arch
	chip      string // "GH100", "GB100", "LS_10"
	pdi       spdm.PDI
	fwid      []byte // of the leaf's DICE extension
	fwidErr   error
	key       *ecsig.Known
	notBefore time.Time // of all five
	notAfter  time.Time
}

// issuer is the verified upper part of a chain: provisioner, identity, root.
type issuer struct{ certs [3]*x509.Certificate }

// verifyChain verifies a chain of five certificates in DER, leaf first, up to
// a pinned root. What the cache has is not verified again: the key of an entry
// is the hash of every certificate under it and of the pins.
func verifyChain(ders [][]byte, roots *Roots, cache *Cache) (*deviceChain, error) {
	if len(ders) != chainLength {
		return nil, fmt.Errorf("%d certificates, want %d", len(ders), chainLength)
	}
	for i, der := range ders {
		if len(der) > maxCert {
			return nil, fmt.Errorf("certificate %d has %d bytes, at most %d", i, len(der), maxCert)
		}
	}
	key := chainKey("nvgpu device chain", roots, ders)
	if c, ok := cache.chains.Get(&key); ok {
		return c, nil
	}
	up, err := verifyIssuer(ders[certICA:], roots, cache)
	if err != nil {
		return nil, err
	}
	c := &deviceChain{}
	copy(c.certs[certICA:], up.certs[:])
	for i := certBROM; i >= certLeaf; i-- {
		if c.certs[i], err = x509.ParseCertificate(ders[i]); err != nil {
			return nil, fmt.Errorf("parsing certificate %d: %w", i, err)
		}
		if err := checkShape(c.certs[i], i != certLeaf); err != nil {
			return nil, err
		}
		if err := checkIssued(c.certs[i], c.certs[i+1]); err != nil {
			return nil, err
		}
	}
	if err := c.identify(); err != nil {
		return nil, err
	}
	c.key = ecsig.Know(c.certs[certLeaf].PublicKey.(*ecdsa.PublicKey))
	c.fwid, c.fwidErr = fwidOf(c.certs[certLeaf])
	for i, cert := range c.certs {
		if i == 0 || cert.NotBefore.After(c.notBefore) {
			c.notBefore = cert.NotBefore
		}
		if i == 0 || cert.NotAfter.Before(c.notAfter) {
			c.notAfter = cert.NotAfter
		}
		// RFC 5280, section 4.2.1.9: authorities below this one, the leaf apart.
		if i > 0 && (cert.MaxPathLen > 0 || cert.MaxPathLenZero) && i-1 > cert.MaxPathLen {
			return nil, fmt.Errorf("certificate %q allows %d authorities under it", cert.Subject.CommonName, cert.MaxPathLen)
		}
	}
	cache.chains.Put(&key, c)
	return c, nil
}

// verifyIssuer verifies provisioner, identity and root.
func verifyIssuer(ders [][]byte, roots *Roots, cache *Cache) (*issuer, error) {
	key := chainKey("nvgpu device issuer", roots, ders)
	if up, ok := cache.issuers.Get(&key); ok {
		return up, nil
	}
	up := &issuer{}
	for i := len(ders) - 1; i >= 0; i-- {
		cert, err := x509.ParseCertificate(ders[i])
		if err != nil {
			return nil, fmt.Errorf("parsing certificate %d: %w", certICA+i, err)
		}
		up.certs[i] = cert
		if i == len(ders)-1 {
			if err := roots.check(cert); err != nil {
				return nil, err
			}
			continue
		}
		if err := checkShape(cert, true); err != nil {
			return nil, err
		}
		if err := checkIssued(cert, up.certs[i+1]); err != nil {
			return nil, err
		}
	}
	cache.issuers.Put(&key, up)
	return up, nil
}

func chainKey(what string, roots *Roots, ders [][]byte) [32]byte {
	h := sha256.New()
	h.Write([]byte(what))
	h.Write(roots.hash[:])
	for _, der := range ders {
		d := sha256.Sum256(der)
		h.Write(d[:])
	}
	return [32]byte(h.Sum(nil))
}

// identify reads kind, architecture and PDI from the subjects. The PDI is the
// serial number of the boot ROM's certificate without its first byte, which
// says what the device is: 0x41 a GPU, 0x50 a switch.
func (c *deviceChain) identify() error {
	cn := func(i int) string { return c.certs[i].Subject.CommonName }
	m := leafName.FindStringSubmatch(cn(certLeaf))
	if m == nil {
		return fmt.Errorf("certificate %.64q is of no known device", cn(certLeaf))
	}
	c.chip, c.kind = m[2]+m[3], KindGPU
	family, prefix := "GH", byte(0x41)
	switch {
	case c.chip == "LS_10":
		c.kind, c.arch, prefix = KindSwitch, LS10, 0x50
	case strings.HasPrefix(c.chip, "GH"):
		c.arch = Hopper
	default:
		c.arch, family = Blackwell, "GB"
	}
	if cn(certBROM) != m[1]+" BROM" {
		return fmt.Errorf("certificate %.64q is not of the boot ROM of a %s", cn(certBROM), m[1])
	}
	if serial, ok := strings.CutPrefix(cn(certICA), "NVIDIA "+c.chip+" Provisioner ICA "); !ok || serial == "" {
		return fmt.Errorf("certificate %.64q is not of a provisioner of %s", cn(certICA), c.chip)
	}
	if id := identityName.FindStringSubmatch(cn(certIdentity)); id == nil || id[1] != family {
		return fmt.Errorf("certificate %.64q is not an identity for %s", cn(certIdentity), c.chip)
	}
	serial := c.certs[certBROM].SerialNumber.Bytes()
	if len(serial) != 1+len(c.pdi) || serial[0] != prefix || !strings.EqualFold(hex.EncodeToString(serial), c.certs[certBROM].Subject.SerialNumber) {
		return errors.New("the boot ROM's certificate has no PDI in its serial number")
	}
	copy(c.pdi[:], serial[1:])
	return nil
}

package vek

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"math/big"
	"strings"
	"time"

	"github.com/google/go-sev-guest/kds"
	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"cocoon/verifier/snp/report"
)

// MaxCert bounds a leaf certificate, in DER or PEM.
const MaxCert = 1 << 14

// Cert is a verified VCEK or VLEK certificate. It is immutable.
type Cert struct {
	Signer    report.Signer
	Line      report.Product // that AMD's certificates are of: Milan, Genoa or Turin
	Key       *ecdsa.PublicKey
	TCB       report.TCB
	ChipID    []byte // VCEK: 64 bytes, 8 on Turin; VLEK: nil
	CSP       string // VLEK: the cloud provider
	Serial    *big.Int
	NotBefore time.Time // the latest of the chain
	NotAfter  time.Time // the earliest of the chain
	Authority *Authority
	DER       []byte
}

// Issuer is the certificate of the ASK or ASVK.
func (c *Cert) Issuer() *x509.Certificate { return c.Authority.issuer(c.Signer) }

// DER returns the DER of one certificate that may be in PEM.
func DER(data []byte) ([]byte, error) {
	if len(data) > MaxCert {
		return nil, fmt.Errorf("certificate of %d bytes, limit %d: %w", len(data), MaxCert, ErrMalformed)
	}
	ders, err := splitCerts(data)
	if err != nil {
		return nil, err
	}
	if len(ders) != 1 {
		return nil, fmt.Errorf("%d certificates, want one: %w", len(ders), ErrMalformed)
	}
	return ders[0], nil
}

// Verify verifies a certificate (DER) of a kind of key under the roots. It
// does not look at the time.
func Verify(der []byte, signer report.Signer, roots *Roots) (*Cert, error) {
	if len(der) > MaxCert {
		return nil, fmt.Errorf("certificate of %d bytes, limit %d: %w", len(der), MaxCert, ErrMalformed)
	}
	x, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	c := &Cert{Signer: signer, Serial: x.SerialNumber, DER: x.Raw}
	if want := "SEV-" + string(signer); x.Subject.CommonName != want {
		return nil, fmt.Errorf("certificate is of %q, want %q: %w", x.Subject.CommonName, want, ErrKind)
	}
	key, ok := x.PublicKey.(*ecdsa.PublicKey)
	if !ok || key.Curve != elliptic.P384() {
		return nil, fmt.Errorf("key is not of ECDSA P-384: %w", ErrMalformed)
	}
	c.Key = key
	if x.Version != 3 || x.IsCA || x.SignatureAlgorithm != x509.SHA384WithRSAPSS || len(x.UnhandledCriticalExtensions) > 0 {
		return nil, fmt.Errorf("certificate is not of AMD's shape: %w", ErrMalformed)
	}
	if err := c.extensions(x); err != nil {
		return nil, err
	}
	if c.Authority = roots.Authority(c.Line); c.Authority == nil || c.Issuer() == nil {
		return nil, fmt.Errorf("no authority for %ss of %s is trusted: %w", signer, c.Line, ErrUnpinned)
	}
	if err := checkIssued(x, c.Issuer()); err != nil {
		return nil, err
	}
	c.NotBefore, c.NotAfter = x.NotBefore, x.NotAfter
	for _, up := range []*x509.Certificate{c.Issuer(), c.Authority.ARK} {
		if up.NotBefore.After(c.NotBefore) {
			c.NotBefore = up.NotBefore
		}
		if up.NotAfter.Before(c.NotAfter) {
			c.NotAfter = up.NotAfter
		}
	}
	return c, nil
}

// oidFMC is fmcSPL, on Turin: go-sev-guest does not know it.
var oidFMC = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1, 3, 9}

// oidAMD is the arc of all of AMD's extensions.
var oidAMD = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 3704, 1}

// extensions reads AMD's extensions (AMD 57230, VCEK and VLEK certificate
// definitions). One that is not known is refused, as it may say what else the
// key was made from.
func (c *Cert) extensions(x *x509.Certificate) error {
	var spl [10]int // by the last number of the OID
	for i := range spl {
		spl[i] = -1
	}
	version, product := -1, ""
	for i := range x.Extensions {
		e := &x.Extensions[i]
		if len(e.Id) < len(oidAMD) || !e.Id[:len(oidAMD)].Equal(oidAMD) {
			continue
		}
		var err error
		switch id := e.Id; {
		case id.Equal(kds.OidStructVersion):
			version, err = readByte(e.Value)
		case id.Equal(kds.OidProductName1):
			product, err = readIA5(e.Value)
		case id.Equal(kds.OidHwid):
			c.ChipID, err = readHWID(e.Value)
		case id.Equal(kds.OidCspID):
			c.CSP, err = readIA5(e.Value)
		case len(id) == len(oidFMC) && id[:len(oidFMC)-1].Equal(oidFMC[:len(oidFMC)-1]) && id[len(id)-1] >= 1 && id[len(id)-1] <= 9:
			spl[id[len(id)-1]], err = readByte(e.Value)
		default:
			err = fmt.Errorf("extension is not known: %w", ErrMalformed)
		}
		if err != nil {
			return fmt.Errorf("reading extension %s: %w", e.Id, err)
		}
	}
	name, _, _ := strings.Cut(product, "-") // Milan's name has its stepping: Milan-B0
	c.Line = report.Product(name)
	switch {
	case c.Line != report.Milan && c.Line != report.Genoa && c.Line != report.Turin:
		return fmt.Errorf("product name %.32q: %w", product, ErrProduct)
	case version < 0 || version > 1:
		return fmt.Errorf("structure version is %d, want 0 or 1: %w", version, ErrMalformed)
	}
	return c.versions(spl)
}

// versions puts the TCB version together and checks that what must be there
// for this product and kind of key is there, and nothing else.
func (c *Cert) versions(spl [10]int) error {
	turin := c.Line == report.Turin
	need := []int{1, 2, 3, 8}
	if turin {
		need = append(need, 9)
	}
	for _, n := range need {
		if spl[n] < 0 {
			return fmt.Errorf("extension %s.3.%d is missing: %w", oidAMD, n, ErrMalformed)
		}
	}
	if !turin && spl[9] >= 0 {
		return fmt.Errorf("a %s certificate has an FMC version: %w", c.Line, ErrMalformed)
	}
	for n := 4; n <= 7; n++ {
		// Reserved; all present on Milan and Genoa, 5 to 7 on Turin. No component
		// has such a number.
		if spl[n] > 0 {
			return fmt.Errorf("reserved component %d has version %d: %w", n, spl[n], ErrMalformed)
		}
	}
	var raw [8]byte
	if turin {
		raw = [8]byte{byte(spl[9]), byte(spl[1]), byte(spl[2]), byte(spl[3]), 0, 0, 0, byte(spl[8])}
	} else {
		raw = [8]byte{byte(spl[1]), byte(spl[2]), 0, 0, 0, 0, byte(spl[3]), byte(spl[8])}
	}
	c.TCB, _ = report.DecodeTCB(raw, c.Line)

	size := 64
	if turin {
		size = 8
	}
	switch c.Signer {
	case report.VCEK:
		if len(c.ChipID) != size || c.CSP != "" {
			return fmt.Errorf("want a chip ID of %d bytes and no provider, have %d bytes and %.32q: %w", size, len(c.ChipID), c.CSP, ErrMalformed)
		}
	case report.VLEK:
		if c.ChipID != nil || c.CSP == "" {
			return fmt.Errorf("want a provider and no chip ID: %w", ErrMalformed)
		}
	default:
		return fmt.Errorf("there are no certificates for signer %q: %w", c.Signer, ErrMalformed)
	}
	return nil
}

// ChipMatches reports whether a report's chip ID is the certificate's. On
// Turin the certificate has the first 8 bytes and the rest is zero. A masked
// ID, all zero, is that of no chip.
func (c *Cert) ChipMatches(id *[64]byte) bool {
	var want [64]byte
	copy(want[:], c.ChipID)
	return *id == want && want != [64]byte{}
}

func readByte(v []byte) (int, error) {
	in := cryptobyte.String(v)
	var n int
	if !in.ReadASN1Integer(&n) || !in.Empty() || n < 0 || n > 255 {
		return -1, fmt.Errorf("not an integer of 0 to 255: %w", ErrMalformed)
	}
	return n, nil
}

func readIA5(v []byte) (string, error) {
	in, out := cryptobyte.String(v), cryptobyte.String(nil)
	if !in.ReadASN1(&out, cbasn1.IA5String) || !in.Empty() || len(out) == 0 || len(out) > 256 {
		return "", fmt.Errorf("not an IA5String of 1 to 256 bytes: %w", ErrMalformed)
	}
	for _, b := range out {
		if b < 0x20 || b > 0x7E {
			return "", fmt.Errorf("IA5String has control characters: %w", ErrMalformed)
		}
	}
	return string(out), nil
}

// readHWID reads hwID: the bytes themselves, as the KDS writes them, or in an
// OCTET STRING, as the document has it.
func readHWID(v []byte) ([]byte, error) {
	if len(v) == 64 || len(v) == 8 {
		return bytes.Clone(v), nil
	}
	in, out := cryptobyte.String(v), cryptobyte.String(nil)
	if !in.ReadASN1(&out, cbasn1.OCTET_STRING) || !in.Empty() || (len(out) != 64 && len(out) != 8) {
		return nil, fmt.Errorf("not 64 or 8 bytes: %w", ErrMalformed)
	}
	return bytes.Clone(out), nil
}

// derLength returns the length of the DER element that data starts with.
func derLength(data []byte) (int, error) {
	in, out := cryptobyte.String(data), cryptobyte.String(nil)
	if !in.ReadASN1Element(&out, cbasn1.SEQUENCE) {
		return 0, fmt.Errorf("truncated DER: %w", ErrMalformed)
	}
	return len(out), nil
}

package snptest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha512"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"

	"github.com/google/go-sev-guest/abi"
	"github.com/google/uuid"

	"cocoon/verifier/snp/report"
)

// Report is a report to be made.
type Report struct {
	Version                              uint32
	Product                              report.Product
	Signer                               report.Signer
	GuestSVN, VMPL                       uint32
	Policy                               uint64
	PlatformInfo                         uint64
	FamilyID, ImageID                    [16]byte
	ReportData                           [64]byte
	LaunchDigest                         [48]byte
	HostData                             [32]byte
	ReportID                             [32]byte
	ChipID                               [64]byte
	Reported, Current, Committed, Launch report.TCB
	CurrentFirmware, CommittedFirmware   report.Firmware
	LaunchMitigations, Mitigations       uint64

	KeyName   string // of the key that signs; certificates name the same
	IDKey     string // name of an ID key; empty: launched without an ID block
	AuthorKey string // name of an author key; empty: none
}

// TCB returns a TCB version in a product's layout.
func TCB(p report.Product, fmc, bootloader, tee, snp, microcode uint8) report.TCB {
	b := [8]byte{bootloader, tee, 0, 0, 0, 0, snp, microcode}
	if p == report.Turin {
		b = [8]byte{fmc, bootloader, tee, snp, 0, 0, 0, microcode}
	}
	t, _ := report.DecodeTCB(b, p)
	return t
}

// Default returns a good report of a product and a version.
func Default(version uint32, p report.Product, s report.Signer) Report {
	t := TCB(p, 1, 4, 2, 24, 219)
	fw := report.Firmware{Major: 1, Minor: 55, Build: 29}
	r := Report{Version: version, Product: p, Signer: s, GuestSVN: 3, Policy: 0x3001F, PlatformInfo: 0x25,
		FamilyID: [16]byte{0xFA}, ImageID: [16]byte{0x1A}, ReportData: [64]byte{0xDA, 0x7A}, LaunchDigest: [48]byte{0x1D},
		HostData: [32]byte{0x4D}, ReportID: [32]byte{0x1D, 0x1D},
		Reported: t, Current: t, Committed: t, Launch: t, CurrentFirmware: fw, CommittedFirmware: fw, KeyName: "leaf"}
	if s == report.VCEK {
		n := 64
		if p == report.Turin {
			n = 8
		}
		copy(r.ChipID[:], bytes.Repeat([]byte{0xC1}, n))
	}
	if p == report.Turin {
		r.PlatformInfo |= 1 << 6 // as its firmware does
	}
	if version >= 5 {
		r.LaunchMitigations, r.Mitigations = 0x3, 0xB
	}
	return r
}

// CertFor returns the certificate that fits a report.
func CertFor(r *Report) Cert {
	c := Cert{Signer: r.Signer, Line: r.Product.Line(), ProductName: string(r.Product.Line()), TCB: r.Reported,
		NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(6, 0, 0), KeyName: r.KeyName, Serial: SerialLeaf}
	if c.Line == report.Milan {
		c.ProductName = "Milan-B0"
	}
	if r.Signer == report.VLEK {
		c.CSP = "CN=provider.test.invalid"
		return c
	}
	c.ChipID = append([]byte(nil), r.ChipID[:]...)
	if r.Product == report.Turin {
		c.ChipID = c.ChipID[:8]
	}
	return c
}

// cpus are family, model and stepping of each product.
var cpus = map[report.Product][3]byte{
	report.Milan: {0x19, 0x01, 1}, report.Genoa: {0x19, 0x11, 1}, report.Siena: {0x19, 0xA0, 2}, report.Turin: {0x1A, 0x02, 1},
}

// Report makes and signs a report.
func (p *PKI) Report(r *Report) ([]byte, error) {
	b := make([]byte, report.Size)
	le := binary.LittleEndian
	le.PutUint32(b, r.Version)
	le.PutUint32(b[4:], r.GuestSVN)
	le.PutUint64(b[8:], r.Policy)
	copy(b[0x10:], r.FamilyID[:])
	copy(b[0x20:], r.ImageID[:])
	le.PutUint32(b[0x30:], r.VMPL)
	le.PutUint32(b[0x34:], 1)
	copy(b[0x38:], r.Current.Raw[:])
	le.PutUint64(b[0x40:], r.PlatformInfo)
	flags := map[report.Signer]uint32{report.VCEK: 0, report.VLEK: 1, report.None: 7}[r.Signer] << 2
	if r.AuthorKey != "" {
		flags |= 1
	}
	le.PutUint32(b[0x48:], flags)
	copy(b[0x50:], r.ReportData[:])
	copy(b[0x90:], r.LaunchDigest[:])
	copy(b[0xC0:], r.HostData[:])
	for at, name := range map[int]string{0xE0: r.IDKey, 0x110: r.AuthorKey} {
		if name == "" {
			continue
		}
		key, err := p.amdKey(name)
		if err != nil {
			return nil, err
		}
		sum := sha512.Sum384(key)
		copy(b[at:], sum[:])
	}
	copy(b[0x140:], r.ReportID[:])
	copy(b[0x160:], bytes.Repeat([]byte{0xFF}, 32))
	copy(b[0x180:], r.Reported.Raw[:])
	if r.Version >= 3 {
		cpu := cpus[r.Product]
		copy(b[0x188:], cpu[:])
	}
	copy(b[0x1A0:], r.ChipID[:])
	copy(b[0x1E0:], r.Committed.Raw[:])
	copy(b[0x1E8:], []byte{r.CurrentFirmware.Build, r.CurrentFirmware.Minor, r.CurrentFirmware.Major, 0,
		r.CommittedFirmware.Build, r.CommittedFirmware.Minor, r.CommittedFirmware.Major})
	copy(b[0x1F0:], r.Launch.Raw[:])
	le.PutUint64(b[0x1F8:], r.LaunchMitigations)
	le.PutUint64(b[0x200:], r.Mitigations)
	return b, p.Sign(b, r.KeyName)
}

// Sign signs a report anew, whatever stands in it.
func (p *PKI) Sign(b []byte, keyName string) error {
	sig, err := p.sign(keyName, b[:report.SignedSize])
	if err != nil {
		return err
	}
	copy(b[report.SignedSize:], sig)
	return nil
}

// sign returns a signature in AMD's format: r and s, 72 bytes each, little-
// endian, then zeroes; 512 bytes in all.
func (p *PKI) sign(name string, data []byte) ([]byte, error) {
	key, err := p.key(name)
	if err != nil {
		return nil, err
	}
	digest := sha512.Sum384(data)
	der, err := ecdsa.SignASN1(rand.Reader, key, digest[:])
	if err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	var rs struct{ R, S *big.Int }
	if _, err := asn1.Unmarshal(der, &rs); err != nil {
		return nil, fmt.Errorf("signing: %w", err)
	}
	out := make([]byte, 512)
	littleEndian(out, rs.R)
	littleEndian(out[72:], rs.S)
	return out, nil
}

// amdKey returns a public key in AMD's format: curve, x, y, 1028 bytes.
func (p *PKI) amdKey(name string) ([]byte, error) {
	key, err := p.key(name)
	if err != nil {
		return nil, err
	}
	point, err := key.PublicKey.Bytes()
	if err != nil {
		return nil, fmt.Errorf("encoding key: %w", err)
	}
	out := make([]byte, 0x404)
	binary.LittleEndian.PutUint32(out, 2)
	littleEndian(out[4:], new(big.Int).SetBytes(point[1:49]))
	littleEndian(out[4+72:], new(big.Int).SetBytes(point[49:]))
	return out, nil
}

func littleEndian(to []byte, n *big.Int) {
	var b [48]byte
	n.FillBytes(b[:])
	for i := range b {
		to[i] = b[47-i]
	}
}

// IDBlock makes the ID block and ID authentication that a guest with this
// report was launched with.
func (p *PKI) IDBlock(r *Report) (block, auth []byte, err error) {
	block, auth = make([]byte, 96), make([]byte, 4096)
	le := binary.LittleEndian
	copy(block, r.LaunchDigest[:])
	copy(block[0x30:], r.FamilyID[:])
	copy(block[0x40:], r.ImageID[:])
	le.PutUint32(block[0x50:], 1)
	le.PutUint32(block[0x54:], r.GuestSVN)
	le.PutUint64(block[0x58:], r.Policy)
	put := func(at int, b []byte, e error) {
		copy(auth[at:], b)
		if err == nil {
			err = e
		}
	}
	le.PutUint32(auth, 1)
	idKey, e := p.amdKey(r.IDKey)
	put(0x240, idKey, e)
	sig, e := p.sign(r.IDKey, block)
	put(0x40, sig, e)
	if r.AuthorKey != "" {
		le.PutUint32(auth[4:], 1)
		key, e := p.amdKey(r.AuthorKey)
		put(0x880, key, e)
		sig, e := p.sign(r.AuthorKey, idKey)
		put(0x680, sig, e)
	}
	return block, auth, err
}

// Table returns a report with a certificate table behind it: leaf, ASK or ASVK
// and ARK, all in DER.
func (p *PKI) Table(raw []byte, s report.Signer, name report.Product, leaf []byte) []byte {
	l := p.lines[name.Line()]
	guid := abi.VcekGUID
	if s == report.VLEK {
		guid = abi.VlekGUID
	}
	parts := []struct {
		guid string
		der  []byte
	}{{guid, leaf}, {abi.AskGUID, l.issuer(s).cert.Raw}, {abi.ArkGUID, l.ark.cert.Raw}}
	head := make([]byte, 24*(len(parts)+1))
	out := append([]byte(nil), raw...)
	var body []byte
	for i, part := range parts {
		guid := uuid.MustParse(part.guid)
		copy(head[24*i:], guid[:])
		binary.LittleEndian.PutUint32(head[24*i+16:], uint32(len(head)+len(body)))
		binary.LittleEndian.PutUint32(head[24*i+20:], uint32(len(part.der)))
		body = append(body, part.der...)
	}
	return append(append(out, head...), body...)
}

// Make makes a report with the certificate that fits it, in DER.
func (p *PKI) Make(r *Report) (raw, cert []byte, err error) {
	if raw, err = p.Report(r); err != nil {
		return nil, nil, err
	}
	c := CertFor(r)
	cert, err = p.Certificate(&c)
	return raw, cert, err
}

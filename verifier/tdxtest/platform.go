package tdxtest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"math/big"
	"time"

	"golang.org/x/crypto/cryptobyte"
	cbasn1 "golang.org/x/crypto/cryptobyte/asn1"

	"cocoon/verifier/pck"
)

// Platform is what a PCK certificate says of a platform.
type Platform struct {
	CA         pck.CA // "": PlatformCA
	FMSPC      [6]byte
	PCEID      [2]byte
	PPID       [16]byte
	Components [16]byte
	CPUSVN     [16]byte
	PCESVN     uint16
	SGXType    int

	// The rest is in certificates of the Platform CA only.
	InstanceID      [16]byte
	DynamicPlatform bool
	CachedKeys      bool
	SMTEnabled      bool

	Serial              int64     // 0: SerialPCK
	NotBefore, NotAfter time.Time // zero: as the CA's
}

// DefaultPlatform is a platform whose components are all 10, PCESVN 13.
func DefaultPlatform() Platform {
	p := Platform{FMSPC: [6]byte{0x90, 0xc0, 0x6f, 0, 0, 0}, PCESVN: 13, SGXType: 1}
	for i := range p.Components {
		p.Components[i], p.CPUSVN[i], p.PPID[i], p.InstanceID[i] = 10, 10, byte(i), byte(0xf0+i)
	}
	return p
}

// PCKChain makes the platform's PCK certificate chain in PEM.
func (p *PKI) PCKChain(pl *Platform) ([]byte, error) {
	leaf, err := p.pck(pl)
	if err != nil {
		return nil, err
	}
	chain := append([]byte(nil), leaf.pem...)
	chain = append(chain, p.ca(pl.CA).pem...)
	return append(chain, p.root.pem...), nil
}

func (p *PKI) pck(pl *Platform) (*authority, error) {
	ext, err := pl.extension()
	if err != nil {
		return nil, err
	}
	issuer := p.ca(pl.CA)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(pl.Serial), Subject: subject("Cocoon Test SGX PCK Certificate"),
		NotBefore: pl.NotBefore, NotAfter: pl.NotAfter, BasicConstraintsValid: true,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageContentCommitment, SignatureAlgorithm: x509.ECDSAWithSHA256,
		ExtraExtensions: []pkix.Extension{{Id: oidSGX, Value: ext}},
	}
	if pl.Serial == 0 {
		tmpl.SerialNumber.SetInt64(SerialPCK)
	}
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = issuer.cert.NotBefore
	}
	if tmpl.NotAfter.IsZero() {
		tmpl.NotAfter = issuer.cert.NotAfter
	}
	key, err := p.key("PCK")
	if err != nil {
		return nil, err
	}
	return p.issue(tmpl, key, issuer)
}

var oidSGX = asn1.ObjectIdentifier{1, 2, 840, 113741, 1, 13, 1}

// extension encodes the SGX extension of the PCK certificate profile, 1.3.5.
func (pl *Platform) extension() ([]byte, error) {
	var b cryptobyte.Builder
	oid := func(n ...int) asn1.ObjectIdentifier { return append(append(asn1.ObjectIdentifier{}, oidSGX...), n...) }
	item := func(b *cryptobyte.Builder, id asn1.ObjectIdentifier, value func(b *cryptobyte.Builder)) {
		b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
			b.AddASN1ObjectIdentifier(id)
			value(b)
		})
	}
	octets := func(v []byte) func(*cryptobyte.Builder) {
		return func(b *cryptobyte.Builder) { b.AddASN1OctetString(v) }
	}
	b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
		item(b, oid(1), octets(pl.PPID[:]))
		item(b, oid(2), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for i, svn := range pl.Components {
					item(b, oid(2, i+1), func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(svn)) })
				}
				item(b, oid(2, 17), func(b *cryptobyte.Builder) { b.AddASN1Uint64(uint64(pl.PCESVN)) })
				item(b, oid(2, 18), octets(pl.CPUSVN[:]))
			})
		})
		item(b, oid(3), octets(pl.PCEID[:]))
		item(b, oid(4), octets(pl.FMSPC[:]))
		item(b, oid(5), func(b *cryptobyte.Builder) { b.AddASN1Enum(int64(pl.SGXType)) })
		if pl.CA == pck.ProcessorCA {
			return
		}
		item(b, oid(6), octets(pl.InstanceID[:]))
		item(b, oid(7), func(b *cryptobyte.Builder) {
			b.AddASN1(cbasn1.SEQUENCE, func(b *cryptobyte.Builder) {
				for i, flag := range []bool{pl.DynamicPlatform, pl.CachedKeys, pl.SMTEnabled} {
					item(b, oid(7, i+1), func(b *cryptobyte.Builder) { b.AddASN1Boolean(flag) })
				}
			})
		})
	})
	return b.Bytes()
}

// rawSignature turns an ASN.1 ECDSA signature into r then s.
func rawSignature(der []byte) ([]byte, error) {
	in := cryptobyte.String(der)
	var seq cryptobyte.String
	r, s := new(big.Int), new(big.Int)
	if !in.ReadASN1(&seq, cbasn1.SEQUENCE) || !seq.ReadASN1Integer(r) || !seq.ReadASN1Integer(s) {
		return nil, errors.New("reading a signature")
	}
	out := make([]byte, 64)
	r.FillBytes(out[:32])
	s.FillBytes(out[32:])
	return out, nil
}

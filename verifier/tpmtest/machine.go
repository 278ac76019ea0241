// Package tpmtest makes evidence of TPMs that do not exist: a machine with
// keys of its own, a boot log, quotes, and the manifest and policy that go
// with it. It is for tests; its certificates lead to authorities that are made
// anew each time and that nothing real trusts.
package tpmtest

import (
	"crypto"
	"crypto/aes"
	"crypto/cipher"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"time"

	"github.com/google/go-tpm/tpm2"

	"cocoon/measurements/digest"
	"cocoon/measurements/pcr"
	"cocoon/verifier/tpm"
)

// Now is the time at which everything here is good.
var Now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// T is what is needed of a test: *testing.T and testscript's T have it.
type T interface{ Fatal(args ...any) }

// helper marks the caller as a test helper where the test knows such.
func helper(t T) {
	if h, ok := t.(interface{ Helper() }); ok {
		h.Helper()
	}
}

// EKCA is an authority for endorsement keys.
type EKCA struct {
	Cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

// NewEKCA makes an authority.
func NewEKCA(t T, name string) *EKCA {
	helper(t)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name},
		NotBefore: Now.AddDate(-1, 0, 0), NotAfter: Now.AddDate(9, 0, 0),
		KeyUsage: x509.KeyUsageCertSign, BasicConstraintsValid: true, IsCA: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	check(t, err)
	cert, err := x509.ParseCertificate(der)
	check(t, err)
	return &EKCA{cert, key}
}

// TPM is a TPM's keys, in the open.
type TPM struct {
	EK       *rsa.PrivateKey
	AK       *ecdsa.PrivateKey
	EKPublic []byte   // TPMT_PUBLIC
	AKPublic []byte   // TPMT_PUBLIC
	EKChain  [][]byte // DER
	name     []byte   // of the AK
}

// NewTPM makes a TPM whose endorsement key the authority certifies.
func NewTPM(t T, ca *EKCA) *TPM {
	helper(t)
	ek, err := rsa.GenerateKey(rand.Reader, 2048)
	check(t, err)
	ak, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	check(t, err)
	m := &TPM{EK: ek, AK: ak}
	ekp := tpm2.RSAEKTemplate
	ekp.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgRSA, &tpm2.TPM2BPublicKeyRSA{Buffer: ek.N.Bytes()})
	m.EKPublic = tpm2.Marshal(ekp)
	akp := tpm.AKTemplate()
	akp.Unique = tpm2.NewTPMUPublicID(tpm2.TPMAlgECC, &tpm2.TPMSECCPoint{
		X: tpm2.TPM2BECCParameter{Buffer: ak.X.FillBytes(make([]byte, 32))},
		Y: tpm2.TPM2BECCParameter{Buffer: ak.Y.FillBytes(make([]byte, 32))},
	})
	m.AKPublic = tpm2.Marshal(akp)
	name, err := tpm2.ObjectName(&akp)
	check(t, err)
	m.name = name.Buffer
	m.EKChain = [][]byte{ca.certify(t, &ek.PublicKey, asn1.ObjectIdentifier{2, 23, 133, 8, 1})}
	return m
}

// certify issues an EK certificate with the critical directory name that real
// ones have.
func (ca *EKCA) certify(t T, key crypto.PublicKey, usage asn1.ObjectIdentifier) []byte {
	helper(t)
	name, err := asn1.Marshal(pkix.Name{CommonName: "id:00001014"}.ToRDNSequence())
	check(t, err)
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	check(t, err)
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: Now.AddDate(0, -1, 0), NotAfter: Now.AddDate(5, 0, 0),
		KeyUsage: x509.KeyUsageKeyEncipherment, BasicConstraintsValid: true,
		UnknownExtKeyUsage: []asn1.ObjectIdentifier{usage},
		ExtraExtensions:    []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Critical: true, Value: san}},
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Cert, key, ca.key)
	check(t, err)
	return der
}

// Activate does what TPM2_ActivateCredential does with both keys (TPM 2.0
// Library, Part 1, section 24).
func (m *TPM) Activate(blob, secret []byte) ([]byte, error) {
	seed, err := rsa.DecryptOAEP(sha256.New(), nil, m.EK, secret, []byte("IDENTITY\x00"))
	if err != nil {
		return nil, fmt.Errorf("recovering seed: %w", err)
	}
	if len(blob) < 34 {
		return nil, fmt.Errorf("credential of %d bytes", len(blob))
	}
	mac, enc := blob[2:34], blob[34:]
	h := hmac.New(sha256.New, tpm2.KDFa(crypto.SHA256, seed, "INTEGRITY", nil, nil, 256))
	h.Write(enc)
	h.Write(m.name)
	if !hmac.Equal(h.Sum(nil), mac) {
		return nil, fmt.Errorf("credential is not for this key")
	}
	block, err := aes.NewCipher(tpm2.KDFa(crypto.SHA256, seed, "STORAGE", m.name, nil, 128))
	if err != nil {
		return nil, err
	}
	out := decryptCFB(block, enc)
	if int(binary.BigEndian.Uint16(out)) != len(out)-2 {
		return nil, fmt.Errorf("credential of a wrong size")
	}
	return out[2:], nil
}

// decryptCFB is the TPM's symmetric mode: AES in CFB with a zero
// initialisation vector (TPM 2.0 Library, Part 1, section 11.4.9).
func decryptCFB(block cipher.Block, in []byte) []byte {
	out := make([]byte, len(in))
	prev, pad := make([]byte, aes.BlockSize), make([]byte, aes.BlockSize)
	for i := 0; i < len(in); i += aes.BlockSize {
		block.Encrypt(pad, prev)
		n := subtle.XORBytes(out[i:], in[i:], pad)
		copy(prev, in[i:i+n])
	}
	return out
}

// Quote signs registers as TPM2_Quote does, and returns TPMS_ATTEST and
// TPMT_SIGNATURE.
func (m *TPM) Quote(t T, extra [32]byte, regs pcr.Values) (attest, signature []byte) {
	helper(t)
	var all []byte
	for _, n := range tpm.PCRs() {
		v := regs[int(n)]
		all = append(all, v[:]...)
	}
	sum := sha256.Sum256(all)
	attest = tpm2.Marshal(tpm2.TPMSAttest{
		Magic: tpm2.TPMGeneratedValue, Type: tpm2.TPMSTAttestQuote,
		QualifiedSigner: tpm2.TPM2BName{Buffer: m.name}, ExtraData: tpm2.TPM2BData{Buffer: extra[:]},
		ClockInfo: tpm2.TPMSClockInfo{Clock: 12345, ResetCount: 1, Safe: true}, FirmwareVersion: 0x2024012500120000,
		Attested: tpm2.NewTPMUAttest(tpm2.TPMSTAttestQuote, &tpm2.TPMSQuoteInfo{
			PCRSelect: tpm.Selection(), PCRDigest: tpm2.TPM2BDigest{Buffer: sum[:]},
		}),
	})
	return attest, m.Sign(t, attest)
}

// Sign signs bytes with the attestation key, which a TPM would do for what it
// made itself only.
func (m *TPM) Sign(t T, message []byte) []byte {
	helper(t)
	sum := sha256.Sum256(message)
	r, s, err := ecdsa.Sign(rand.Reader, m.AK, sum[:])
	check(t, err)
	return tpm2.Marshal(tpm2.TPMTSignature{
		SigAlg: tpm2.TPMAlgECDSA,
		Signature: tpm2.NewTPMUSignature(tpm2.TPMAlgECDSA, &tpm2.TPMSSignatureECC{
			Hash:       tpm2.TPMAlgSHA256,
			SignatureR: tpm2.TPM2BECCParameter{Buffer: r.FillBytes(make([]byte, 32))},
			SignatureS: tpm2.TPM2BECCParameter{Buffer: s.FillBytes(make([]byte, 32))},
		}),
	})
}

// LogEvent is an event of a boot log; its digest is the SHA-256 of Of, or
// Digest where that is set.
type LogEvent struct {
	PCR    uint32
	Type   uint32
	Of     []byte
	Digest digest.SHA256
	Data   []byte
}

// Log returns a crypto-agile log with a SHA-256 bank.
func Log(events []LogEvent) []byte {
	le := binary.LittleEndian
	spec := []byte("Spec ID Event03\x00\x00\x00\x00\x00\x00\x02\x00\x02\x01\x00\x00\x00\x0b\x00\x20\x00\x00")
	b := make([]byte, 28)
	le.PutUint32(b[4:], 3)
	b = append(le.AppendUint32(b, uint32(len(spec))), spec...)
	for _, e := range events {
		d := e.Digest
		if d.IsZero() {
			d = digest.Sum256(e.Of)
		}
		b = le.AppendUint32(b, e.PCR)
		b = le.AppendUint32(b, e.Type)
		b = le.AppendUint32(b, 1)
		b = le.AppendUint16(b, 0x000b)
		b = append(b, d[:]...)
		b = le.AppendUint32(b, uint32(len(e.Data)))
		b = append(b, e.Data...)
	}
	return b
}

func check(t T, err error) {
	helper(t)
	if err != nil {
		t.Fatal(err)
	}
}

// Roots returns the authority's certificate as a list of roots.
func (ca *EKCA) Roots() []*x509.Certificate { return []*x509.Certificate{ca.Cert} }

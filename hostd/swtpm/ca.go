// Package swtpm makes and runs the software TPMs of virtual machines, and
// keeps the certificate authority that vouches for them.
//
// It is for development: a software TPM lives in a process of the host, so
// its keys are the host's to read. Evidence signed by it shows how measured
// boot works, not that anything is confidential; that is why its authority
// says so in its name and why only the trust class "vtpm" accepts it
// (DESIGN section 2).
package swtpm

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"cocoon/hostd/spec"
	"cocoon/internal/durable"
	"cocoon/internal/fault"
)

// CAName begins the common name of every authority that this package makes.
const CAName = "software TPM CA for development only, not a hardware root"

// Validity of an authority and of the certificates it issues.
const (
	caValidity = 10 * 365 * 24 * time.Hour
	ekValidity = 5 * 365 * 24 * time.Hour
)

// TCG object identifiers (TCG EK Credential Profile for TPM Family 2.0,
// version 2.5, sections 3.2.9 and 3.2.16).
var (
	oidTPMManufacturer = asn1.ObjectIdentifier{2, 23, 133, 2, 1}
	oidTPMModel        = asn1.ObjectIdentifier{2, 23, 133, 2, 2}
	oidTPMVersion      = asn1.ObjectIdentifier{2, 23, 133, 2, 3}
	oidTPMSpec         = asn1.ObjectIdentifier{2, 23, 133, 2, 16}
	oidEKCertificate   = asn1.ObjectIdentifier{2, 23, 133, 8, 1}

	oidSubjectAltName          = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidSubjectDirectoryAttribs = asn1.ObjectIdentifier{2, 5, 29, 9}
)

// CA issues endorsement key certificates for software TPMs.
type CA struct {
	Name string
	Root *x509.Certificate
	key  *ecdsa.PrivateKey
	now  func() time.Time
}

// OpenCA reads the authority called name from dir, and makes it where it does
// not exist yet. Files: NAME.pem, and NAME.key with mode 0600.
func OpenCA(dir, name string, now func() time.Time) (*CA, error) {
	if !spec.ValidName(name) {
		return nil, fmt.Errorf("opening software TPM CA: name %.64q is not a name", name)
	}
	ca, err := readCA(dir, name, now)
	if errors.Is(err, os.ErrNotExist) {
		return newCA(dir, name, now)
	}
	if err != nil {
		return nil, fault.New(fault.ExitInternal, "vm.tpm.ca", "restore the authority's files, or remove both to make a new one; policies then need its new root",
			"opening software TPM CA %s: %w", name, err)
	}
	return ca, nil
}

// RootPEM returns the root certificate, for policies that accept this
// authority's TPMs.
func (ca *CA) RootPEM() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Root.Raw})
}

func readCA(dir, name string, now func() time.Time) (*CA, error) {
	certPEM, err := os.ReadFile(filepath.Join(dir, name+".pem"))
	if err != nil {
		return nil, err
	}
	keyPEM, err := os.ReadFile(filepath.Join(dir, name+".key"))
	if err != nil {
		return nil, err
	}
	cb, _ := pem.Decode(certPEM)
	kb, _ := pem.Decode(keyPEM)
	if cb == nil || kb == nil {
		return nil, errors.New("not PEM")
	}
	root, err := x509.ParseCertificate(cb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing root: %w", err)
	}
	k, err := x509.ParsePKCS8PrivateKey(kb.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parsing key: %w", err)
	}
	key, ok := k.(*ecdsa.PrivateKey)
	if !ok || !key.PublicKey.Equal(root.PublicKey) {
		return nil, errors.New("key and root do not belong together")
	}
	return &CA{Name: name, Root: root, key: key, now: now}, nil
}

func newCA(dir, name string, now func() time.Time) (*CA, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("making software TPM CA: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	t := now().UTC().Truncate(time.Second)
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: fmt.Sprintf("%s (%s %x)", CAName, name, serial.Bytes()[:4]), Organization: []string{"Cocoon"}},
		NotBefore:             t.Add(-time.Hour),
		NotAfter:              t.Add(caValidity),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making software TPM CA: %w", err)
	}
	root, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("making software TPM CA: %w", err)
	}
	k, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("making software TPM CA: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("making software TPM CA: %w", err)
	}
	ca := &CA{Name: name, Root: root, key: key, now: now}
	// The certificate comes last: readCA looks for it first, so that a crash
	// between the two leaves an authority that does not exist yet.
	if err := durable.Write(filepath.Join(dir, name+".key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: k}), 0o600); err != nil {
		return nil, err
	}
	if err := durable.Write(filepath.Join(dir, name+".pem"), ca.RootPEM(), 0o644); err != nil {
		return nil, err
	}
	return ca, nil
}

// Identity describes a TPM to its certificate.
type Identity struct {
	Manufacturer string // "id:" and 8 hex digits
	Model        string
	Version      string // "id:" and 8 hex digits
	Level        int    // of the specification
	Revision     int    // of the specification
}

// IssueEK issues the certificate of an endorsement key: an RSA-2048 key for
// decryption. The TPM is described in the subject alternative name, as a
// directory name (EK Credential Profile, section 3.2.9); the subject is not
// empty, so that extension is not critical.
func (ca *CA) IssueEK(pub any, id Identity) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	san, err := tpmSAN(id)
	if err != nil {
		return nil, err
	}
	attrs, err := tpmSpecAttribute(id)
	if err != nil {
		return nil, err
	}
	der, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, fmt.Errorf("issuing EK certificate: %w", err)
	}
	ski := sha256.Sum256(der)
	t := ca.now().UTC().Truncate(time.Second)
	tmpl := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "software TPM, development only"},
		NotBefore:             t.Add(-time.Hour),
		NotAfter:              t.Add(ekValidity),
		KeyUsage:              x509.KeyUsageKeyEncipherment,
		UnknownExtKeyUsage:    []asn1.ObjectIdentifier{oidEKCertificate},
		BasicConstraintsValid: true,
		SubjectKeyId:          ski[:20],
		ExtraExtensions: []pkix.Extension{
			{Id: oidSubjectAltName, Value: san},
			{Id: oidSubjectDirectoryAttribs, Value: attrs},
		},
	}
	certDER, err := x509.CreateCertificate(rand.Reader, tmpl, ca.Root, pub, ca.key)
	if err != nil {
		return nil, fmt.Errorf("issuing EK certificate: %w", err)
	}
	cert, err := x509.ParseCertificate(certDER)
	if err != nil {
		return nil, fmt.Errorf("issuing EK certificate: %w", err)
	}
	return cert, nil
}

// tpmSAN returns GeneralNames with one directoryName of three attributes.
func tpmSAN(id Identity) ([]byte, error) {
	var rdn pkix.RDNSequence
	for _, a := range []struct {
		oid asn1.ObjectIdentifier
		v   string
	}{{oidTPMManufacturer, id.Manufacturer}, {oidTPMModel, id.Model}, {oidTPMVersion, id.Version}} {
		rdn = append(rdn, pkix.RelativeDistinguishedNameSET{{Type: a.oid, Value: a.v}})
	}
	name, err := asn1.Marshal(rdn)
	if err != nil {
		return nil, fmt.Errorf("encoding TPM name: %w", err)
	}
	// directoryName is [4] EXPLICIT, since Name is a CHOICE (RFC 5280, 4.2.1.6).
	san, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: name}})
	if err != nil {
		return nil, fmt.Errorf("encoding TPM name: %w", err)
	}
	return san, nil
}

// tpmSpecAttribute returns SubjectDirectoryAttributes with the
// TPMSpecification (EK Credential Profile, section 3.2.10).
func tpmSpecAttribute(id Identity) ([]byte, error) {
	type tpmSpec struct {
		Family   string `asn1:"utf8"`
		Level    int
		Revision int
	}
	type attribute struct {
		ID     asn1.ObjectIdentifier
		Values []tpmSpec `asn1:"set"`
	}
	b, err := asn1.Marshal([]attribute{{oidTPMSpec, []tpmSpec{{"2.0", id.Level, id.Revision}}}})
	if err != nil {
		return nil, fmt.Errorf("encoding TPM specification: %w", err)
	}
	return b, nil
}

func newSerial() (*big.Int, error) {
	b := make([]byte, 16)
	if _, err := rand.Read(b); err != nil {
		return nil, fmt.Errorf("drawing serial number: %w", err)
	}
	b[0] = b[0]&0x7f | 0x40 // positive, and always 16 bytes
	return new(big.Int).SetBytes(b), nil
}

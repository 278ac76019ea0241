// Package pck verifies Intel provisioning certification keys (PCK): a PCK
// certificate chain as PEM comes in; the key and the SGX extensions of the
// leaf go out, when the chain ends in a pinned root. It also reads CRLs.
//
// Shapes: "Intel SGX PCK Certificate and Certificate Revocation List Profile
// Specification", revision 1.5; X.509: RFC 5280.
package pck

import (
	"crypto/ecdsa"
	"crypto/x509"
	"time"
)

// CA tells the two certification authorities for PCK certificates apart.
type CA string

// The PCK CAs, spelled as in the "ca" parameter of Intel's PCS.
const (
	PlatformCA  CA = "platform"
	ProcessorCA CA = "processor"
)

// Extensions are the SGX extensions (OID 1.2.840.113741.1.13.1) of a PCK
// certificate.
type Extensions struct {
	PPID       [16]byte
	Components [16]byte // TCB component SVNs 1 to 16
	CPUSVN     [16]byte // as the processor encodes it
	PCESVN     uint16
	PCEID      [2]byte // most significant byte first, as in TCB info
	FMSPC      [6]byte
	SGXType    int // 0 standard, 1 scalable, 2 scalable with integrity

	PlatformInstanceID []byte // 16 bytes, Platform CA only, else nil
	DynamicPlatform    *bool  // nil: not stated
	CachedKeys         *bool
	SMTEnabled         *bool
}

// Chain is a verified PCK chain. It is immutable.
type Chain struct {
	Leaf         *x509.Certificate
	Intermediate *x509.Certificate
	CA           CA
	Key          *ecdsa.PublicKey // of the leaf, P-256
	Extensions   Extensions
	NotBefore    time.Time // latest NotBefore of leaf, intermediate and root
	NotAfter     time.Time // earliest NotAfter of the three
}

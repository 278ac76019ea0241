// Package collateral verifies what Intel publishes to judge a quote by: TCB
// info, QE identity and CRLs with their issuer chains come in as bytes; an
// immutable Set of parsed, authenticated parts goes out.
//
// Definitions: Intel PCS API v4; "Intel SGX PCK Certificate and Certificate
// Revocation List Profile Specification".
package collateral

import (
	"time"

	"cocoon/verifier/pck"
	"cocoon/verifier/tcb"
)

// Raw is collateral as it was fetched, unverified. PEM chains have the leaf
// first; signatures are 64 bytes, r then s, most significant byte first.
type Raw struct {
	PCKCRLIssuerChain     []byte // PEM: PCK CA, root
	RootCACRL             []byte // DER
	PCKCRL                []byte // DER
	TCBInfoIssuerChain    []byte // PEM: TCB signing, root
	TCBInfo               []byte // the exact bytes that are signed
	TCBInfoSignature      []byte
	QEIdentityIssuerChain []byte // PEM: TCB signing, root
	QEIdentity            []byte // the exact bytes that are signed
	QEIdentitySignature   []byte
}

// Part is one dated part of a Set. IssueDate and NextUpdate are those of the
// document, or NotBefore and NotAfter of an issuer chain.
type Part struct {
	Name       string    `json:"name"`
	IssueDate  time.Time `json:"issue_date"`
	NextUpdate time.Time `json:"next_update"`
}

// Names of parts.
const (
	PartTCBInfo    = "tcb_info"
	PartQEIdentity = "qe_identity"
	PartPCKCRL     = "pck_crl"
	PartRootCRL    = "root_ca_crl"
	PartTCBChain   = "tcb_info_issuer_chain"
	PartQEChain    = "qe_identity_issuer_chain"
	PartCRLChain   = "pck_crl_issuer_chain"
)

// Options of Verify. The zero value trusts Intel's root at the present time.
type Options struct {
	Roots *pck.Roots    // nil: Intel's production root
	Now   time.Time     // zero: the present
	Grace time.Duration // how long after its next update a part is still taken
}

// Set is authenticated collateral. It is immutable and safe for concurrent
// use; nothing that its methods return may be changed.
type Set struct {
	raw     *Raw
	info    *tcb.Info
	qe      *tcb.QEIdentity
	rootCRL *pck.CRL
	pckCRL  *pck.CRL
	ca      pck.CA
	issuer  *pck.Issued
	roots   *pck.Roots
	parts   []Part
	hash    [32]byte
	summary Summary
}

// Summary is what is reported of a set: dates and numbers.
type Summary struct {
	EarliestIssue  time.Time `json:"earliest_issue,omitzero"`
	LatestIssue    time.Time `json:"latest_issue,omitzero"`
	EarliestExpiry time.Time `json:"earliest_expiry,omitzero"`
	RootCRLNumber  string    `json:"root_ca_crl_number,omitempty"` // decimal
	PCKCRLNumber   string    `json:"pck_crl_number,omitempty"`     // decimal
	Evaluation     int       `json:"evaluation,omitempty"`         // tcbEvaluationDataNumber, the lower of TCB info and QE identity
	Hash           string    `json:"sha256,omitempty"`             // Set.Hash in hex
	Parts          []Part    `json:"parts,omitempty"`
}

// Raw returns the bytes the set was made from.
func (s *Set) Raw() *Raw { return s.raw }

// TCBInfo returns the TCB info document.
func (s *Set) TCBInfo() *tcb.Info { return s.info }

// QEIdentity returns the QE identity document.
func (s *Set) QEIdentity() *tcb.QEIdentity { return s.qe }

// RootCRL returns the CRL of the root CA.
func (s *Set) RootCRL() *pck.CRL { return s.rootCRL }

// PCKCRL returns the CRL of the PCK CA that CA names.
func (s *Set) PCKCRL() *pck.CRL { return s.pckCRL }

// CA says which PCK CA the PCK CRL is of.
func (s *Set) CA() pck.CA { return s.ca }

// Issuer returns the certificate of that PCK CA, with its root.
func (s *Set) Issuer() *pck.Issued { return s.issuer }

// Roots returns the roots the set was opened under.
func (s *Set) Roots() *pck.Roots { return s.roots }

// Parts returns the dated parts.
func (s *Set) Parts() []Part { return append([]Part(nil), s.parts...) }

// Summary returns dates and numbers of the set; its Parts are shared.
func (s *Set) Summary() Summary { return s.summary }

// Hash identifies everything the set was verified from: all bytes of Raw and
// the roots.
func (s *Set) Hash() [32]byte { return s.hash }

// NextUpdate returns the earliest next update of all parts.
func (s *Set) NextUpdate() time.Time { return s.summary.EarliestExpiry }

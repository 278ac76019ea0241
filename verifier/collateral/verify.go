package collateral

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/pck"
	"cocoon/verifier/tcb"
)

const fetchRemedy = "fetch the collateral again: see cocoon collateral fetch"

// Verify opens collateral and checks that each part is valid at the time of
// the options. All failures are reported at once, as faults:
// dcap.collateral.parse, .root, .chain, .signature, .revoked, .evaluation,
// .expired and .not_yet_valid.
func Verify(raw *Raw, o Options) (*Set, error) {
	set, err := Open(raw, o.Roots)
	if err != nil {
		return nil, err
	}
	now := o.Now
	if now.IsZero() {
		now = time.Now()
	}
	if err := set.CheckTime(now, o.Grace); err != nil {
		return nil, err
	}
	return set, nil
}

// Open verifies that Intel, or whoever holds the key of a root of roots (nil:
// Intel's), signed every part, and parses what is signed. Times are left to
// Set.CheckTime, so that a set can be shown after it expired and used over
// and over before. All failures are reported at once.
func Open(raw *Raw, roots *pck.Roots) (*Set, error) {
	if err := raw.check(); err != nil {
		return nil, err
	}
	if roots == nil {
		roots = pck.IntelRoots()
	}
	o := opener{raw: raw, roots: roots, set: &Set{raw: raw.clone(), roots: roots}}
	o.crls()
	tcbSigner := o.signer(PartTCBChain, raw.TCBInfoIssuerChain, nil)
	qeSigner := o.signer(PartQEChain, raw.QEIdentityIssuerChain, tcbSigner)
	o.documents(tcbSigner, qeSigner)
	if len(o.errs) > 0 {
		return nil, errors.Join(o.errs...)
	}
	s := o.set
	s.finish()
	return s, nil
}

type opener struct {
	raw   *Raw
	roots *pck.Roots
	set   *Set
	errs  []error
}

// wanted is what would have passed, by the last part of the code.
var wanted = map[string]string{
	"chain":     "what the PCK certificate and CRL profile says, issued by a trusted root",
	"root":      "a chain that ends in a trusted root",
	"signature": "a signature by the key of its issuer chain",
	"revoked":   "a certificate that the root CA's CRL does not name",
}

func (o *opener) refuse(code, what string, err error) {
	o.errs = append(o.errs, fault.New(fault.ExitRefused, "dcap.collateral."+code, fetchRemedy, "verifying %s: %w", what, err).Expect(wanted[code]))
}

// refuseChain files a chain's error under the code that tells its cause.
func (o *opener) refuseChain(part string, err error) {
	code := "chain"
	if errors.Is(err, pck.ErrUntrustedRoot) {
		code = "root"
	}
	o.refuse(code, part, err)
}

// crls verifies the PCK CA's chain and both CRLs (QVL, PckCrlVerifier).
func (o *opener) crls() {
	s := o.set
	ca, err := pck.VerifyIssued(o.raw.PCKCRLIssuerChain, o.roots, true)
	if err == nil {
		s.ca, err = pck.Kind(ca.Cert)
	}
	if err != nil {
		o.refuseChain(PartCRLChain, err)
		ca = nil
	}
	s.issuer = ca
	if s.rootCRL, err = pck.ParseCRL(o.raw.RootCACRL); err != nil {
		o.refuse("chain", PartRootCRL, err)
	} else if ca != nil {
		if err := s.rootCRL.CheckIssuer(ca.Root); err != nil {
			o.refuse("signature", PartRootCRL, err)
		}
	}
	if s.pckCRL, err = pck.ParseCRL(o.raw.PCKCRL); err != nil {
		o.refuse("chain", PartPCKCRL, err)
	} else if ca != nil {
		if err := s.pckCRL.CheckIssuer(ca.Cert); err != nil {
			o.refuse("signature", PartPCKCRL, err)
		}
	}
	if ca != nil {
		o.part(PartCRLChain, ca.Cert, ca.Root)
		o.notRevoked(PartCRLChain, ca.Cert)
	}
	if s.rootCRL != nil {
		s.parts = append(s.parts, Part{PartRootCRL, s.rootCRL.ThisUpdate, s.rootCRL.NextUpdate})
	}
	if s.pckCRL != nil {
		s.parts = append(s.parts, Part{PartPCKCRL, s.pckCRL.ThisUpdate, s.pckCRL.NextUpdate})
	}
}

// signer verifies the issuer chain of a document. Intel signs TCB info and QE
// identity with one key: a chain that is the same bytes is not verified twice.
func (o *opener) signer(part string, chain []byte, same *pck.Issued) *pck.Issued {
	signer := same
	if same == nil || !bytes.Equal(chain, o.raw.TCBInfoIssuerChain) {
		var err error
		if signer, err = pck.VerifyIssued(chain, o.roots, false); err != nil {
			o.refuseChain(part, err)
			return nil
		}
	}
	o.part(part, signer.Cert, signer.Root)
	o.notRevoked(part, signer.Cert)
	return signer
}

func (o *opener) part(name string, certs ...*x509.Certificate) {
	p := Part{Name: name}
	for i, c := range certs {
		if i == 0 || c.NotBefore.After(p.IssueDate) {
			p.IssueDate = c.NotBefore
		}
		if i == 0 || c.NotAfter.Before(p.NextUpdate) {
			p.NextUpdate = c.NotAfter
		}
	}
	o.set.parts = append(o.set.parts, p)
}

func (o *opener) notRevoked(part string, cert *x509.Certificate) {
	if o.set.rootCRL != nil && o.set.rootCRL.Revoked(cert.SerialNumber) {
		o.refuse("revoked", part, fmt.Errorf("certificate %q is revoked by the root CA", cert.Subject.CommonName))
	}
}

// documents checks the two signatures before anything is parsed.
func (o *opener) documents(tcbSigner, qeSigner *pck.Issued) {
	s := o.set
	if signed(o, PartTCBInfo, tcbSigner, o.raw.TCBInfo, o.raw.TCBInfoSignature) {
		info, err := tcb.ParseInfo(o.raw.TCBInfo)
		if err != nil {
			o.errs = append(o.errs, parseFault("reading %s: %w", PartTCBInfo, err))
		} else {
			s.info = info
			s.parts = append(s.parts, Part{PartTCBInfo, info.IssueDate, info.NextUpdate})
		}
	}
	if signed(o, PartQEIdentity, qeSigner, o.raw.QEIdentity, o.raw.QEIdentitySignature) {
		qe, err := tcb.ParseQEIdentity(o.raw.QEIdentity)
		if err != nil {
			o.errs = append(o.errs, parseFault("reading %s: %w", PartQEIdentity, err))
		} else {
			s.qe = qe
			s.parts = append(s.parts, Part{PartQEIdentity, qe.IssueDate, qe.NextUpdate})
		}
	}
}

func signed(o *opener, part string, signer *pck.Issued, doc, sig []byte) bool {
	if signer == nil {
		return false // its chain was refused
	}
	digest := sha256.Sum256(doc)
	r, s := ecsig.Halves(sig)
	if !ecsig.Verify(signer.Cert.PublicKey.(*ecdsa.PublicKey), digest[:], r, s) {
		o.refuse("signature", part, pck.ErrSignature)
		return false
	}
	return true
}

func (r *Raw) clone() *Raw {
	return &Raw{
		PCKCRLIssuerChain: bytes.Clone(r.PCKCRLIssuerChain), RootCACRL: bytes.Clone(r.RootCACRL), PCKCRL: bytes.Clone(r.PCKCRL),
		TCBInfoIssuerChain: bytes.Clone(r.TCBInfoIssuerChain), TCBInfo: bytes.Clone(r.TCBInfo), TCBInfoSignature: bytes.Clone(r.TCBInfoSignature),
		QEIdentityIssuerChain: bytes.Clone(r.QEIdentityIssuerChain), QEIdentity: bytes.Clone(r.QEIdentity),
		QEIdentitySignature: bytes.Clone(r.QEIdentitySignature),
	}
}

// finish computes what every verification reports of the set.
func (s *Set) finish() {
	h := sha256.New()
	for _, part := range [][]byte{s.raw.PCKCRLIssuerChain, s.raw.RootCACRL, s.raw.PCKCRL, s.raw.TCBInfoIssuerChain, s.raw.TCBInfo,
		s.raw.TCBInfoSignature, s.raw.QEIdentityIssuerChain, s.raw.QEIdentity, s.raw.QEIdentitySignature} {
		var n [8]byte
		binary.BigEndian.PutUint64(n[:], uint64(len(part)))
		h.Write(n[:])
		h.Write(part)
	}
	roots := s.roots.Hash()
	h.Write(roots[:])
	h.Sum(s.hash[:0])
	s.summary = Summary{
		RootCRLNumber: s.rootCRL.Number.String(), PCKCRLNumber: s.pckCRL.Number.String(),
		// TCB info and QE identity of two evaluations may be in force at once.
		Evaluation: min(s.info.Evaluation, s.qe.Evaluation), Hash: hex.EncodeToString(s.hash[:]), Parts: s.parts,
	}
	for i, p := range s.parts {
		if i == 0 || p.IssueDate.Before(s.summary.EarliestIssue) {
			s.summary.EarliestIssue = p.IssueDate
		}
		if p.IssueDate.After(s.summary.LatestIssue) {
			s.summary.LatestIssue = p.IssueDate
		}
		if i == 0 || p.NextUpdate.Before(s.summary.EarliestExpiry) {
			s.summary.EarliestExpiry = p.NextUpdate
		}
	}
}

// CheckTime checks that every part is valid at a time: issue date ≤ now ≤ next
// update + grace. All parts that are not are reported at once.
func (s *Set) CheckTime(now time.Time, grace time.Duration) error {
	if s.ValidAt(now, grace) {
		return nil
	}
	var errs []error
	for _, p := range s.parts {
		if f := p.check(now, grace); f != nil {
			errs = append(errs, f)
		}
	}
	return errors.Join(errs...)
}

// ValidAt reports whether CheckTime would return nil.
func (s *Set) ValidAt(now time.Time, grace time.Duration) bool {
	return !now.Before(s.summary.LatestIssue) && !now.After(s.summary.EarliestExpiry.Add(max(grace, 0)))
}

func (p *Part) check(now time.Time, grace time.Duration) error {
	switch {
	case now.Before(p.IssueDate):
		return &fault.Fault{Code: "dcap.collateral.not_yet_valid", Exit: fault.ExitRefused, Msg: p.Name + " is not valid yet",
			Expected: "at or after " + p.IssueDate.Format(time.RFC3339), Actual: now.UTC().Format(time.RFC3339),
			Remedy: "check the clock, or give collateral that was issued before this time"}
	case now.After(p.NextUpdate.Add(max(grace, 0))):
		return &fault.Fault{Code: "dcap.collateral.expired", Exit: fault.ExitRefused, Msg: p.Name + " is expired",
			Expected: "at or before " + p.NextUpdate.Format(time.RFC3339), Actual: now.UTC().Format(time.RFC3339), Remedy: fetchRemedy}
	}
	return nil
}

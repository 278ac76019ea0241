package dcap

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/collateral"
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/pck"
	"cocoon/verifier/quote"
	"cocoon/verifier/result"
)

// TEE is what differs between the two TEEs on the way.
type TEE struct {
	Name       string // "tdx" or "sgx", the start of check IDs
	Type       uint32 // of the quote's header
	TCBInfoID  string // identifier of TCB info
	IdentityID string // identifier of the QE identity
}

// Parse reads a quote of a TEE; its errors are faults that exit 5.
func Parse(raw []byte, tee *TEE, o *Options) (*quote.Quote, error) {
	q, err := quote.Parse(raw, quote.Options{AllowZeroPadding: o.AllowZeroPadding})
	if err != nil {
		remedy := "check that the file holds one whole raw quote of version 3, 4 or 5"
		if errors.Is(err, quote.ErrTrailing) && !o.AllowZeroPadding {
			remedy = "cut what follows the quote, or allow zero padding where it is known to be padded"
		}
		return nil, fault.New(fault.ExitParse, tee.Name+".quote.parse", remedy, "reading quote: %w", err).Expect("one whole raw quote of version 3, 4 or 5")
	}
	if q.TEE != tee.Type {
		return nil, fault.New(fault.ExitParse, tee.Name+".quote.parse", "verify it as a quote of its own TEE",
			"reading quote: TEE type is %#x, not %#x", q.TEE, tee.Type).
			Expect(fmt.Sprintf("TEE type %#x", tee.Type)).Found(fmt.Sprintf("TEE type %#x", q.TEE))
	}
	return q, nil
}

// Run is one verification on its way through the checks. A check that fails
// does not stop those that do not depend on it.
type Run struct {
	Quote    *quote.Quote
	QE       quote.EnclaveReport
	Set      *collateral.Set // nil where the collateral was refused
	Platform *Entry          // nil where the PCK chain was refused
	Result   *Result

	tee    *TEE
	ids    *ids
	o      *Options
	now    time.Time
	faults []error
	broken bool // cryptography or binding failed: there is no TCB to speak of
}

// Start makes the checks that do not depend on the TEE.
func Start(q *quote.Quote, tee *TEE, o *Options, res *Result) *Run {
	r := &Run{Quote: q, Result: res, tee: tee, ids: idsOf(tee), o: o, now: o.Now}
	if r.now.IsZero() {
		if o.Clock != nil {
			r.now = o.Clock()
		} else {
			r.now = time.Now()
		}
	}
	res.TEE, res.Version = tee.Name, int(q.Version)
	res.Checks = make([]result.Check, 0, 16)
	r.QE.Decode(q.QEReport)

	r.collateral()
	chainKey := r.chain()
	r.signatures(chainKey)
	if q.VendorID != quote.IntelVendorID {
		r.Fail(fault.ExitRefused, r.ids.vendor, hexOf(quote.IntelVendorID[:]), hexOf(q.VendorID[:]),
			"quoting enclave is not Intel's", "have the quote made by Intel's quoting enclave")
	} else {
		r.Pass(r.ids.vendor)
	}
	r.match()
	r.identity()
	return r
}

// Pass records a passed check.
func (r *Run) Pass(id string) {
	r.Result.Checks = append(r.Result.Checks, result.Check{ID: id, Status: result.Pass})
}

// Skip records a check that could not be made.
func (r *Run) Skip(id, reason string) {
	r.Result.Checks = append(r.Result.Checks, result.Check{ID: id, Status: result.Skip, Reason: reason})
	r.broken = true
}

// Fail records a failed check of cryptography or binding.
func (r *Run) Fail(exit int, id, expected, actual, reason, remedy string) {
	r.broken = true
	r.note(&fault.Fault{Code: id, Exit: exit, Msg: reason, Expected: expected, Actual: actual, Remedy: remedy})
}

// note records a fault as a failed check and as an error of the verification.
func (r *Run) note(f *fault.Fault) {
	r.Result.Checks = append(r.Result.Checks, result.Check{ID: f.Code, Status: result.Fail,
		Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
	r.faults = append(r.faults, f)
}

// Sound reports whether everything so far holds that the TCB's evaluation
// rests on. Expired collateral does not change what it says.
func (r *Run) Sound() bool { return !r.broken }

// Finish returns the faults of the verification.
func (r *Run) Finish() error {
	r.Result.Genuine = len(r.faults) == 0
	return errors.Join(r.faults...)
}

// collateral opens the collateral where the caller did not, and checks its
// times.
func (r *Run) collateral() {
	set, err := r.o.Collateral, error(nil)
	roots := r.o.roots()
	switch {
	case set == nil && r.o.RawCollateral == nil:
		err = fault.New(fault.ExitRefused, "dcap.collateral.missing", "give collateral, or a PCS to fetch it from", "no collateral was given").
			Expect("collateral of the platform").Found("none")
	case set == nil:
		set, err = collateral.Open(r.o.RawCollateral, roots)
	case set.Roots() != roots && set.Roots().Hash() != roots.Hash():
		err = fault.New(fault.ExitRefused, "dcap.collateral.root", "open the collateral under the roots that the quote is verified with",
			"collateral was verified under other roots").Expect(rootsText(roots)).Found(rootsText(set.Roots()))
	}
	if err != nil {
		r.broken = true
		for _, f := range fault.All(err) {
			r.note(f)
		}
		return
	}
	r.Set = set
	r.Result.Dates = set.Summary()
	r.Result.until(r.Result.Dates.EarliestExpiry.Add(max(r.o.CollateralGrace, 0)))
	r.Pass(idCollateralSignature)
	if set.ValidAt(r.now, r.o.CollateralGrace) {
		r.Pass(idCollateralCurrent)
		return
	}
	for _, f := range fault.All(set.CheckTime(r.now, r.o.CollateralGrace)) {
		r.note(f)
	}
}

// chain verifies the PCK chain, or finds it in the cache. It returns the key
// of the chain's cache entry.
func (r *Run) chain() *[32]byte {
	pem, leafOnly := r.Quote.Cert.PEM, false
	switch r.Quote.Cert.Type {
	case quote.CertPCKChain:
	case quote.CertPCKLeaf:
		leafOnly = true
	default:
		pem = r.o.PCKChain
	}
	if len(pem) == 0 {
		r.Fail(fault.ExitRefused, "dcap.pck.missing", "a PCK certificate chain", fmt.Sprintf("certification data of type %d", r.Quote.Cert.Type),
			"quote carries no PCK certificate", "give the platform's PCK certificate chain, as Intel's PCS returns it")
		return nil
	}
	roots := r.o.roots()
	key := chainKey(pem, leafOnly, r.Set, roots)
	if c := r.o.Cache; c != nil {
		if e, ok := c.chains.Get(&key); ok {
			r.Platform = e
		}
	}
	if r.Platform == nil {
		e, err := r.verifyChain(pem, leafOnly, roots)
		if err != nil {
			r.broken = true
			code := "dcap.pck.chain"
			remedy := "use a platform whose PCK certificate Intel issued"
			if errors.Is(err, pck.ErrUntrustedRoot) {
				code = "dcap.pck.root"
			}
			r.note(fault.New(fault.ExitRefused, code, remedy, "verifying PCK chain: %w", err).Expect("PCK certificate, PCK CA and a trusted root, each issued by the next"))
			return nil
		}
		r.Platform = e
		if c := r.o.Cache; c != nil {
			c.chains.Put(&key, e)
		}
	}
	r.Result.Platform = r.Platform.Platform
	r.Result.until(r.Platform.Chain.NotAfter)
	r.Pass("dcap.pck.chain")
	r.checkPlatform()
	return &key
}

func rootsText(roots *pck.Roots) string {
	h := roots.Hash()
	return "roots with hash " + hexOf(h[:])
}

func (r *Run) verifyChain(pem []byte, leafOnly bool, roots *pck.Roots) (*Entry, error) {
	var known *pck.Issued
	if r.Set != nil {
		known = r.Set.Issuer()
	}
	var chain *pck.Chain
	var err error
	switch {
	case !leafOnly:
		chain, err = pck.Verify(pem, roots, known)
	case known == nil:
		err = errors.New("certificate of the PCK CA is in the collateral, which was refused")
	default:
		chain, err = pck.VerifyLeaf(pem, known)
	}
	if err != nil {
		return nil, err
	}
	return newEntry(chain, r.Set), nil
}

// checkPlatform checks what depends on the moment and on the CRLs.
func (r *Run) checkPlatform() {
	e := r.Platform
	if r.now.Before(e.Chain.NotBefore) || r.now.After(e.Chain.NotAfter) {
		r.note(&fault.Fault{Code: "dcap.pck.expired", Exit: fault.ExitRefused, Msg: "PCK chain is not valid at this time",
			Expected: e.Chain.NotBefore.UTC().Format(time.RFC3339) + " to " + e.Chain.NotAfter.UTC().Format(time.RFC3339),
			Actual:   r.now.UTC().Format(time.RFC3339), Remedy: "check the clock, or provision a new PCK certificate"})
	} else {
		r.Pass("dcap.pck.expired")
	}
	switch e.revocation {
	case revocationClear:
		r.Pass("dcap.pck.revoked")
	case revocationNone:
		r.Skip("dcap.pck.revoked", "there are no CRLs")
	case revocationOther:
		r.Fail(fault.ExitRefused, "dcap.collateral.pck_crl", "CRL of "+e.Chain.Intermediate.Subject.CommonName,
			"CRL of the "+string(r.Set.CA())+" CA", "PCK CRL is not of the CA that issued the PCK certificate",
			"fetch the collateral for ca="+string(e.Chain.CA))
	default:
		r.Fail(fault.ExitRefused, "dcap.pck.revoked", "certificates that no CRL names",
			fmt.Sprintf("serial number %x", e.revoked), "PCK chain is revoked", "use another platform: Intel has revoked this one's key")
	}
}

// signatures verifies QE report, its binding to the attestation key, and the
// quote (QuoteVerifier.cpp, steps 4.1.2.5.13, .14 and .17).
func (r *Run) signatures(chainKey *[32]byte) {
	q := r.Quote
	var known *ecsig.Known
	if chainKey == nil {
		r.Skip(r.ids.qeSignature, "there is no PCK key to check it with")
	} else {
		known = r.qeReport(chainKey)
	}
	digest := sha256.Sum256(q.Signed)
	x, y := ecsig.Halves(q.Signature)
	var signed bool
	if known != nil {
		signed = r.o.Cache.tables().Verify(known, digest[:], x, y)
	} else { // anyone's key
		key, err := ecsig.Key(q.AttestationKey)
		if err != nil {
			r.broken = true
			r.note(fault.New(fault.ExitRefused, r.ids.attestationKey, "have the quote made again", "reading attestation key: %w", err).Expect("a point of P-256"))
			return
		}
		signed = ecsig.Verify(key, digest[:], x, y)
	}
	if signed {
		r.Pass(r.ids.quoteSignature)
	} else {
		r.Fail(fault.ExitRefused, r.ids.quoteSignature, "a signature by the quote's attestation key", "another", "attestation key did not sign this quote", "have the quote made again")
	}
}

// qeReport verifies the QE report's signature and binding, or finds that both
// were verified before, with the same PCK certificate, collateral and roots.
// It returns the attestation key where it is known to be bound.
func (r *Run) qeReport(chainKey *[32]byte) *ecsig.Known {
	q, c := r.Quote, r.o.Cache
	bound := bindingOf(q)
	var cacheKey [32]byte
	if c != nil && c.reports.Max() > 0 {
		cacheKey = reportKey(q, &bound, chainKey)
		if key, ok := c.reports.Get(&cacheKey); ok {
			r.Pass(r.ids.qeSignature)
			r.Pass(r.ids.qeBinding)
			return key
		}
	}
	digest := sha256.Sum256(q.QEReport)
	x, y := ecsig.Halves(q.QEReportSignature)
	signed := c.tables().Verify(r.Platform.key, digest[:], x, y)
	if signed {
		r.Pass(r.ids.qeSignature)
	} else {
		r.Fail(fault.ExitRefused, r.ids.qeSignature, "a signature by the PCK certificate's key", "another", "PCK did not sign the QE report", "have the quote made again")
	}
	// The upper half of the report data is zero; QVL looks at the lower only.
	if [32]byte(r.QE.ReportData[:32]) != bound {
		r.Fail(fault.ExitRefused, r.ids.qeBinding, hexOf(bound[:]), hexOf(r.QE.ReportData[:32]),
			"QE report data is not the SHA-256 of attestation key and authentication data", "have the quote made again")
		return nil
	}
	r.Pass(r.ids.qeBinding)
	key, err := ecsig.Key(q.AttestationKey)
	if err != nil || !signed {
		return nil
	}
	known := ecsig.Know(key)
	if c != nil && c.reports.Max() > 0 {
		c.reports.Put(&cacheKey, known)
	}
	return known
}

// match checks that collateral and quote speak of one platform and TEE
// (QuoteVerifier.cpp, steps 4.1.2.5.10, .11 and .15). FMSPC and PCEID compare
// as bytes: Intel writes their hex in either case.
func (r *Run) match() {
	if r.Set == nil {
		r.Skip(idTEE, "there is no collateral")
		return
	}
	info, qe := r.Set.TCBInfo(), r.Set.QEIdentity()
	if info.ID != r.tee.TCBInfoID || qe.ID != r.tee.IdentityID {
		r.Fail(fault.ExitRefused, idTEE, r.tee.TCBInfoID+" and "+r.tee.IdentityID, info.ID+" and "+qe.ID,
			"collateral is of another TEE", "fetch the collateral for "+r.tee.Name)
	} else {
		r.Pass(idTEE)
	}
	if r.Platform == nil {
		r.Skip(idFMSPC, "there is no PCK certificate")
		return
	}
	x := &r.Platform.Chain.Extensions
	if info.FMSPC != x.FMSPC {
		r.Fail(fault.ExitRefused, idFMSPC, hexOf(x.FMSPC[:]), hexOf(info.FMSPC[:]),
			"TCB info is of another processor family", "fetch the collateral for fmspc="+hexOf(x.FMSPC[:]))
	} else {
		r.Pass(idFMSPC)
	}
	cert := &r.Quote.Cert
	if info.PCEID != x.PCEID || (len(cert.PPID) > 0 && cert.PCEID != x.PCEID) {
		r.Fail(fault.ExitRefused, idPCEID, hexOf(x.PCEID[:]), hexOf(info.PCEID[:]),
			"PCEID of TCB info, quote and PCK certificate differ", "fetch the collateral for the platform's PCE")
	} else {
		r.Pass(idPCEID)
	}
}

// identity checks the QE report against the QE identity, all but its ISVSVN,
// which is a matter of the TCB (EnclaveReportVerifier.cpp, 4.1.2.9.5 to .8).
func (r *Run) identity() {
	if r.Set == nil {
		r.Skip(r.ids.qeIdentity, "there is no QE identity")
		return
	}
	id, qe := r.Set.QEIdentity(), &r.QE
	var misc [4]byte
	for i := range misc {
		// The document writes MISCSELECT most significant byte first.
		misc[i] = qe.MiscSelect[3-i] & id.MiscSelectMask[i]
	}
	var attr [16]byte
	for i := range attr {
		attr[i] = qe.Attributes[i] & id.AttributesMask[i]
	}
	ok := true
	mismatch := func(what, expected, actual string) {
		ok = false
		r.Fail(fault.ExitRefused, r.ids.qeIdentity, expected, actual,
			"quoting enclave's "+what+" is not that of the QE identity", "have the quote made by Intel's quoting enclave")
	}
	if misc != id.MiscSelect {
		mismatch("MISCSELECT", hexOf(id.MiscSelect[:]), hexOf(misc[:]))
	}
	if attr != id.Attributes {
		mismatch("ATTRIBUTES", hexOf(id.Attributes[:]), hexOf(attr[:]))
	}
	if qe.MRSigner != id.MRSigner {
		mismatch("MRSIGNER", hexOf(id.MRSigner[:]), hexOf(qe.MRSigner[:]))
	}
	if qe.ISVProdID != id.ISVProdID {
		mismatch("ISVPRODID", fmt.Sprint(id.ISVProdID), fmt.Sprint(qe.ISVProdID))
	}
	if ok {
		r.Pass(r.ids.qeIdentity)
	}
}

package snp

import (
	"bytes"
	"crypto/sha512"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/internal/ecsig"
	"cocoon/verifier/result"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// Verify verifies an SEV-SNP report, or an extended one: a report followed by
// its certificate table. A nil error means that the report is genuine: AMD's
// firmware made it for a guest, on a chip that AMD vouches for, at the TCB
// version that it says. It does not mean that the guest or the TCB is one to
// trust: a guest under a debug policy can be genuine. Appraise the Result by a
// policy.
//
// The Result is nil only where the report does not parse (snp.report.parse).
// Otherwise it has every check. The error joins a *fault.Fault for each failed
// check.
//
// A report is not identified by its bytes: who has (r, s) of an ECDSA
// signature can write another that is as good. Nothing that is signed can be
// changed.
func Verify(raw []byte, o *Options) (*Result, error) {
	if o == nil {
		o = &Options{}
	}
	body, table, err := report.Split(raw)
	if err != nil {
		return nil, parseFault(err)
	}
	p, err := report.Parse(body)
	if err != nil {
		return nil, parseFault(err)
	}
	v := &run{o: o, p: p, body: body, res: &Result{Checks: make([]result.Check, 0, 16)}, now: o.Now}
	v.res.describe(p)
	if v.now.IsZero() {
		if o.Clock != nil {
			v.now = o.Clock()
		} else {
			v.now = time.Now()
		}
	}
	v.certificate(table)
	v.signature()
	v.binding()
	v.versions()
	v.idBlock()
	v.res.Genuine = len(v.faults) == 0
	return v.res, errors.Join(v.faults...)
}

func parseFault(err error) error {
	f := fault.New(fault.ExitParse, "snp.report.parse", "check that the file holds one whole report, version 2 to 5, and nothing after it but its certificate table",
		"reading report: %w", err).Expect("one whole report of version 2 to 5")
	f.Msg = "reading report: " + f.Actual // on one line
	return f
}

// run is one verification on its way through the checks. A check that fails
// does not stop those that do not depend on it.
type run struct {
	o      *Options
	p      *report.Report
	body   []byte
	res    *Result
	now    time.Time
	entry  *entry // nil where the certificate was refused
	faults []error
}

func (v *run) pass(id string) {
	v.res.Checks = append(v.res.Checks, result.Check{ID: id, Status: result.Pass})
}

func (v *run) skip(id, reason string) {
	v.res.Checks = append(v.res.Checks, result.Check{ID: id, Status: result.Skip, Reason: reason})
}

func (v *run) fail(id, expected, actual, reason, remedy string) {
	v.note(&fault.Fault{Code: id, Exit: fault.ExitRefused, Msg: reason, Expected: expected, Actual: actual, Remedy: remedy})
}

// note records a fault as a failed check and as an error of the verification.
func (v *run) note(f *fault.Fault) {
	v.res.Checks = append(v.res.Checks, result.Check{ID: f.Code, Status: result.Fail,
		Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
	v.faults = append(v.faults, f)
}

// certificate verifies certificate, chain and CRL, or finds that they were.
func (v *run) certificate(table *report.Table) {
	cert, roots := v.o.Certificate, v.o.Roots
	if roots == nil {
		roots = vek.AMDRoots()
	}
	chain := v.o.Chain
	if len(cert) == 0 {
		cert = table.Leaf(v.p.Signer)
	}
	if len(chain) == 0 && (len(table.ASK) > 0 || len(table.ARK) > 0) {
		chain = append(bytes.Clone(table.ASK), table.ARK...)
	}
	switch {
	case v.p.Signer == report.None:
		v.fail("snp.signature", "a report signed by a VCEK or VLEK", "an unsigned one", "report is not signed", "have the host sign reports: no key is selected for it")
		return
	case len(cert) == 0:
		v.fail("snp.cert.missing", "a certificate", "none", fmt.Sprintf("there is no certificate of the %s that signed the report", v.p.Signer),
			"give the certificate, or a KDS to fetch it from")
		v.skip("snp.chain", "there is no certificate")
		return
	}
	key := entryKey(cert, chain, v.o.CRL, v.p.Signer, roots)
	if c := v.o.Cache; c != nil {
		if e, ok := c.entries.Get(&key); ok {
			v.entry = e
			v.pass("snp.chain")
		}
	}
	if v.entry == nil {
		e, sound := v.verifyCertificate(cert, chain, roots)
		v.entry = e
		if c := v.o.Cache; c != nil && sound {
			c.entries.Put(&key, e)
		}
	}
	if v.entry == nil {
		return
	}
	v.res.Certificate = v.entry.info
	v.res.CRL = v.entry.list
	v.res.NotAfter = v.entry.info.NotAfter
	v.times()
	v.revocation()
}

// verifyCertificate verifies certificate, chain and CRL. The entry is nil
// where the certificate does not hold; sound says whether everything does.
func (v *run) verifyCertificate(cert, chain []byte, roots *vek.Roots) (e *entry, sound bool) {
	der, err := vek.DER(cert)
	var c *vek.Cert
	if err == nil {
		c, err = vek.Verify(der, v.p.Signer, roots)
	}
	if err != nil {
		v.note(certFault(err))
		return nil, false
	}
	sound = true
	if err := roots.CheckChain(chain, c.Line); err != nil {
		v.note(certFault(fmt.Errorf("chain that came with the report: %w", err)))
		sound = false
	} else {
		v.pass("snp.chain")
	}
	e = &entry{cert: c, key: ecsig.Know(c.Key), info: Certificate{Line: c.Line, ChipID: hex.EncodeToString(c.ChipID), CSP: c.CSP,
		NotBefore: c.NotBefore.UTC(), NotAfter: c.NotAfter.UTC()}}
	if len(v.o.CRL) == 0 {
		return e, sound
	}
	crl, err := vek.ParseCRL(v.o.CRL)
	if err == nil {
		err = crl.CheckIssuer(c.Authority)
	}
	if err != nil {
		code, exit := "snp.crl.signature", fault.ExitRefused
		if errors.Is(err, vek.ErrMalformed) {
			code, exit = "snp.crl.parse", fault.ExitParse
		}
		v.note(fault.New(exit, code, "fetch the CRL of "+string(c.Line)+" anew", "verifying CRL: %w", err).Expect("a CRL that ARK-" + string(c.Line) + " signed"))
		return e, false
	}
	e.crl = crl
	e.list = &CRLDates{Number: crl.Number.String(), ThisUpdate: crl.ThisUpdate, NextUpdate: crl.NextUpdate}
	return e, sound
}

// certFault gives a certificate's error its code.
func certFault(err error) *fault.Fault {
	code, exit, remedy := "snp.chain", fault.ExitRefused, "use the certificate that AMD's KDS has for this chip, or the host's"
	expected := "a certificate that a trusted ASK or ASVK issued, and no other chain beside it"
	switch {
	case errors.Is(err, vek.ErrKind):
		code, remedy = "snp.cert.signer", "give the certificate of the kind of key that signed the report"
		expected = "a certificate of the kind of key that signed the report"
	case errors.Is(err, vek.ErrMalformed):
		code, exit, expected = "snp.cert.parse", fault.ExitParse, "a certificate as AMD's specification says, DER or PEM"
	case errors.Is(err, vek.ErrProduct):
		code, expected = "snp.cert.product", "a certificate of a product line with trusted roots"
	}
	return fault.New(exit, code, remedy, "verifying certificate: %w", err).Expect(expected)
}

// times checks the validity of the certificate and those above it.
func (v *run) times() {
	c := v.entry.cert
	if v.now.Before(c.NotBefore) || v.now.After(c.NotAfter) {
		v.fail("snp.cert.expired", c.NotBefore.UTC().Format(time.RFC3339)+" to "+c.NotAfter.UTC().Format(time.RFC3339),
			v.now.UTC().Format(time.RFC3339), "certificate is not valid at this time", "check the clock, or fetch a new certificate")
		return
	}
	v.pass("snp.cert.expired")
}

// revocation checks the CRL's times and what it says.
func (v *run) revocation() {
	c := v.entry.crl
	if c == nil {
		switch {
		case len(v.o.CRL) > 0: // refused, which is a failed check already
			v.skip("snp.cert.revoked", "the CRL was refused")
		case v.o.RequireCRL:
			v.fail("snp.crl.missing", "a CRL", "none", "there is no CRL", "give the CRL, or a KDS to fetch it from")
		default:
			v.skip("snp.cert.revoked", "there is no CRL")
		}
		return
	}
	until := c.NextUpdate
	if v.o.CRLMaxAge > 0 {
		if t := c.ThisUpdate.Add(v.o.CRLMaxAge); t.Before(until) {
			until = t
		}
	}
	if until.Before(v.res.NotAfter) {
		v.res.NotAfter = until
	}
	if v.now.Before(c.ThisUpdate) || v.now.After(until) {
		v.fail("snp.crl.current", c.ThisUpdate.Format(time.RFC3339)+" to "+until.UTC().Format(time.RFC3339), v.now.UTC().Format(time.RFC3339),
			"CRL is not current", "fetch the CRL anew, or check the clock")
	} else {
		v.pass("snp.crl.current")
	}
	if name, serial := c.RevokedIn(v.entry.cert); serial != nil {
		v.fail("snp.cert.revoked", "certificates that the CRL does not name", fmt.Sprintf("%s, serial number %x", name, serial),
			"certificate is revoked", "use another platform: AMD has revoked this key")
		return
	}
	v.pass("snp.cert.revoked")
}

// signature verifies the report's signature over its raw bytes.
func (v *run) signature() {
	if v.p.Signer == report.None {
		return // refused above
	}
	if v.entry == nil {
		v.skip("snp.signature", "there is no key to check it with")
		return
	}
	digest := sha512.Sum384(v.body[:report.SignedSize])
	r, s := v.p.Signature()
	if v.o.Cache.tables().Verify(v.entry.key, digest[:], r[:], s[:]) {
		v.pass("snp.signature")
		return
	}
	v.fail("snp.signature", "a signature by the certificate's key", "another", fmt.Sprintf("the %s did not sign this report", v.p.Signer),
		"check that report and certificate are of one machine and one TCB version, or have the report made again")
}

// binding checks that the certificate is of the chip, the product and the TCB
// version that the report names (AMD 57230, chapter 3).
func (v *run) binding() {
	if v.p.VMPL == report.VMPLHost {
		v.fail("snp.report.host", "a report that the guest asked for", "VMPL ffffffff", "the host asked for this report, not the guest", "have the guest ask for a report")
	} else {
		v.pass("snp.report.host")
	}
	if v.entry == nil {
		return
	}
	c := v.entry.cert
	switch {
	case v.p.Version < 3 && c.Line == report.Turin:
		v.fail("snp.cert.product", "report of version 3 or later", "version 2", "reports of Turin name their product, this one does not",
			"give the certificate of the machine that made the report, or have its host update the firmware")
	case v.p.Version < 3:
		v.res.Product = c.Line
		v.pass("snp.cert.product")
	case v.p.Product.Line() != c.Line:
		v.fail("snp.cert.product", string(v.p.Product.Line()), string(c.Line), "certificate is of another product than the report",
			"give the certificate of the machine that made the report")
	default:
		v.pass("snp.cert.product")
	}
	if c.TCB != v.p.ReportedTCB {
		v.fail("snp.cert.tcb", c.TCB.String(), v.p.ReportedTCB.String(), "certificate is for another TCB version than the report says",
			"fetch the certificate for the reported TCB version")
	} else {
		v.pass("snp.cert.tcb")
	}
	switch {
	case v.p.Signer == report.VLEK:
		v.skip("snp.cert.chip_id", "a VLEK's certificate names a provider and no chip")
	case !c.ChipMatches(&v.p.ChipID):
		v.fail("snp.cert.chip_id", hex.EncodeToString(c.ChipID), hex.EncodeToString(v.p.ChipID[:]), "certificate is of another chip than the report says",
			"give the certificate of this chip, and have the host not mask its ID")
	default:
		v.pass("snp.cert.chip_id")
	}
}

// versions checks the rules that hold between the TCB and firmware versions of
// a report (AMD 56860, SNP_COMMIT, SNP_CONFIG, SNP_LAUNCH_START): firmware may
// run ahead of what is committed and of what it reports, never behind; and no
// guest was launched by firmware newer than that which runs, unless that was
// rolled back under it.
func (v *run) versions() {
	current := v.p.CurrentTCB
	for _, t := range []struct {
		id, what string
		tcb      report.TCB
	}{
		{"snp.tcb.reported", "reported", v.p.ReportedTCB},
		{"snp.tcb.committed", "committed", v.p.CommittedTCB},
		{"snp.tcb.launch", "launch", v.p.LaunchTCB},
	} {
		if current.AtLeast(t.tcb) {
			v.pass(t.id)
			continue
		}
		v.fail(t.id, "at most "+current.String(), t.tcb.String(), t.what+" TCB version is above the current one",
			"have the host run the firmware that it reports, and launch the guest again")
	}
	if v.p.Current.Compare(v.p.Committed) < 0 {
		v.fail("snp.firmware.committed", "at most "+v.p.Current.String(), v.p.Committed.String(),
			"committed firmware version is above the current one", "have the host run the firmware that it committed")
	} else {
		v.pass("snp.firmware.committed")
	}
}

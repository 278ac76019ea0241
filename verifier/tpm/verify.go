package tpm

import (
	"cmp"
	"crypto"
	"crypto/x509"
	"encoding/hex"
	"fmt"
	"slices"
	"sort"
	"strings"
	"time"

	"cocoon/measurements/digest"
	"cocoon/measurements/eventlog"
	"cocoon/measurements/pcr"
	"cocoon/verifier/result"
)

// IDs of the checks of Verify.
const (
	CheckAKChain      = "tpm.ak.chain"            // AK certificate leads to a trusted root
	CheckAKValidity   = "tpm.ak.validity"         // … at this time
	CheckAKAttributes = "tpm.ak.attributes"       // the key is a restricted signing key of one TPM
	CheckAKEnrolment  = "tpm.ak.enrolment"        // … that was activated beside an EK of an accepted authority
	CheckFormat       = "tpm.quote.format"        // TPMS_ATTEST is well-formed and made by a TPM
	CheckType         = "tpm.quote.type"          // it is a quote
	CheckSignature    = "tpm.quote.signature"     // the AK signed it
	CheckExtraData    = "tpm.quote.extra_data"    // it carries the claims' hash
	CheckSelection    = "tpm.quote.pcr_selection" // it is over exactly PCRs
	CheckLog          = "tpm.event_log.format"    // the event log is well-formed
	CheckLogStructure = "tpm.event_log.structure" // … and has the form of a measured boot: see eventlog.Log.Check
	CheckLogReplay    = "tpm.event_log.replay"    // it replays to the registers that came with it
	CheckPCRDigest    = "tpm.quote.pcr_digest"    // log and runtime events replay to what is signed
)

// Evidence is what a TPM shows, as bytes that nobody has checked.
type Evidence struct {
	Attest        []byte   // TPMS_ATTEST
	Signature     []byte   // TPMT_SIGNATURE
	CertChain     [][]byte // DER, attestation key certificate first
	EventLog      []byte   // crypto-agile TCG log; empty where there is none
	RuntimeEvents [][]byte // what PCR 15 was extended with the hash of, in order
	// PCRs are register values that came with the quote. Without them the
	// registers are those of the log, and there must be one.
	PCRs Banks
}

// Options of Verify. What they leave out is as strict as what a worker's
// evidence is held to.
type Options struct {
	AKRoots []*x509.Certificate
	// EKRoots are the authorities under whose endorsement key certificates
	// attestation keys may have been enrolled: the makers of TPMs, by policy.
	// DevelopmentEKRoots are those of TPMs that are programs. With neither, it is
	// left to whoever the AK roots belong to.
	EKRoots, DevelopmentEKRoots []*x509.Certificate
	// Key is an attestation key that the caller trusts for a reason of its own;
	// with it certificates are not looked at.
	Key crypto.PublicKey
	// Public is Key's TPMT_PUBLIC, where the caller has it: the key's attributes
	// and scheme are checked then.
	Public         []byte
	Now            time.Time
	QualifyingData []byte // what the quote must carry
	// AnyQualifyingData takes whatever the quote carries: it says nothing of
	// when the quote was made then, and the check is skipped.
	AnyQualifyingData bool
	// AnySelection takes quotes over any registers of the SHA-256 and SHA-384
	// banks, instead of exactly PCRs.
	AnySelection bool
}

// Result is what Verify found.
type Result struct {
	Checks    []result.Check
	Registers pcr.Values    // SHA-256 bank, every one of PCRs, as shown; proven only if no check failed
	Banks     Banks         // what the quote is over; proven only if no check failed
	Log       *eventlog.Log // nil if there is none or it does not parse
	Quote     *Quote        // nil if it does not parse
	Scheme    string        // of the signature, where it verifies
	NotAfter  time.Time     // end of the certificates' validity; zero without certificates

	hash  crypto.Hash // of the signature, 0 where it does not verify
	shown Banks       // registers before the quote has been asked
}

// Verify checks a quote by an attestation key whose certificate an accepted
// authority issued, and what the quote is over. It makes every check, whatever
// failed before.
func Verify(ev *Evidence, o *Options) *Result {
	r := &Result{}
	key := o.Key
	var want scheme
	switch {
	case key == nil:
		key, want = r.checkCertificate(ev.CertChain, o)
	case len(o.Public) > 0:
		want = r.checkAttributes(o.Public, key)
	}
	r.checkQuote(ev, o, key, want)
	r.checkLog(ev, o)
	r.checkDigest()
	return r
}

func (r *Result) pass(id, actual string) {
	r.Checks = append(r.Checks, result.Check{ID: id, Status: result.Pass, Actual: actual})
}

func (r *Result) fail(id, expected, actual, reason, remedy string) {
	r.Checks = append(r.Checks, result.Check{ID: id, Status: result.Fail, Expected: expected, Actual: actual, Reason: reason, Remedy: remedy})
}

func (r *Result) skip(id, reason string) {
	r.Checks = append(r.Checks, result.Check{ID: id, Status: result.Skip, Reason: reason})
}

const remedyEnrol = "enrol the attestation key again with a verifier whose AK authority the policy names"

// checkCertificate verifies the attestation key's certificate and the public
// area in it, and returns the key, or nil, and the scheme that it is fixed to.
func (r *Result) checkCertificate(der [][]byte, o *Options) (crypto.PublicKey, scheme) {
	chain, err := parseChain(der)
	if err != nil {
		r.fail(CheckAKChain, "a certificate chain", err.Error(), "AK certificate chain does not parse", remedyEnrol)
		for _, id := range []string{CheckAKValidity, CheckAKAttributes, CheckAKEnrolment} {
			r.skip(id, "no certificate")
		}
		return nil, scheme{}
	}
	leaf := chain[0]
	end, _, err := verifyChain(chain, o.AKRoots, oidAKCertificate, o.Now)
	window := leaf.NotBefore.UTC().Format(time.RFC3339) + " to " + leaf.NotAfter.UTC().Format(time.RFC3339)
	switch {
	case err == nil:
		r.NotAfter = end
		r.pass(CheckAKChain, issuerName(leaf))
		r.pass(CheckAKValidity, window)
	case isExpired(err):
		r.skip(CheckAKChain, "outside the certificates' validity")
		r.fail(CheckAKValidity, o.Now.UTC().Format(time.RFC3339), window, "AK certificate is outside its validity", remedyEnrol)
	default:
		r.fail(CheckAKChain, names(o.AKRoots), issuerName(leaf), "AK certificate does not lead to an accepted authority: "+err.Error(), remedyEnrol)
		r.skip(CheckAKValidity, "chain does not verify")
	}
	r.checkEnrolment(leaf, o)
	public, err := certifiedPublic(leaf)
	if err != nil {
		r.fail(CheckAKAttributes, "a restricted signing key of one TPM", oneLine(err), "AK is no attestation key", remedyEnrol)
		return leaf.PublicKey, scheme{}
	}
	return leaf.PublicKey, r.checkAttributes(public, leaf.PublicKey)
}

// checkAttributes checks the public area of a key, and returns the scheme
// that it is fixed to.
func (r *Result) checkAttributes(public []byte, key crypto.PublicKey) scheme {
	p, own, err := parsePublic(public)
	switch {
	case err != nil:
	case !equalKeys(own, key):
		err = fmt.Errorf("public area is not that of the key")
	default:
		err = checkAK(p)
	}
	if err != nil {
		r.fail(CheckAKAttributes, "a restricted signing key of one TPM", oneLine(err), "AK is no attestation key", remedyEnrol)
		return scheme{}
	}
	r.pass(CheckAKAttributes, "restricted, sign, fixedTPM, fixedParent, "+schemeOf(p).String())
	return schemeOf(p)
}

// checkEnrolment holds the authority under whose EK certificate the key was
// activated, which the issuer of the AK certificate wrote into it, against the
// accepted ones.
func (r *Result) checkEnrolment(leaf *x509.Certificate, o *Options) {
	root, err := certifiedEKRoot(leaf)
	if err != nil {
		r.fail(CheckAKEnrolment, names(slices.Concat(o.EKRoots, o.DevelopmentEKRoots)), oneLine(err), "AK certificate does not say how the key was enrolled", remedyEnrol)
		return
	}
	if len(o.EKRoots)+len(o.DevelopmentEKRoots) == 0 {
		r.pass(CheckAKEnrolment, "activated; the EK authority, certificate "+root.String()+", is left to the issuer")
		return
	}
	for what, roots := range map[string][]*x509.Certificate{"a TPM maker's": o.EKRoots, "a development": o.DevelopmentEKRoots} {
		for _, c := range roots {
			if digest.Sum256(c.Raw) == root {
				r.pass(CheckAKEnrolment, "activated under "+what+" EK authority: "+withKeyID(c.Subject.String(), c.SubjectKeyId))
				return
			}
		}
	}
	r.fail(CheckAKEnrolment, names(slices.Concat(o.EKRoots, o.DevelopmentEKRoots)), "certificate "+root.String(), "the key was enrolled under another authority for endorsement keys",
		"use a TPM of a maker that the policy names")
}

func (r *Result) checkQuote(ev *Evidence, o *Options, key crypto.PublicKey, fixed scheme) {
	q, err := ParseQuote(ev.Attest)
	switch {
	case err == nil:
		r.Quote = q
		r.pass(CheckFormat, "")
		r.pass(CheckType, "quote")
	case isNotQuote(err):
		r.pass(CheckFormat, "")
		r.fail(CheckType, "quote", oneLine(err), "the TPM attests something else than registers", "quote anew")
	default:
		r.fail(CheckFormat, "a TPMS_ATTEST", oneLine(err), "quote does not parse", "quote anew")
		r.skip(CheckType, "quote does not parse")
	}
	r.checkSignature(ev, key, fixed)
	if q == nil {
		r.skip(CheckExtraData, "quote does not parse")
		r.skip(CheckSelection, "quote does not parse")
		return
	}
	want, got := hex.EncodeToString(o.QualifyingData), hex.EncodeToString(q.ExtraData)
	switch {
	case o.AnyQualifyingData:
		r.skip(CheckExtraData, "no qualifying data was asked for: nothing says when the quote was made; it carries "+got)
	case want != got:
		r.fail(CheckExtraData, cmp.Or(want, "none"), cmp.Or(got, "none"), "quote does not carry the hash of the claims", "quote over these claims")
	default:
		r.pass(CheckExtraData, got)
	}
	if o.AnySelection {
		err = checkSelection(q.Selection)
	} else if !exactSelection(q.Selection) {
		err = fmt.Errorf("other registers")
	}
	if err != nil {
		r.fail(CheckSelection, selectionText(Selection()), selectionText(q.Selection), "quote is over other registers", "quote the SHA-256 bank, PCR 0 to 9 and 11 to 15")
	} else {
		r.pass(CheckSelection, selectionText(q.Selection))
	}
}

// checkSignature verifies the quote's signature, in the scheme that the key
// is fixed to where that is known.
func (r *Result) checkSignature(ev *Evidence, key crypto.PublicKey, fixed scheme) {
	if key == nil {
		r.fail(CheckSignature, "a signature by a certified key", "no certificate", "quote cannot be verified", remedyEnrol)
		return
	}
	s, err := verifySignature(key, ev.Attest, ev.Signature)
	if err == nil && fixed != (scheme{}) && s != fixed {
		err = fmt.Errorf("scheme %s, the key signs in %s: %w", s, fixed, ErrSignature)
	}
	if err != nil {
		r.fail(CheckSignature, "a signature by the AK", oneLine(err), "quote is not signed by the certified key", "quote anew with the enrolled key")
		return
	}
	r.hash, r.Scheme = hashes[s.hash], s.String()
	r.pass(CheckSignature, r.Scheme)
}

// checkLog computes the registers from the log and the runtime events. PCR 15
// is the supervisor's: a log that extends it would let firmware events stand
// in for runtime events.
func (r *Result) checkLog(ev *Evidence, o *Options) {
	r.shown = ev.PCRs
	if len(ev.EventLog) == 0 && ev.PCRs != nil {
		r.skip(CheckLog, "there is no event log: what made the registers is not known")
		r.skip(CheckLogStructure, "there is no event log")
		r.takeRegisters()
		return
	}
	l, err := eventlog.ParseTPM(ev.EventLog)
	if err == nil && len(l.Of(pcr.RuntimeConfig)) != 0 && (!o.AnySelection || len(ev.RuntimeEvents) > 0) {
		err = fmt.Errorf("firmware events in PCR %d", pcr.RuntimeConfig)
	}
	var replayed Banks
	if err == nil {
		replayed, err = replayBanks(l)
	}
	if err != nil {
		r.fail(CheckLog, "a crypto-agile TCG log", oneLine(err), "event log does not parse", "send the firmware's log as it is")
		r.skip(CheckLogStructure, "event log does not parse")
		return
	}
	r.Log = l
	r.pass(CheckLog, fmt.Sprintf("%d events", len(l.Events)))
	r.checkStructure(l)
	if !o.AnySelection || len(ev.RuntimeEvents) > 0 {
		for a := range replayed {
			replayed[a][pcr.RuntimeConfig] = extendRuntime(a, ev.RuntimeEvents)
		}
	}
	if ev.PCRs == nil {
		r.shown = replayed
	} else {
		r.checkReplay(l, replayed, ev.PCRs)
	}
	r.takeRegisters()
}

// checkStructure refuses logs that no measured boot writes.
func (r *Result) checkStructure(l *eventlog.Log) {
	vs := l.Check()
	if len(vs) == 0 {
		r.pass(CheckLogStructure, "")
		return
	}
	var text []string
	for i, v := range vs {
		if i == 8 {
			text = append(text, fmt.Sprintf("… %d more", len(vs)-i))
			break
		}
		text = append(text, v.Error())
	}
	r.fail(CheckLogStructure, "the log of a measured boot", strings.Join(text, "; "), "event log has events where no firmware puts them",
		"boot again without anything between firmware and the image, and send the firmware's log as it is")
}

// checkReplay holds the registers that the log extends against those that
// came with the quote.
func (r *Result) checkReplay(l *eventlog.Log, replayed, shown Banks) {
	var want, got []string
	for _, a := range []eventlog.Algorithm{eventlog.SHA256, eventlog.SHA384} {
		for n := range numPCRs {
			v, ok := shown[a][n]
			if !ok || replayed[a] == nil || len(l.Of(n)) == 0 && n != pcr.RuntimeConfig {
				continue
			}
			if w := replayed[a][n]; string(w) != string(v) {
				name := fmt.Sprintf("%s:%d=", bankNames[a], n)
				want, got = append(want, name+hex.EncodeToString(v)), append(got, name+hex.EncodeToString(w))
			}
		}
	}
	if len(want) > 0 {
		r.fail(CheckLogReplay, strings.Join(want, " "), strings.Join(got, " "), "event log does not replay to the registers", "send the log of the same boot")
		return
	}
	r.pass(CheckLogReplay, "")
}

// takeRegisters fills Registers from the SHA-256 bank.
func (r *Result) takeRegisters() {
	r.Registers = pcr.Values{}
	for _, n := range PCRs() {
		if v := r.shown[eventlog.SHA256][int(n)]; len(v) == len(digest.SHA256{}) {
			r.Registers[int(n)] = digest.SHA256(v)
		}
	}
}

// checkDigest holds the registers against the signed digest.
func (r *Result) checkDigest() {
	if r.Quote == nil || r.shown == nil {
		r.fail(CheckPCRDigest, "registers that replay", "none", "registers are not proven", "see the failed checks of quote and event log")
		return
	}
	h := r.hash
	if h == 0 {
		h = crypto.SHA256 // the signature fails already; this says whether the registers would fit
	}
	picked, err := r.shown.pick(r.Quote.Selection)
	if err != nil {
		r.fail(CheckPCRDigest, "a value for each quoted register", oneLine(err), "registers are not proven", "send the values of every quoted register")
		return
	}
	r.Banks = picked
	want, got := hex.EncodeToString(r.Quote.PCRDigest), hex.EncodeToString(picked.digest(r.Quote.Selection, h))
	if want != got {
		r.fail(CheckPCRDigest, cmp.Or(want, "none"), cmp.Or(got, "none"), "event log and runtime events do not replay to the quoted registers", "send the log and events of the same boot")
		return
	}
	r.pass(CheckPCRDigest, got)
}

// names lists the subjects of certificates.
func names(cs []*x509.Certificate) string {
	if len(cs) == 0 {
		return "none"
	}
	var out []string
	for _, c := range cs {
		out = append(out, withKeyID(c.Subject.String(), c.SubjectKeyId))
	}
	sort.Strings(out)
	return strings.Join(out, " | ")
}

// oneLine is an error's text on one line.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

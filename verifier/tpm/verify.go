package tpm

import (
	"crypto/x509"
	"encoding/hex"
	"fmt"
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
	CheckFormat       = "tpm.quote.format"        // TPMS_ATTEST is well-formed and made by a TPM
	CheckType         = "tpm.quote.type"          // it is a quote
	CheckSignature    = "tpm.quote.signature"     // the AK signed it
	CheckExtraData    = "tpm.quote.extra_data"    // it carries the claims' hash
	CheckSelection    = "tpm.quote.pcr_selection" // it is over exactly PCRs
	CheckLog          = "tpm.event_log.format"    // the event log is well-formed
	CheckPCRDigest    = "tpm.quote.pcr_digest"    // log and runtime events replay to what is signed
)

// Evidence is what a TPM shows, as bytes that nobody has checked.
type Evidence struct {
	Attest        []byte   // TPMS_ATTEST
	Signature     []byte   // TPMT_SIGNATURE
	CertChain     [][]byte // DER, attestation key certificate first
	EventLog      []byte   // crypto-agile TCG log
	RuntimeEvents [][]byte // what PCR 15 was extended with the SHA-256 of, in order
}

// Options of Verify.
type Options struct {
	AKRoots        []*x509.Certificate
	Now            time.Time
	QualifyingData [32]byte // what the quote must carry
}

// Result is what Verify found.
type Result struct {
	Checks    []result.Check
	Registers pcr.Values    // every one of PCRs, as replayed; proven only if no check failed
	Log       *eventlog.Log // nil if it does not parse
	Quote     *Quote        // nil if it does not parse
	NotAfter  time.Time     // end of the certificates' validity
}

// Verify checks a quote by an attestation key whose certificate an accepted
// authority issued, and what the quote is over. It makes every check, whatever
// failed before.
func Verify(ev *Evidence, o *Options) *Result {
	r := &Result{}
	leaf := r.checkCertificate(ev.CertChain, o)
	r.checkQuote(ev, o, leaf)
	r.replay(ev)
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
// area in it, and returns it, or nil.
func (r *Result) checkCertificate(der [][]byte, o *Options) *x509.Certificate {
	chain, err := parseChain(der)
	if err != nil {
		r.fail(CheckAKChain, "a certificate chain", err.Error(), "AK certificate chain does not parse", remedyEnrol)
		r.skip(CheckAKValidity, "no certificate")
		r.skip(CheckAKAttributes, "no certificate")
		return nil
	}
	leaf := chain[0]
	end, err := verifyChain(chain, o.AKRoots, oidAKCertificate, o.Now)
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
	public, err := certifiedPublic(leaf)
	if err == nil {
		p, key, perr := parsePublic(public)
		switch {
		case perr != nil:
			err = perr
		case !sameKey(leaf, key):
			err = fmt.Errorf("public area is not that of the certificate's key")
		default:
			err = checkAK(p)
		}
	}
	if err != nil {
		r.fail(CheckAKAttributes, "a restricted signing key of one TPM", oneLine(err), "AK is no attestation key", remedyEnrol)
		return leaf
	}
	r.pass(CheckAKAttributes, "restricted, sign, fixedTPM, fixedParent")
	return leaf
}

func (r *Result) checkQuote(ev *Evidence, o *Options, leaf *x509.Certificate) {
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
	if leaf == nil {
		r.fail(CheckSignature, "a signature by a certified key", "no certificate", "quote cannot be verified", remedyEnrol)
	} else if err := verifySignature(leaf.PublicKey, ev.Attest, ev.Signature); err != nil {
		r.fail(CheckSignature, "a signature by the AK", oneLine(err), "quote is not signed by the certified key", "quote anew with the enrolled key")
	} else {
		r.pass(CheckSignature, "")
	}
	if q == nil {
		r.skip(CheckExtraData, "quote does not parse")
		r.skip(CheckSelection, "quote does not parse")
		return
	}
	want := hex.EncodeToString(o.QualifyingData[:])
	if got := hex.EncodeToString(q.ExtraData); got != want {
		r.fail(CheckExtraData, want, got, "quote does not carry the hash of the claims", "quote over these claims")
	} else {
		r.pass(CheckExtraData, got)
	}
	if !exactSelection(q.Selection) {
		r.fail(CheckSelection, selectionText(Selection()), selectionText(q.Selection), "quote is over other registers", "quote the SHA-256 bank, PCR 0 to 9 and 11 to 15")
	} else {
		r.pass(CheckSelection, selectionText(q.Selection))
	}
}

// replay computes the registers from the log and the runtime events. PCR 15
// is the supervisor's: a log that extends it would let firmware events stand
// in for runtime events.
func (r *Result) replay(ev *Evidence) {
	l, err := eventlog.ParseTPM(ev.EventLog)
	if err == nil && len(l.Of(pcr.RuntimeConfig)) != 0 {
		err = fmt.Errorf("firmware events in PCR %d", pcr.RuntimeConfig)
	}
	var regs eventlog.Registers
	if err == nil {
		regs, err = l.Replay(eventlog.SHA256)
	}
	if err != nil {
		r.fail(CheckLog, "a crypto-agile TCG log", oneLine(err), "event log does not parse", "send the firmware's log as it is")
		return
	}
	r.Log = l
	r.pass(CheckLog, fmt.Sprintf("%d events", len(l.Events)))
	r.Registers = pcr.Values{}
	for _, n := range PCRs() {
		r.Registers[int(n)] = digest.SHA256{} // what no event extends is still zero
		if v, ok := regs[int(n)]; ok {
			r.Registers[int(n)] = digest.SHA256(v)
		}
	}
	r.Registers[pcr.RuntimeConfig] = pcr.Runtime(ev.RuntimeEvents)
}

// checkDigest holds the replayed registers against the signed digest (TPM 2.0
// Library, Part 3, section 18.4 TPM2_Quote: hash of the concatenated values).
func (r *Result) checkDigest() {
	if r.Quote == nil || r.Log == nil {
		r.fail(CheckPCRDigest, "registers that replay", "none", "registers are not proven", "see the failed checks of quote and event log")
		return
	}
	var all []byte
	for _, n := range PCRs() {
		v := r.Registers[int(n)]
		all = append(all, v[:]...)
	}
	want, got := hex.EncodeToString(r.Quote.PCRDigest), digest.Sum256(all).String()
	if want != got {
		r.fail(CheckPCRDigest, want, got, "event log and runtime events do not replay to the quoted registers", "send the log and events of the same boot")
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

// Package rim reads and verifies NVIDIA reference integrity manifests (RIMs).
// In comes one signed SWID document, of a GPU driver, a VBIOS or a switch
// BIOS, as NVIDIA's RIM service gives it out; out go the reference
// measurements that it names and a check for each step.
//
// Definitions: ISO/IEC 19770-2:2015 (SWID); TCG "Reference Integrity Manifest
// Information Model" 1.01; W3C "XML Signature Syntax and Processing" 1.1 and
// "Canonical XML" 1.1, of which one narrow profile is taken: what NVIDIA's
// documents use. Everything outside the profile is refused (dsig.go).
package rim

import (
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"strings"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/result"
)

// Limits of a document. NVIDIA's have 18 to 26 KiB and 31 or 64 measurements.
const (
	MaxDocument     = 256 << 10 // bytes
	MaxMeasurements = 256
	MaxAlternatives = 32
	MaxChain        = 6 // certificates; NVIDIA's chains have 4
)

// IDs of the checks, which are the codes of their faults too.
const (
	CheckParse     = "rim.parse"     // the document is of the profile
	CheckDigest    = "rim.digest"    // its content has the signed digest
	CheckSignature = "rim.signature" // its signature is by the signer's key
	CheckChain     = "rim.chain"     // the signer's chain ends in a pinned root
	CheckValidity  = "rim.validity"  // all its certificates are valid now
)

// Hash is a SHA-384 digest.
type Hash [48]byte

// Measurement is the reference for one measurement of a device.
type Measurement struct {
	Index        int    // 0-based; SPDM counts the same block from 1
	Active       bool   // only active ones are compared
	Name         string // as NVIDIA names it; means nothing to a verifier
	Alternatives []Hash // any of them is good
}

// Document is a RIM whose checks were made.
type Document struct {
	Name           string // of the software: the chip, such as "GH100"
	Version        string // colloquialVersion: of the driver, VBIOS or BIOS
	Product        string
	Edition        string // "GPU" or "SWITCH"
	ManufacturerID string // FirmwareManufacturerId: "5703", NVIDIA's enterprise number
	TagID          string // 96 hex digits
	SHA256         [32]byte
	Measurements   []Measurement // by index, rising

	// NotBefore and NotAfter bound the time in which every certificate of the
	// chain is valid.
	NotBefore, NotAfter time.Time
	Signer              string              // common name of Chain[0]
	Chain               []*x509.Certificate // leaf first; the last is the pinned root
}

// SignerNotBefore is when the signer's certificate begins. NVIDIA signs a RIM
// anew, under the same id, when a signer expires: of two documents with one
// id the one with the later signer is the newer.
func (d *Document) SignerNotBefore() time.Time { return d.Chain[0].NotBefore }

// MatchesID reports whether the document's version is the one that an id of
// the RIM service ends in; a VBIOS or BIOS has no dots there.
func (d *Document) MatchesID(id string) bool {
	id, v := strings.ToUpper(id), strings.ToUpper(d.Version)
	return strings.HasSuffix(id, "_"+v) || strings.HasSuffix(id, "_"+strings.ReplaceAll(v, ".", ""))
}

// Options of Verify. The zero value trusts NVIDIA's root and takes the
// present time.
type Options struct {
	Roots        *Roots    // pinned roots; nil: NVIDIA's
	Now          time.Time // zero: the present
	AllowExpired bool      // a chain that has expired is reported as skipped, not failed
	Cache        *Cache    // of documents verified before; nil: none
}

// Verify reads and verifies a document. The checks are returned in any case,
// one for each ID; the error joins the faults of those that failed. The
// document is nil unless all of them passed, or only the validity was waived;
// it is shared with the cache and must not be changed.
func Verify(doc []byte, o *Options) (*Document, []result.Check, error) {
	if o == nil {
		o = &Options{}
	}
	roots, now := o.Roots, o.Now
	if roots == nil {
		roots = NVIDIARoots()
	}
	if now.IsZero() {
		now = time.Now()
	}
	d := o.Cache.get(doc, roots)
	r := &report{}
	if d != nil {
		for _, id := range []string{CheckParse, CheckDigest, CheckSignature, CheckChain} {
			r.pass(id)
		}
	} else if d = open(doc, roots, r); d != nil {
		o.Cache.put(doc, roots, d)
	}
	if d == nil {
		r.skip(CheckValidity, "the chain did not verify")
		return nil, r.checks, errors.Join(r.errs...)
	}
	if !r.validity(d, now, o.AllowExpired) {
		return nil, r.checks, errors.Join(r.errs...)
	}
	return d, r.checks, nil
}

// open makes all checks that do not depend on the moment.
func open(raw []byte, roots *Roots, r *report) *Document {
	s, err := parse(raw)
	if err != nil {
		r.fail(fault.New(fault.ExitParse, CheckParse, "get the document again from the RIM service", "reading RIM: %w", err).Expect("a signed CoSWID document in SWID form"))
		for _, id := range []string{CheckDigest, CheckSignature, CheckChain} {
			r.skip(id, "the document was not read")
		}
		return nil
	}
	r.pass(CheckParse)
	good := r.note(CheckDigest, s.checkDigest(), "the document was changed after it was signed: get it again from the RIM service")
	good = r.note(CheckSignature, s.checkSignature(), "the signature is not by the certificate it names: get the document again from the RIM service") && good
	chain, err := verifyChain(s.certs, roots)
	good = r.note(CheckChain, err, "only documents signed under NVIDIA's CoRIM root are taken; one of a debug root is not for production") && good
	if !good {
		return nil
	}
	d := s.doc
	d.SHA256 = sha256.Sum256(raw)
	d.Chain, d.Signer = chain, chain[0].Subject.CommonName
	d.NotBefore, d.NotAfter = window(chain)
	return &d
}

// report collects checks and the faults of those that failed.
type report struct {
	checks []result.Check
	errs   []error
}

func (r *report) pass(id string) {
	r.checks = append(r.checks, result.Check{ID: id, Status: result.Pass})
}

func (r *report) skip(id, reason string) {
	r.checks = append(r.checks, result.Check{ID: id, Status: result.Skip, Reason: reason})
}

func (r *report) fail(f *fault.Fault) {
	r.checks = append(r.checks, result.Check{ID: f.Code, Status: result.Fail, Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
	r.errs = append(r.errs, f)
}

// wanted is what would have passed, by check.
var wanted = map[string]string{
	CheckDigest:    "the content that was signed",
	CheckSignature: "a signature by the signer's key",
	CheckChain:     "a signer under a pinned root",
}

// note records a check as passed or failed and returns which.
func (r *report) note(id string, err error, remedy string) bool {
	if err == nil {
		r.pass(id)
		return true
	}
	f := fault.New(fault.ExitRefused, id, remedy, "verifying RIM: %w", err)
	var m *mismatchError
	if errors.As(err, &m) {
		f.Expected, f.Actual = m.expected, m.actual
	} else {
		f.Expect(wanted[id])
	}
	r.fail(f)
	return false
}

// validity holds the chain's window against the clock. A signer that is not
// valid yet is never waived.
func (r *report) validity(d *Document, now time.Time, allowExpired bool) bool {
	stamp := func(t time.Time) string { return t.UTC().Format(time.RFC3339) }
	c := result.Check{ID: CheckValidity, Status: result.Pass,
		Expected: stamp(d.NotBefore) + " to " + stamp(d.NotAfter), Actual: stamp(now)}
	switch {
	case now.Before(d.NotBefore):
		c.Status, c.Reason, c.Remedy = result.Fail, "a certificate of the chain is not valid yet", "check the clock"
	case now.After(d.NotAfter) && allowExpired:
		c.Status, c.Reason = result.Skip, "a certificate of the chain has expired, which the policy allows"
	case now.After(d.NotAfter):
		c.Status, c.Reason = result.Fail, "a certificate of the chain has expired"
		c.Remedy = "get the document again: NVIDIA signs it anew under the same id"
	}
	if c.Status == result.Fail {
		r.fail(&fault.Fault{Code: c.ID, Exit: fault.ExitRefused, Msg: "verifying RIM: " + c.Reason, Expected: c.Expected, Actual: c.Actual, Remedy: c.Remedy})
		return false
	}
	r.checks = append(r.checks, c)
	return true
}

// mismatchError is a value that differs from what was expected.
type mismatchError struct{ what, expected, actual string }

// Error says what differs.
func (e *mismatchError) Error() string { return e.what + " differs" }

// Known architectures, as evidence names them.
const (
	Hopper    = "hopper"
	Blackwell = "blackwell"
)

// defaultChip is assumed for a Blackwell GPU whose report has no CHIP_INFO.
const defaultChip = "GB100"

// DriverID returns the RIM service's id of a driver for an architecture and
// chip. The chip is the report's CHIP_INFO, which Hopper does not have and
// early Blackwell drivers leave out; empty: GB100.
func DriverID(arch, chip, driver string) string {
	if strings.EqualFold(arch, Hopper) {
		return "NV_GPU_DRIVER_GH100_" + driver
	}
	if chip == "" {
		chip = defaultChip
	}
	return "NV_GPU_CC_DRIVER_" + strings.ToUpper(chip) + "_" + driver
}

// VBIOSID returns the RIM service's id of a VBIOS, from what a GPU's report
// says of its board; vbios is dotted, such as "96.00.9F.00.01".
func VBIOSID(project, projectSKU, chipSKU, vbios string) string {
	return strings.ToUpper("NV_GPU_VBIOS_" + project + "_" + projectSKU + "_" + chipSKU + "_" + strings.ReplaceAll(vbios, ".", ""))
}

// SwitchID returns the RIM service's id of the BIOS of an LS10 NVSwitch; bios
// is dotted, such as "96.10.55.00.01".
func SwitchID(bios string) string {
	return "NV_SWITCH_BIOS_5612_0002_890_" + strings.ToUpper(strings.ReplaceAll(bios, ".", ""))
}

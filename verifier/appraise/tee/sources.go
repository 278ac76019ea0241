package tee

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"cocoon/internal/fault"
	"cocoon/verifier/appraise"
	"cocoon/verifier/azure/hcl"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/pck"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/snp/kds"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// DefaultFetchTimeout bounds what one appraisal waits for the makers' services.
const DefaultFetchTimeout = 10 * time.Second

// IDs of the checks that say where collateral came from.
const (
	checkDCAPSource = "dcap.collateral.source"
	checkSNPSource  = "snp.collateral.source"
)

// Sources are where an appraiser gets what evidence does not bring along, or
// brings out of date. None of them is trusted: the clients verify what they
// hold and return.
type Sources struct {
	PCS     *pcs.Client   // nil: Intel's collateral is the evidence's own
	KDS     *kds.Client   // nil: there is no CRL, and certificates are the evidence's own
	Timeout time.Duration // of what one appraisal waits; 0: DefaultFetchTimeout
}

// fetched is what the appraisal of one piece of evidence rests on beside it.
type fetched struct {
	dcap       *collateral.Set
	raw        *collateral.Raw // brought, and not to be opened: the verification says why
	vcek, crl  []byte
	dcapChecks []result.Check
	snpChecks  []result.Check
}

// prepare gets what the evidence of a type needs, within the context and the
// sources' timeout. What cannot be had is a failed check.
func (o *Options) prepare(ctx context.Context, cpu *evidence.CPU, brought json.RawMessage, p *policy.Policy, now time.Time) *fetched {
	if o.Sources.PCS != nil || o.Sources.KDS != nil {
		timeout := o.Sources.Timeout
		if timeout <= 0 {
			timeout = DefaultFetchTimeout
		}
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, timeout)
		defer cancel()
	}
	f := &fetched{}
	switch cpu.Type {
	case evidence.TypeTDX:
		f.intel(ctx, o, cpu.Quote, brought, false, tdxGrace(p), now)
	case evidence.TypeSGX:
		f.intel(ctx, o, cpu.Quote, brought, false, sgxGrace(p), now)
	case evidence.TypeAzTDX:
		f.intel(ctx, o, cpu.TDQuote, brought, true, tdxGrace(p), now)
	case evidence.TypeSNP:
		f.amd(ctx, o, cpu.Quote, cpu.CertChain, p, now)
	case evidence.TypeAzSNP:
		if h, err := hcl.Parse(cpu.HCLReport); err == nil && h.Type == hcl.SNP {
			f.amd(ctx, o, h.Hardware, cpu.CertChain, p, now)
		} else if len(cpu.CertChain) > 0 {
			f.vcek = cpu.CertChain[0] // the verification says what is wrong
		}
	}
	return f
}

func tdxGrace(p *policy.Policy) time.Duration {
	if p.DCAP == nil || p.DCAP.TDX == nil {
		return 0
	}
	return p.DCAP.TDX.CollateralGrace()
}

func sgxGrace(p *policy.Policy) time.Duration {
	if p.DCAP == nil || p.DCAP.SGX == nil {
		return 0
	}
	return p.DCAP.SGX.CollateralGrace()
}

// intel finds collateral for a quote: the evidence's own as long as it is
// valid, else the source's.
func (f *fetched) intel(ctx context.Context, o *Options, quote []byte, brought json.RawMessage, padding bool, grace time.Duration, now time.Time) {
	fail := func(err error) { f.dcapChecks = append(f.dcapChecks, checksOf(err)...) }
	if o.Collateral != nil {
		set, err := o.Collateral(quote, now)
		if f.dcap = set; err != nil {
			fail(err)
		}
		return
	}
	var broken error
	none := len(brought) == 0
	if !none {
		f.dcap, f.raw, broken = o.open(brought)
		none = errors.Is(broken, errNone)
	}
	usable := f.dcap != nil && f.dcap.ValidAt(now, grace)
	if usable || o.Sources.PCS == nil {
		if usable {
			f.dcapChecks = append(f.dcapChecks, result.Check{ID: checkDCAPSource, Status: result.Pass, Actual: "brought with the evidence"})
		}
		if broken != nil && f.raw == nil && !none {
			fail(broken)
		}
		return
	}
	req, err := pcs.RequestOf(quote, nil, padding, o.DCAP.Roots)
	if err != nil {
		return // the quote's verification says what is wrong with it
	}
	var set *collateral.Set
	var from pcs.Origin
	appraise.Blocking(ctx, func() { set, from, err = o.Sources.PCS.Lookup(ctx, req) })
	if err != nil {
		fail(err)
		return
	}
	f.dcap, f.raw = set, nil
	why := "evidence brings none"
	if !none {
		why = "what evidence brings is not valid at this time"
	}
	f.dcapChecks = append(f.dcapChecks, result.Check{ID: checkDCAPSource, Status: result.Pass, Actual: from.String(), Reason: why})
}

// memberGPUs is the member of evidence's collateral that is not for quotes
// (package appraise/nvgpu).
const memberGPUs = "nvgpu"

// errNone says that a document has collateral for GPUs alone.
var errNone = errors.New("there is no collateral for quotes")

// parseCollateral reads evidence's collateral but for what is for its GPUs.
func parseCollateral(doc []byte) (*collateral.Raw, error) {
	if !bytes.Contains(doc, []byte(memberGPUs)) {
		return collateral.ParseJSON(doc)
	}
	var members map[string]json.RawMessage
	if err := json.Unmarshal(doc, &members); err != nil || members[memberGPUs] == nil {
		return collateral.ParseJSON(doc) // which says what is wrong
	}
	if delete(members, memberGPUs); len(members) == 0 {
		return nil, errNone
	}
	rest, err := json.Marshal(members)
	if err != nil {
		return nil, fmt.Errorf("reading collateral: %w", err)
	}
	return collateral.ParseJSON(rest)
}

// open opens collateral that evidence brought, or finds it opened. raw is what
// parses and does not open.
func (o *Options) open(doc json.RawMessage) (*collateral.Set, *collateral.Raw, error) {
	if c := o.DCAP.Cache; c != nil {
		if set, err := c.OpenJSON(doc, o.DCAP.Roots, parseCollateral); err == nil || errors.Is(err, errNone) {
			return set, nil, err
		}
	}
	raw, err := parseCollateral(doc)
	if err != nil {
		return nil, nil, err
	}
	roots := o.DCAP.Roots
	if roots == nil {
		roots = pck.IntelRoots()
	}
	set, err := collateral.Open(raw, roots)
	if err != nil {
		return nil, raw, err
	}
	return set, nil, nil
}

// amd finds certificate and CRL for a report: the evidence's certificate as
// long as it is valid, else the KDS's; the CRL is always the KDS's, because
// evidence has no place for one.
func (f *fetched) amd(ctx context.Context, o *Options, raw []byte, chain [][]byte, p *policy.Policy, now time.Time) {
	if len(chain) > 0 {
		f.vcek = chain[0]
	}
	f.crl = o.SNP.CRL
	c := o.Sources.KDS
	if c == nil {
		return
	}
	body, table, err := report.Split(raw)
	if err != nil {
		return // the report's verification says what is wrong with it
	}
	r, err := report.Parse(body)
	if err != nil || r.Signer == report.None {
		return
	}
	roots := o.SNP.Roots
	if roots == nil {
		roots = vek.AMDRoots()
	}
	if len(f.vcek) == 0 {
		f.vcek = table.Leaf(r.Signer)
	}
	cert := parseVEK(f.vcek, r.Signer, roots)
	certificate := "brought with the evidence"
	if len(f.vcek) == 0 || cert != nil && now.After(cert.NotAfter) {
		var der []byte
		var from kds.Origin
		appraise.Blocking(ctx, func() { der, from, err = c.LookupCertificate(ctx, r, body) })
		if err != nil {
			f.snpChecks = append(f.snpChecks, checksOf(err)...)
		} else {
			f.vcek, cert, certificate = der, parseVEK(der, r.Signer, roots), from.String()
		}
	}
	if cert == nil {
		return
	}
	var list []byte
	var from kds.Origin
	appraise.Blocking(ctx, func() { list, from, err = c.LookupCRL(ctx, cert.Line) })
	switch {
	case err == nil:
		f.crl = list
		f.snpChecks = append(f.snpChecks, result.Check{ID: checkSNPSource, Status: result.Pass, Actual: "certificate " + certificate + "; CRL " + from.String()})
	case p.SNP != nil && p.SNP.RequireCRL:
		f.snpChecks = append(f.snpChecks, checksOf(err)...)
	default:
		f.snpChecks = append(f.snpChecks, result.Check{ID: checkSNPSource, Status: result.Pass, Actual: "certificate " + certificate + "; no CRL, which the policy allows: " + codeOf(err)})
	}
}

// parseVEK returns a certificate that leads to a root, nil for another.
func parseVEK(b []byte, s report.Signer, roots *vek.Roots) *vek.Cert {
	der, err := vek.DER(b)
	if err != nil {
		return nil
	}
	c, err := vek.Verify(der, s, roots)
	if err != nil {
		return nil
	}
	return c
}

func codeOf(err error) string {
	if all := fault.All(err); len(all) > 0 {
		return all[0].Code
	}
	return oneLine(err)
}

// checksOf returns a failed check for each fault of an error.
func checksOf(err error) []result.Check {
	out := &outcome{}
	out.faults(err)
	return out.CPU
}

// material returns what was prepared, or prepares it now.
func (o *Options) material(cpu *evidence.CPU, brought json.RawMessage, p *policy.Policy, now time.Time) *fetched {
	if o.fetched != nil {
		return o.fetched
	}
	// An appraiser has no context: the sources' timeout bounds this.
	return o.prepare(context.Background(), cpu, brought, p, now)
}

// takeIntel gives a quote's verification its collateral. Failures are checks
// beside those of the verification, which finds none.
func (f *fetched) takeIntel(d *dcap.Options, out *outcome) {
	out.CPU = append(out.CPU, f.dcapChecks...)
	d.Collateral, d.RawCollateral = f.dcap, f.raw
}

// with returns options for this evidence alone, with all that it needs.
func (o Options) with(ctx context.Context, cpu *evidence.CPU, brought json.RawMessage, p *policy.Policy, now time.Time) Options {
	o.fetched = o.prepare(ctx, cpu, brought, p, now)
	return o
}

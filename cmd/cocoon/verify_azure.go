package main

import (
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/verifier/appraise"
	"cocoon/verifier/appraise/tee"
	"cocoon/verifier/azure"
	"cocoon/verifier/azure/bundle"
	"cocoon/verifier/azure/hcl"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/dcap"
	"cocoon/verifier/policy"
	dcappolicy "cocoon/verifier/policy/dcap"
	snppolicy "cocoon/verifier/policy/snp"
	"cocoon/verifier/result"
	"cocoon/verifier/snp"
)

// cpus returns the appraisers of TEEs, with the collateral that the flags
// name; without such flags it is the evidence's own.
func (f *verifyEvidenceFlags) cpus(cmd *cobra.Command, now time.Time) (map[string]appraise.CPU, error) {
	roots, err := f.trusted()
	if err != nil {
		return nil, err
	}
	o := tee.Options{DCAP: dcap.Options{Roots: roots}}
	if f.collateral != "" {
		raw, err := f.readBundle()
		if err != nil {
			return nil, err
		}
		o.Collateral = func([]byte, time.Time) (*collateral.Set, error) { return collateral.Open(raw, roots) }
	} else if f.pcs != "" {
		o.Collateral = func(quote []byte, _ time.Time) (*collateral.Set, error) {
			req, err := pcs.RequestOf(quote, nil, true, roots)
			if err != nil {
				return nil, nil // the quote's verification says what is wrong
			}
			if req, err = f.request(req); err != nil {
				return nil, err
			}
			return f.fetch(cmd.Context(), cmd.ErrOrStderr(), now, roots, 0, false, req)
		}
	}
	return tee.CPUs(o), nil
}

// azureReport is what "cocoon verify evidence" writes for an Azure bundle;
// docs/verify-tpm.md describes it.
type azureReport struct {
	Accepted     bool              `json:"accepted"`
	TEE          string            `json:"tee"`         // "az-snp" or "az-tdx", empty: it does not parse
	TrustClass   string            `json:"trust_class"` // the same
	Time         time.Time         `json:"time"`
	VM           *hcl.VM           `json:"vm"`
	Hardware     any               `json:"hardware"` // the hardware verifier's result; null: its report does not parse
	Quote        *tpmQuoteReport   `json:"quote"`
	Measurements map[string]string `json:"measurements"`
	Checks       []result.Check    `json:"checks"`

	genuine bool
	faults  []error
}

// runVerifyAzure verifies a bundle of an Azure VM on its own.
func runVerifyAzure(cmd *cobra.Command, doc []byte, f *verifyEvidenceFlags) error {
	rep := &azureReport{Measurements: map[string]string{}, Checks: []result.Check{}}
	err := f.judgeAzure(cmd, doc, rep)
	if fault.ExitCode(err) == fault.ExitInternal {
		return err
	}
	rep.finish(err)
	return rep.write(cmd.OutOrStdout(), f.json)
}

// judgeAzure verifies and appraises. The error has faults that no check of
// the report stands for.
func (f *verifyEvidenceFlags) judgeAzure(cmd *cobra.Command, doc []byte, rep *azureReport) error {
	if len(f.manifests) > 0 || f.tlsSPKI != "" || len(f.challenge) > 0 {
		return usage("evidence of an Azure VM without claims is held against no manifest, TLS key or challenge; --qualifying-data says what its quote must carry")
	}
	now, err := f.now()
	if err != nil {
		return err
	}
	rep.Time = now
	roots, err := f.trusted()
	if err != nil {
		return err
	}
	dp, sp, err := f.azurePolicy()
	if err != nil {
		return err
	}
	ev, err := bundle.Parse(doc)
	if err != nil {
		return fault.New(fault.ExitParse, "azure.bundle.parse", "give the evidence as the guest's agent made it", "%w", err)
	}
	o := &azure.Options{Now: now, AnySelection: true, AnyQualifyingData: f.qualifying == "", TDX: &dcap.Options{Roots: roots}, SNP: &snp.Options{}}
	if sp != nil {
		o.SNP.RequireCRL, o.SNP.CRLMaxAge = sp.RequireCRL, sp.CRLMaxAge()
	}
	if f.qualifying != "" {
		if o.QualifyingData, err = hex.DecodeString(strings.TrimPrefix(f.qualifying, "0x")); err != nil || len(o.QualifyingData) > 64 {
			return usage("reading --qualifying-data: not hex of at most 64 bytes")
		}
	}
	var fetchErr error
	if len(ev.TDQuote) > 0 {
		if dp.TDX != nil {
			o.TDX.CollateralGrace = dp.TDX.CollateralGrace()
		}
		if f.collateral != "" {
			if o.TDX.RawCollateral, err = f.readBundle(); err != nil {
				return err
			}
		} else {
			q := &verifyQuoteFlags{collateralFlags: f.collateralFlags}
			q.padding = true
			in := &quoteInputs{quote: ev.TDQuote, roots: roots, now: now}
			if o.TDX.Collateral, fetchErr = q.fetchFor(cmd.Context(), cmd.ErrOrStderr(), in, o.TDX.CollateralGrace); errors.Is(fetchErr, errNoFetch) {
				fetchErr = nil
			}
		}
	}
	res, err := azure.Verify(ev, o)
	if res == nil {
		return err
	}
	rep.fill(res)
	switch {
	case res.TDX != nil:
		rep.Checks = append(rep.Checks, dp.AppraiseTDX(res.TDX, now)...)
	case res.SNP != nil:
		rep.Checks = append(rep.Checks, sp.Appraise(res.SNP)...)
	}
	return fetchErr
}

// azurePolicy reads --policy: a whole policy, of which the parts about the
// hardware count, or one of these parts alone, beside the other's default.
func (f *verifyEvidenceFlags) azurePolicy() (*dcappolicy.Policy, *snppolicy.Policy, error) {
	if f.policy == "" {
		return dcappolicy.Default(), snppolicy.Default(), nil
	}
	doc, err := readInput("--policy", f.policy, policy.MaxSize)
	if err != nil {
		return nil, nil, err
	}
	if p, err := policy.Parse(doc); err == nil {
		if p.DCAP == nil {
			p.DCAP = &dcappolicy.Policy{} // which accepts no TDX
		}
		return p.DCAP, p.SNP, nil // nil accepts no SNP
	}
	if sp, err := snppolicy.Parse(doc); err == nil {
		return dcappolicy.Default(), sp, nil
	}
	dp, err := dcappolicy.Parse(doc)
	return dp, snppolicy.Default(), err
}

// fill takes over a verification's result.
func (r *azureReport) fill(res *azure.Result) {
	r.TEE, r.TrustClass, r.genuine = res.Class, res.Class, res.Genuine
	r.VM = &res.HCL.VM
	r.Checks = append(r.Checks, res.Checks...)
	r.Measurements = bankMeasurements(res.TPM.Banks)
	hardware := map[string]string{}
	switch {
	case res.SNP != nil:
		r.Hardware, hardware = res.SNP, res.SNP.Measurements()
	case res.TDX != nil:
		r.Hardware, hardware = &res.TDX.Result, res.TDX.Measurements()
	}
	for n, v := range hardware {
		r.Measurements[n] = v
	}
	if q := res.TPM.Quote; q != nil {
		r.Quote = &tpmQuoteReport{QualifyingData: hex.EncodeToString(q.ExtraData), Scheme: res.TPM.Scheme,
			FirmwareVersion: fmt.Sprintf("%016x", q.FirmwareVersion), Clock: q.Clock, ResetCount: q.ResetCount, RestartCount: q.RestartCount}
	}
}

// finish adds the faults that no check stands for and draws the conclusion.
func (r *azureReport) finish(err error) {
	for _, f := range dcappolicy.Faults(r.Checks) {
		r.faults = append(r.faults, f)
	}
	for _, f := range fault.All(err) {
		r.Checks = append(r.Checks, result.Check{ID: f.Code, Status: result.Fail, Expected: f.Expected, Actual: f.Actual, Reason: f.Msg, Remedy: f.Remedy})
		r.faults = append(r.faults, f)
	}
	if len(r.faults) == 0 && !r.genuine {
		r.faults = append(r.faults, fault.New(fault.ExitRefused, "azure.refused", "report this: a refusal without a failed check", "evidence is not genuine"))
	}
	r.Accepted = len(r.faults) == 0
}

// write writes the report and returns what decides the exit code.
func (r *azureReport) write(w io.Writer, asJSON bool) error {
	return writeReport(w, asJSON, r, r.text, r.faults)
}

// text is the report for a person: the verdict, what failed and what to do,
// then what was found.
func (r *azureReport) text() string {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	if r.Accepted {
		line("accepted: Azure confidential VM, trust class %s", r.TrustClass)
	} else {
		line("refused: Azure confidential VM")
	}
	writeFailures(&b, r.Checks)
	if r.TEE != "" {
		line("")
		line("%-14s %s, Secure Boot %v", "vm", plain(r.VM.ID), r.VM.SecureBoot)
		if r.Quote != nil {
			line("%-14s %s", "carries", orNone(r.Quote.QualifyingData))
		}
		for _, n := range append(shownMeasurements(r.Measurements), "launch_digest") {
			if v := r.Measurements[n]; v != "" {
				line("%-14s %s", n, v)
			}
		}
		writeSkipped(&b, r.Checks)
		writeRegisters(&b, r.Measurements)
	}
	return b.String()
}

package main

import (
	"context"
	"encoding/hex"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/jcs"
	"cocoon/measurements/digest"
	"cocoon/verifier/collateral"
	"cocoon/verifier/collateral/pcs"
	"cocoon/verifier/dcap"
	"cocoon/verifier/evidence"
	"cocoon/verifier/pck"
	policy "cocoon/verifier/policy/dcap"
	"cocoon/verifier/result"
	"cocoon/verifier/sgx"
	"cocoon/verifier/tdx"
)

// verifyQuoteFlags are the flags of "cocoon verify tdx" and "sgx".
type verifyQuoteFlags struct {
	collateralFlags
	quote      string
	policy     string
	nonce      string
	claims     string
	reportData string
	json       bool
}

func newVerifyQuoteCmd(tee string) *cobra.Command {
	f := &verifyQuoteFlags{}
	upper := strings.ToUpper(tee)
	cmd := &cobra.Command{
		Use:   tee + " --quote FILE [--collateral FILE|DIR | --pcs URL]",
		Short: "verify an Intel " + upper + " quote",
		Long: `Verifies an Intel ` + upper + ` quote: cryptography, bindings, collateral, TCB status, and
what a policy says of all that. Without --policy only a platform that is
UpToDate is accepted, and nothing that its host can debug.

Exit codes: 0 accepted; 1 usage; 2 refused by cryptography or binding, Revoked
or NotSupported; 3 network; 4 refused by policy or any other TCB status;
5 unparsable input.`,
		Example: `  cocoon verify ` + tee + ` --quote quote.bin
  cocoon verify ` + tee + ` --quote quote.bin --collateral collateral.json --at 2026-07-01T00:00:00Z --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVerifyQuote(cmd, tee, f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.quote, "quote", "", "the quote, a `file` with raw bytes, hex or base64")
	fs.StringVar(&f.policy, "policy", "", "appraise by the policy in this JSON `file`")
	fs.StringVar(&f.nonce, "nonce", "", "require this nonce, `hex`, in the claims (needs --claims)")
	fs.StringVar(&f.claims, "claims", "", "require that the quote was made over the claims in this JSON `file`")
	fs.StringVar(&f.reportData, "report-data", "", "require this report data, `hex`, up to 64 bytes, zero-padded")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	f.register(cmd)
	f.registerQuote(cmd)
	_ = cmd.MarkFlagRequired("quote")
	cmd.MarkFlagsMutuallyExclusive("claims", "report-data")
	cmd.MarkFlagsMutuallyExclusive("nonce", "report-data")
	return cmd
}

// quoteInputs is what the flags name, read and parsed.
type quoteInputs struct {
	tee        string
	now        time.Time
	roots      *pck.Roots
	policy     *policy.Policy
	quote      []byte
	pckChain   []byte
	raw        *collateral.Raw // nil: fetch
	claims     *evidence.Claims
	nonce      *digest.SHA256
	reportData *[64]byte
}

// read reads every input; the error joins what is wrong with any of them.
func (f *verifyQuoteFlags) read(tee string) (*quoteInputs, error) {
	in := &quoteInputs{tee: tee, policy: policy.Default()}
	var errs []error
	keep := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	in.now, err = f.now()
	keep(err)
	in.roots, err = f.trusted()
	keep(err)
	in.quote, err = readQuote(f.quote)
	keep(err)
	if f.pckChain != "" {
		in.pckChain, err = readInput("--pck-chain", f.pckChain, pck.MaxChain)
		keep(err)
	}
	if f.policy != "" {
		var doc []byte
		if doc, err = readInput("--policy", f.policy, policy.MaxSize); err == nil {
			in.policy, err = policy.Parse(doc)
		}
		keep(err)
	}
	if f.collateral != "" {
		in.raw, err = f.readBundle()
		keep(err)
	}
	keep(f.readBinding(in))
	return in, errors.Join(errs...)
}

// readBinding reads what the quote must have been made over.
func (f *verifyQuoteFlags) readBinding(in *quoteInputs) error {
	var err error
	if in.reportData, err = parseReportData(f.reportData); err != nil {
		return err
	}
	if f.nonce != "" {
		if f.claims == "" {
			return usage("--nonce needs --claims: the nonce is one of the claims that the quote is made over")
		}
		n, err := digest.Parse256(strings.ToLower(f.nonce))
		if err != nil {
			return usage("reading --nonce: not 32 bytes of hex")
		}
		in.nonce = &n
	}
	if f.claims == "" {
		return nil
	}
	doc, err := readInput("--claims", f.claims, 2*evidence.MaxClaims)
	if err != nil {
		return err
	}
	// People keep claims in any formatting; what is hashed is their RFC 8785
	// form, and the parser is as strict as ever about the content.
	canonical, err := jcs.Canonical(doc)
	if err == nil {
		in.claims, err = evidence.ParseClaims(canonical)
	}
	if err != nil {
		return fault.New(fault.ExitParse, "claims.parse", "give the claims of the evidence as they were served", "reading --claims: %w", err)
	}
	want, err := in.claims.ReportData()
	if err != nil {
		return err
	}
	in.reportData = &want
	return nil
}

// parseReportData reads the value of --report-data; nil stands for empty.
func parseReportData(s string) (*[64]byte, error) {
	if s == "" {
		return nil, nil
	}
	b, err := hex.DecodeString(strings.TrimPrefix(s, "0x"))
	if err != nil || len(b) > 64 {
		return nil, usage("reading --report-data: not hex of at most 64 bytes")
	}
	var out [64]byte
	copy(out[:], b)
	return &out, nil
}

func runVerifyQuote(cmd *cobra.Command, tee string, f *verifyQuoteFlags) error {
	rep := newQuoteReport(tee)
	in, err := f.read(tee)
	rep.Time = in.now
	rep.Roots = rootsName(in.roots)
	if err == nil {
		err = f.judge(cmd.Context(), cmd.ErrOrStderr(), in, rep)
	}
	if fault.ExitCode(err) == fault.ExitInternal {
		return err // flags and files: there is no verdict to report
	}
	rep.finish(err)
	return rep.write(cmd.OutOrStdout(), f.json)
}

// judge verifies and appraises. The error has faults that no check of the
// report stands for: unparsable input, the network.
func (f *verifyQuoteFlags) judge(ctx context.Context, stderr io.Writer, in *quoteInputs, rep *quoteReport) error {
	common := policyFor(in.policy, in.tee)
	o := &dcap.Options{Roots: in.roots, Now: in.now, RawCollateral: in.raw, PCKChain: in.pckChain, AllowZeroPadding: f.padding}
	if common != nil {
		o.CollateralGrace = common.CollateralGrace()
	}
	var fetchErr error
	if in.raw == nil {
		o.Collateral, fetchErr = f.fetchFor(ctx, stderr, in, o.CollateralGrace)
		if errors.Is(fetchErr, errNoFetch) {
			fetchErr = nil
		}
		if code := fault.ExitCode(fetchErr); code == fault.ExitInternal || code == fault.ExitParse {
			return fetchErr
		}
	}
	var err error
	switch in.tee {
	case "tdx":
		var res *tdx.Result
		if res, err = tdx.Verify(in.quote, o); res != nil {
			rep.fill(&res.Result, res.Measurements())
			rep.Checks = append(rep.Checks, in.policy.AppraiseTDX(res, in.now)...)
			in.bind(rep, res.TD.ReportData)
		}
	case "sgx":
		var res *sgx.Result
		if res, err = sgx.Verify(in.quote, o); res != nil {
			rep.fill(&res.Result, res.Measurements())
			rep.Checks = append(rep.Checks, in.policy.AppraiseSGX(res, in.now)...)
			in.bind(rep, res.Enclave.ReportData)
		}
	}
	if rep.verified == nil {
		return err // the quote does not parse
	}
	if o.Collateral == nil && in.raw == nil {
		rep.noCollateral(fetchErr)
	}
	return fetchErr
}

// errNoFetch stands for a quote whose PCK chain does not hold: there is
// nothing to fetch for it, and the verification says why.
var errNoFetch = errors.New("nothing to fetch")

// fetchFor fetches the collateral that a quote needs. A quote whose chain is
// not under a trusted root makes no request: its FMSPC is anyone's word.
func (f *verifyQuoteFlags) fetchFor(ctx context.Context, stderr io.Writer, in *quoteInputs, grace time.Duration) (*collateral.Set, error) {
	req, err := pcs.RequestOf(in.quote, in.pckChain, f.padding, in.roots)
	if err != nil {
		return nil, errNoFetch
	}
	if req, err = f.request(req); err != nil {
		return nil, err
	}
	return f.fetch(ctx, stderr, in.now, in.roots, grace, false, req)
}

// bind checks what the quote was made over.
func (in *quoteInputs) bind(rep *quoteReport, got [64]byte) {
	if in.reportData != nil {
		rep.Checks = append(rep.Checks, policy.ReportData(in.tee, *in.reportData, got))
	}
	if in.nonce == nil {
		return
	}
	c := result.Check{ID: "claims.nonce", Status: result.Pass, Expected: in.nonce.String(), Actual: in.claims.Nonce.String()}
	if *in.nonce != in.claims.Nonce {
		c.Status = result.Fail
		c.Reason = "the claims answer another challenge"
		c.Remedy = "ask for evidence over your own nonce"
	}
	rep.Checks = append(rep.Checks, c)
}

// policyFor returns the common part of the policy's section for a TEE, nil
// where there is none.
func policyFor(p *policy.Policy, tee string) *policy.Platform {
	switch {
	case tee == "tdx" && p.TDX != nil:
		return &p.TDX.Platform
	case tee == "sgx" && p.SGX != nil:
		return &p.SGX.Platform
	}
	return nil
}

func rootsName(r *pck.Roots) string {
	if r == nil {
		return "intel"
	}
	return "custom"
}

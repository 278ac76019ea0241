package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/verifier/policy/dcap"
	policy "cocoon/verifier/policy/snp"
	"cocoon/verifier/snp"
	"cocoon/verifier/snp/idblock"
	"cocoon/verifier/snp/kds"
	"cocoon/verifier/snp/report"
	"cocoon/verifier/snp/vek"
)

// verifySNPFlags are the flags of "cocoon verify snp".
type verifySNPFlags struct {
	report, cert, chain, crl, bundle, saveBundle string
	kds, cacheDir                                string
	noCache, offline                             bool
	idBlock, idAuth                              string
	at, policy, roots, reportData                string
	json, verbose                                bool
}

func newVerifySNPCmd() *cobra.Command {
	f := &verifySNPFlags{}
	cmd := &cobra.Command{
		Use:   "snp --report FILE [--cert FILE] [--chain FILE] [--kds URL]",
		Short: "verify an AMD SEV-SNP attestation report",
		Long: `Verifies an AMD SEV-SNP attestation report: signature, certificate, chain, CRL,
TCB versions, and what a policy says of all that. Without --policy a guest is
refused that its host can debug or that a migration agent may move.

The certificate comes from --cert, from --bundle, from the report's own
certificate table, or from the KDS that --kds names. Without --kds nothing is
fetched.

Exit codes: 0 accepted; 1 usage; 2 refused by cryptography or binding;
3 network; 4 refused by policy; 5 unparsable input.`,
		Example: `  cocoon verify snp --report report.bin --cert vcek.der
  cocoon verify snp --report report.bin --kds ` + kds.AMD + ` --policy policy.json --json`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return runVerifySNP(cmd, f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.report, "report", "", "the report, or extended report, a `file` with raw bytes, hex or base64")
	fs.StringVar(&f.cert, "cert", "", "the VCEK's or VLEK's certificate, a `file` in DER or PEM")
	fs.StringVar(&f.chain, "chain", "", "the certificates of ASK or ASVK and ARK, a `file` in PEM or DER: they must be AMD's")
	fs.StringVar(&f.crl, "crl", "", "AMD's certificate revocation list, a `file` in DER or PEM")
	fs.StringVar(&f.bundle, "bundle", "", "take certificate, chain and CRL from the `file` that --save-bundle wrote")
	fs.StringVar(&f.saveBundle, "save-bundle", "", "write the certificate, chain and CRL that --kds fetched to this `file`")
	fs.StringVar(&f.kds, "kds", "", "fetch what is missing from the KDS at this base `URL`, such as "+kds.AMD)
	fs.StringVar(&f.cacheDir, "cache-dir", "", "keep what is fetched in this `directory` (default: cocoon/kds in the user's cache directory)")
	fs.BoolVar(&f.noCache, "no-cache", false, "keep what is fetched nowhere")
	fs.BoolVar(&f.offline, "offline", false, "take what the KDS would give from the cache only")
	fs.StringVar(&f.idBlock, "id-block", "", "the ID block that the guest was launched with, a `file` of 96 bytes")
	fs.StringVar(&f.idAuth, "id-auth", "", "the ID authentication that the guest was launched with, a `file` of 4096 bytes")
	fs.StringVar(&f.at, "at", "", "judge as of this `time`, RFC 3339 or Unix seconds (default now)")
	fs.StringVar(&f.policy, "policy", "", "appraise by the policy in this JSON `file`")
	fs.StringVar(&f.roots, "roots", "", "trust the ARK, ASK and ASVK certificates in this `file` instead of AMD's")
	fs.StringVar(&f.reportData, "report-data", "", "require this report data, `hex`, up to 64 bytes, zero-padded")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	fs.BoolVar(&f.verbose, "verbose", false, "log requests and the cache to standard error")
	_ = cmd.MarkFlagRequired("report")
	for _, other := range []string{"cert", "chain", "crl", "kds"} {
		cmd.MarkFlagsMutuallyExclusive("bundle", other)
	}
	cmd.MarkFlagsMutuallyExclusive("cache-dir", "no-cache")
	cmd.MarkFlagsRequiredTogether("id-block", "id-auth")
	return cmd
}

// snpInputs is what the flags name, read and parsed.
type snpInputs struct {
	report     []byte
	opts       snp.Options
	policy     *policy.Policy
	reportData *[64]byte
}

// read reads every input; the error joins what is wrong with any of them.
func (f *verifySNPFlags) read() (*snpInputs, error) {
	in := &snpInputs{policy: policy.Default()}
	var errs []error
	keep := func(err error) {
		if err != nil {
			errs = append(errs, err)
		}
	}
	var err error
	in.opts.Now, err = parseAt(f.at)
	keep(err)
	in.report, err = readEncoded("--report", f.report, report.Size+report.MaxTable)
	keep(err)
	in.reportData, err = parseReportData(f.reportData)
	keep(err)
	for _, file := range []struct {
		flag, path string
		limit      int
		to         *[]byte
	}{
		{"--cert", f.cert, vek.MaxCert, &in.opts.Certificate}, {"--chain", f.chain, vek.MaxChain, &in.opts.Chain}, {"--crl", f.crl, vek.MaxCRL, &in.opts.CRL},
		{"--id-block", f.idBlock, idblock.BlockSize, &in.opts.IDBlock}, {"--id-auth", f.idAuth, idblock.AuthSize, &in.opts.IDAuth},
	} {
		if file.path == "" {
			continue
		}
		*file.to, err = readInput(file.flag, file.path, file.limit)
		if err == nil && len(*file.to) == 0 {
			err = fault.New(fault.ExitParse, "file.empty", "check that it is the right file", "reading %s: %s is empty", file.flag, file.path)
		}
		keep(err)
	}
	keep(f.readDocuments(in))
	keep(f.checkFlags())
	return in, errors.Join(errs...)
}

// readDocuments reads policy, bundle and roots.
func (f *verifySNPFlags) readDocuments(in *snpInputs) error {
	var errs []error
	if f.policy != "" {
		doc, err := readInput("--policy", f.policy, policy.MaxSize)
		if err == nil {
			in.policy, err = policy.Parse(doc)
		}
		errs = append(errs, err)
	}
	if in.policy != nil {
		in.opts.RequireCRL, in.opts.CRLMaxAge = in.policy.RequireCRL, in.policy.CRLMaxAge()
	}
	if f.bundle != "" {
		doc, err := readInput("--bundle", f.bundle, kds.MaxBundle)
		var b *kds.Bundle
		if err == nil {
			b, err = kds.ParseBundle(doc)
		}
		if err == nil {
			in.opts.Certificate, in.opts.Chain, in.opts.CRL = b.Certificate, b.Chain, b.CRL
		}
		errs = append(errs, err)
	}
	if f.roots != "" {
		doc, err := readInput("--roots", f.roots, vek.MaxChain)
		if err == nil {
			if in.opts.Roots, err = vek.ParseRoots(doc); err != nil {
				err = fault.New(fault.ExitParse, "snp.roots.parse", "give ARK, ASK and ASVK certificates in PEM or DER", "reading --roots: %w", err)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (f *verifySNPFlags) checkFlags() error {
	if f.kds != "" {
		return nil
	}
	switch {
	case f.saveBundle != "":
		return usage("--save-bundle needs --kds: without it nothing is fetched")
	case f.offline || f.cacheDir != "" || f.noCache:
		return usage("--offline, --cache-dir and --no-cache need --kds")
	}
	return nil
}

func runVerifySNP(cmd *cobra.Command, f *verifySNPFlags) error {
	rep := newSNPReport()
	in, err := f.read()
	rep.Time = in.opts.Now
	if in.opts.Roots != nil {
		rep.Roots = "custom"
	}
	if err == nil {
		err = f.judge(cmd.Context(), cmd.ErrOrStderr(), in, rep)
	}
	if fault.ExitCode(err) == fault.ExitInternal {
		return err // flags and files: there is no verdict to report
	}
	rep.finish(err)
	return rep.write(cmd.OutOrStdout(), f.json)
}

// judge fetches what is missing, verifies and appraises. The error has faults
// that no check of the report stands for: unparsable input, the network.
func (f *verifySNPFlags) judge(ctx context.Context, stderr io.Writer, in *snpInputs, rep *snpReport) error {
	fetchErr := f.fetch(ctx, stderr, in)
	if fault.ExitCode(fetchErr) == fault.ExitInternal {
		return fetchErr
	}
	res, err := snp.Verify(in.report, &in.opts)
	if res == nil {
		return err
	}
	rep.fill(res, fetchErr != nil)
	rep.Checks = append(rep.Checks, in.policy.Appraise(res)...)
	if in.reportData != nil {
		rep.Checks = append(rep.Checks, dcap.ReportData("snp", *in.reportData, res.Report.ReportData))
	}
	return fetchErr
}

// fetch asks the KDS for what is missing, where one is named. A report that
// does not parse makes no request.
func (f *verifySNPFlags) fetch(ctx context.Context, stderr io.Writer, in *snpInputs) error {
	if f.kds == "" {
		return nil
	}
	body, table, err := report.Split(in.report)
	if err != nil {
		return nil // the verification says what is wrong
	}
	r, err := report.Parse(body)
	if err != nil || r.Signer == report.None {
		return nil
	}
	c, err := f.client(stderr, in.opts.Now, in.opts.Roots)
	if err != nil {
		return err
	}
	cert := in.opts.Certificate
	if len(cert) == 0 {
		cert = table.Leaf(r.Signer)
	}
	b, err := c.Bundle(ctx, r, cert)
	if err != nil {
		if fault.Has(err, "snp.cert.parse") {
			return nil // as above
		}
		return err
	}
	in.opts.Certificate = b.Certificate
	if len(in.opts.Chain) == 0 {
		in.opts.Chain = b.Chain
	}
	if len(in.opts.CRL) == 0 {
		in.opts.CRL = b.CRL
	}
	if f.saveBundle == "" {
		return nil
	}
	doc, err := b.Marshal()
	if err == nil {
		err = os.WriteFile(f.saveBundle, doc, 0o644)
	}
	if err != nil {
		return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing --save-bundle: %w", err)
	}
	return nil
}

// client returns a client of the KDS whose time stands still at now.
func (f *verifySNPFlags) client(stderr io.Writer, now time.Time, roots *vek.Roots) (*kds.Client, error) {
	dir := f.cacheDir
	if f.noCache {
		dir = ""
	} else if dir == "" {
		// Without a home directory there is no cache either.
		if base, err := os.UserCacheDir(); err == nil {
			dir = filepath.Join(base, "cocoon", "kds")
		}
	}
	var log *slog.Logger
	if f.verbose {
		log = slog.New(slog.NewTextHandler(stderr, nil))
	}
	return kds.New(kds.Options{BaseURL: f.kds, Roots: roots, CacheDir: dir, Offline: f.offline, Clock: func() time.Time { return now }, Logger: log})
}

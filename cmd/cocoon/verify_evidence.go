package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/internal/registrysource"
	"cocoon/measurements/digest"
	"cocoon/measurements/manifest"
	"cocoon/verifier/appraise"
	gpus "cocoon/verifier/appraise/nvgpu"
	"cocoon/verifier/azure/bundle"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
)

// verifyEvidenceFlags are the flags of "cocoon verify evidence".
type verifyEvidenceFlags struct {
	collateralFlags
	evidence   string
	manifests  []string
	policy     string
	ton        string
	verifiers  []string
	tlsSPKI    string
	challenge  []string
	qualifying string
	json       bool
}

func newVerifyEvidenceCmd() *cobra.Command {
	f := &verifyEvidenceFlags{}
	cmd := &cobra.Command{
		Use:   "evidence FILE --manifest FILE --policy FILE",
		Short: "verify a worker's evidence against published measurements and a policy",
		Long: `Verifies evidence as a verifier or a client does: quote and certificates,
binding of the claims, event log against the quoted registers, every component
and register against the manifest, the config's fields against its constraints.
All failures are shown at once. It works offline, unless the policy names a
registry: then --ton-config says where to read its proven state, and the
manifests that it lists can come from a verifier (--manifests-from).

It also reads what guest agents of Azure confidential VMs hand over: the virtual
TPM's quote with the HCL report. Such a file has no claims, and is verified on
its own: from the hardware's report to the quote, without a manifest.

Collateral for Intel quotes is the evidence's own, or that of --collateral, or
fetched.

Exit codes: 0 accepted; 1 usage; 2 refused by cryptography or binding; 3 a
service or lite-server does not answer; 4 refused by policy or manifest alone;
5 unparsable input.`,
		Example: `  cocoon verify evidence evidence.json --manifest manifest.json --policy policy.json
  cocoon verify evidence evidence.json --manifest manifest.json --policy policy.json --at 2026-11-22T12:00:00Z --json
  cocoon verify evidence evidence.json --manifests-from https://verifier.example --policy policy.json --ton-config global.config.json
  cocoon verify evidence azure.json --collateral collateral.json --qualifying-data 00ff`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runVerifyEvidence(cmd, args, f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.evidence, "evidence", "", "evidence `file`, the same as the argument")
	fs.StringArrayVar(&f.manifests, "manifest", nil, "manifest `file`, a DSSE envelope; may be repeated")
	fs.StringVar(&f.policy, "policy", "", "policy `file`")
	fs.StringVar(&f.ton, "ton-config", "", "the network's global.config.json `file`; needed where the policy names a registry")
	fs.StringArrayVar(&f.verifiers, "manifests-from", nil, "verifier, `URL`, to fetch the manifests from that the policy's registry lists; may be repeated")
	fs.StringVar(&f.tlsSPKI, "tls-spki", "", "require this SHA-256, `hex`, of the peer's TLS public key (SubjectPublicKeyInfo)")
	fs.StringArrayVar(&f.challenge, "challenge", nil, "require this challenge, `hex`, among the nonce inputs; of several, one")
	fs.StringVar(&f.qualifying, "qualifying-data", "", "Azure only: require this qualifying data, `hex`, in the TPM's quote")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	f.register(cmd)
	return cmd
}

func runVerifyEvidence(cmd *cobra.Command, args []string, f *verifyEvidenceFlags) error {
	if len(args) == 1 {
		if f.evidence != "" {
			return usage("evidence is given twice: as an argument and as --evidence")
		}
		f.evidence = args[0]
	}
	if f.evidence == "" {
		return usage("no evidence is given")
	}
	doc, err := readInput("evidence", f.evidence, evidence.MaxEvidence)
	if err != nil {
		return err
	}
	if bundle.Is(doc) {
		return runVerifyAzure(cmd, doc, f)
	}
	if len(f.manifests)+len(f.verifiers) == 0 || f.policy == "" {
		return usage("--policy, and --manifest or --manifests-from, are needed: evidence is held against both")
	}
	if f.qualifying != "" {
		return usage("--qualifying-data is for evidence of Azure VMs: here the claims say what the quote carries")
	}
	r, err := f.appraise(cmd.Context(), cmd, doc)
	if err != nil {
		return err
	}
	if f.json {
		if err := writeJSON(cmd.OutOrStdout(), r); err != nil {
			return err
		}
	} else if err := writeResult(cmd.OutOrStdout(), r); err != nil {
		return err
	}
	return reported(r.Err())
}

// appraise reads what the flags name and appraises evidence.
func (f *verifyEvidenceFlags) appraise(ctx context.Context, cmd *cobra.Command, doc []byte) (*result.Result, error) {
	ev, o, err := f.read(ctx, doc)
	if err != nil {
		return nil, err
	}
	if o.CPUs, err = f.cpus(cmd, o.Now); err != nil {
		return nil, err
	}
	return appraise.Appraise(ev, o), nil
}

// read reads every input; the error joins what is wrong with any of them.
func (f *verifyEvidenceFlags) read(ctx context.Context, doc []byte) (*evidence.Evidence, *appraise.Options, error) {
	o := &appraise.Options{GPUs: gpus.New(gpus.Options{})}
	var errs []error
	keep := func(err error) bool {
		if err != nil {
			errs = append(errs, err)
		}
		return err == nil
	}
	ev, err := evidence.Parse(doc)
	if err != nil {
		keep(fault.New(fault.ExitParse, "evidence.parse", "give the evidence as it was served", "%w", err))
	}
	if doc, err := readInput("--policy", f.policy, policy.MaxSize); keep(err) {
		if o.Policy, err = policy.Parse(doc); err != nil {
			keep(fault.New(fault.ExitParse, "policy.parse", "correct the policy", "%w", err))
		}
	}
	var manifests []manifest.Published
	for _, path := range f.manifests {
		if p, err := readManifest(path, o.Policy); keep(err) {
			manifests = append(manifests, p)
		}
	}
	if o.Policy != nil {
		var err error
		if o.Registry, manifests, err = f.ledger(ctx, o.Policy, manifests); err != nil {
			keep(err)
		}
		if o.Manifests, err = appraise.OpenManifests(o.Policy, manifests); err != nil {
			keep(manifestFault(err))
		}
	}
	o.Now, err = f.now()
	keep(err)
	if f.tlsSPKI != "" {
		d, err := digest.Parse256(strings.ToLower(f.tlsSPKI))
		if err != nil {
			keep(usage("reading --tls-spki: not 32 bytes of hex"))
		}
		o.TLSSPKI = &d
	}
	for _, c := range f.challenge {
		d, err := digest.Parse256(strings.ToLower(c))
		if err != nil {
			keep(usage("reading --challenge: not 32 bytes of hex"))
		}
		o.Challenges = append(o.Challenges, d)
	}
	return ev, o, errors.Join(errs...)
}

// ledger reads what the policy's registry says, and the manifests that it
// lists. Without --ton-config the appraisal says what is missing.
func (f *verifyEvidenceFlags) ledger(ctx context.Context, p *policy.Policy, manifests []manifest.Published) (_ *appraise.Registry, _ []manifest.Published, err error) {
	if p.Manifests.Registry == nil || f.ton == "" {
		if f.ton != "" || len(f.verifiers) > 0 {
			return nil, manifests, usage("--ton-config and --manifests-from go together with a policy that names a registry (manifests.registry)")
		}
		return nil, manifests, nil
	}
	source, err := registrysource.Open(f.ton, p.Manifests.Registry, nil)
	if err != nil {
		return nil, manifests, err
	}
	defer func() { err = errors.Join(err, source.Close()) }()
	state, err := source.State(ctx)
	if err != nil {
		return nil, manifests, err
	}
	manifests, err = listedManifests(ctx, p, source, manifests, f.verifiers)
	return state, manifests, err
}

// manifestFault gives a failure to open manifests its code.
func manifestFault(err error) error {
	if errors.Is(err, manifest.ErrNotTrusted) && !errors.Is(err, manifest.ErrForm) {
		return fault.New(fault.ExitPolicy, "manifest.trusted", "name the manifest's hash or its signers in the policy", "%w", err)
	}
	return fault.New(fault.ExitParse, "manifest.parse", "give the manifest as it was published", "%w", err)
}

// classText says what a trust class is worth, where that is little.
func classText(class string, development bool, testRoots []string) string {
	switch {
	case len(testRoots) > 0:
		return class + " (development: the verifier trusts test roots, " + strings.Join(testRoots, ", ") + ")"
	case development:
		return class + " (development: measured boot, not confidentiality)"
	}
	return class
}

// furtherModels returns the verity roots of the models that a machine serves
// beside the one of its claims, as far as they were found good.
func furtherModels(r *result.Result) (roots []string) {
	sub := r.Submods[result.SubModel]
	if sub == nil {
		return nil
	}
	for _, c := range sub.Checks {
		if c.ID == "model.verity_root" && c.Status == result.Pass && c.Actual != r.Claims.Model.VerityRoot.String() {
			roots = append(roots, c.Actual)
		}
	}
	return roots
}

// writeStages writes how a boot went, in the supervisor's words. The last
// stage is the one in which the evidence was collected.
func writeStages(line func(string, ...any), s *evidence.Stages) {
	if s == nil {
		return
	}
	var total int64
	for _, g := range s.List {
		total += g.MS
	}
	line("boot      %d stages, %d ms by the guest's clock", len(s.List), total)
	for _, g := range s.List {
		switch {
		case g.Code != "":
			line("  %-12s %s %d ms: %s", g.Name, g.Status, g.MS, g.Code)
		case g.Status == evidence.StageRunning:
			line("  %-12s %s", g.Name, g.Status)
		default:
			line("  %-12s %s %d ms", g.Name, g.Status, g.MS)
		}
	}
}

// lineFailed says how many checks failed and, of each, what and what to do.
func lineFailed(line func(string, ...any), r *result.Result) {
	failed := r.Failed()
	line("refused   %d of %d checks failed", len(failed), len(r.Checks()))
	for _, c := range failed {
		line("  %s: %s", c.ID, plain(c.Reason))
		line("    expected %s", plain(c.Expected))
		line("    actual   %s", plain(c.Actual))
		if c.Remedy != "" {
			line("    hint: %s", plain(c.Remedy))
		}
		if c.Document != "" {
			line("    see      %s: %s", plain(c.Document), plain(c.Section))
		}
	}
}

// writeResult writes a result for a person: the verdict, what failed and what
// to do, then what was found.
func writeResult(w io.Writer, r *result.Result) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	class := classText(r.TrustClass, r.Development, r.TestRoots)
	if r.Accepted {
		line("accepted  %s", r.Status())
	} else {
		lineFailed(line, r)
	}
	line("class     %s", plain(class))
	if r.Manifest != nil {
		line("image     %s version %d", r.Manifest.Name, r.Manifest.Version)
		line("manifest  %s", r.Manifest.SHA256)
	}
	line("model     %s %s", plain(r.Claims.Model.Name), r.Claims.Model.VerityRoot)
	for _, root := range furtherModels(r) {
		line("          %s beside it", plain(root))
	}
	line("tls key   %s", r.Claims.TLSSPKISHA256)
	line("receipts  %s", r.Claims.ReceiptKey)
	line("evidence  %s", r.EvidenceSHA256)
	writeStages(line, r.Stages)
	for _, c := range r.Checks() {
		if c.Status == result.Skip {
			line("skipped   %s: %s", c.ID, plain(c.Reason))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

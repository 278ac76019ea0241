package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/verifier/client"
	"cocoon/verifier/client/quorum"
	"cocoon/verifier/evidence"
)

// appraiseFlags are the flags of "cocoon appraise".
type appraiseFlags struct {
	keyFlags
	besideFlags
	verifiers   []string
	quorum      int
	at          string
	development bool
	json        bool
}

func newAppraiseCmd() *cobra.Command {
	f := &appraiseFlags{}
	cmd := &cobra.Command{
		Use:   "appraise BUNDLE.json --verifier URL (--jwks FILE|URL | --key HEX)",
		Short: "have verifiers appraise evidence, and verify their verdicts",
		Long: `Sends evidence to one or more verifiers and verifies each verdict here: signature
under a pinned key, dates, and that it speaks of this evidence. With --quorum K
it is accepted only if K verifiers with different keys agree on class, keys,
payout, manifest, model and policy.

Recorded evidence of a machine that is none of ours is appraised as of --at:
profile foreign, or what others hand over, a raw TDX or SGX quote (with
--collateral and --event-log), a raw SEV-SNP report (with --certificate), what
the guest agent of an Azure VM or of dstack answers, an NVIDIA device's report
(with --certificate, its chain, --nonce, --rim and --ocsp) or a list of such as
NVIDIA's tools write it. Nothing is accepted then, and no key is needed: the
result shows TCB and registers.

Exit codes: 0 accepted, or foreign evidence without a failed check; 1 usage; 2
refused; 3 no verifier answers; 4 refused by policy alone; 5 unparsable input.`,
		Example: `  cocoon appraise evidence.json --verifier https://verifier.example --jwks https://verifier.example/.well-known/jwks.json
  cocoon appraise evidence.json --verifier https://a.example --verifier https://b.example --key 3b6a… --key 77ab… --quorum 2 --json
  cocoon appraise quote.bin --collateral collateral.json --verifier http://127.0.0.1:8443 --at 2026-06-20T00:00:00Z
  cocoon appraise recorded.json --verifier http://127.0.0.1:8443 --at 2026-06-01T00:00:00Z`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runAppraise(cmd, args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.jwks, "jwks", "", "believe the verifier keys in this JSON Web Key Set, a `file or URL`; a URL is believed as far as its TLS")
	fs.StringArrayVar(&f.keys, "key", nil, "believe this verifier's raw Ed25519 key, `hex`; may be repeated")
	fs.StringArrayVar(&f.verifiers, "verifier", nil, "base `URL` of a verifier; may be repeated")
	fs.IntVar(&f.quorum, "quorum", 1, "how many verifiers with different keys must agree, a `number`")
	fs.StringVar(&f.at, "at", "", "judge verdicts, or appraise foreign evidence, as of this `time`, RFC 3339 or Unix seconds (default now)")
	fs.BoolVar(&f.development, "allow-development", false, "accept verdicts of the development class")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	fs.StringVar(&f.collateral, "collateral", "", "of a raw Intel quote, a JSON `file`")
	fs.StringVar(&f.certificate, "certificate", "", "of the key that signed a raw SEV-SNP report, a `file` (DER or PEM); of an NVIDIA device's report its chain (PEM, leaf first)")
	fs.StringVar(&f.eventLog, "event-log", "", "of a raw TDX quote, a `file`: the CCEL, or a guest agent's JSON log")
	fs.StringVar(&f.nonce, "nonce", "", "that recorded NVIDIA devices were asked with, 32 bytes in `hex`; without it theirs is not checked")
	fs.StringArrayVar(&f.rims, "rim", nil, "reference integrity manifest of recorded NVIDIA devices, a `file`; may be repeated")
	fs.StringArrayVar(&f.ocsps, "ocsp", nil, "OCSP response about recorded NVIDIA devices, a DER `file`; may be repeated")
	_ = cmd.MarkFlagRequired("verifier")
	return cmd
}

func runAppraise(cmd *cobra.Command, path string, f *appraiseFlags) error {
	doc, err := readInput("evidence", path, evidence.MaxEvidence)
	if err != nil {
		return err
	}
	if len(f.verifiers) > quorum.MaxVerifiers || f.quorum < 1 || f.quorum > len(f.verifiers) {
		return usage("--quorum %d of %d verifiers: want 1 to as many as there are, at most %d", f.quorum, len(f.verifiers), quorum.MaxVerifiers)
	}
	now, err := parseAt(f.at)
	if err != nil {
		return err
	}
	doc, foreign, err := f.recorded(doc)
	if err != nil {
		return err
	}
	if foreign {
		return appraiseForeign(cmd, doc, now, f)
	}
	if _, err := evidence.Parse(doc); err != nil {
		return fault.New(fault.ExitParse, "evidence.parse", "give the evidence as it was served", "%w", err)
	}
	if f.jwks == "" && len(f.keys) == 0 {
		return usage("--jwks or --key is needed: a verdict is believed only under a key that you trust")
	}
	keys, err := f.pinned(cmd.Context())
	if err != nil {
		return err
	}
	out, err := quorum.Ask(cmd.Context(), doc, quorum.Options{Verifiers: f.verifiers, Keys: keys, Need: f.quorum, AllowDevelopment: f.development, Now: now})
	if out == nil {
		return err
	}
	return f.conclude(cmd, out, err)
}

// conclude writes the outcome; err says why not enough agree.
func (f *appraiseFlags) conclude(cmd *cobra.Command, o *quorum.Outcome, err error) error {
	out := cmd.OutOrStdout()
	if f.json {
		if werr := writeJSON(out, map[string]any{"accepted": err == nil, "quorum": f.quorum, "agree": len(o.Agree), "answers": o.Answers}); werr != nil {
			return werr
		}
		return reported(err)
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "accepted  %d of %d verifiers agree, %d wanted\n", len(o.Agree), len(o.Answers), f.quorum)
	for _, a := range o.Answers {
		if a.Err != nil {
			fmt.Fprintf(out, "otherwise %s: %s\n", plain(a.Verifier), plain(a.Error))
		} else {
			fmt.Fprintf(out, "key       %s %s\n", a.KeyID, plain(a.Verifier))
		}
	}
	return verdictLines(out, o.Agree[0].Claims)
}

// appraiseForeign has recorded evidence appraised by the first verifier.
func appraiseForeign(cmd *cobra.Command, doc []byte, at time.Time, f *appraiseFlags) error {
	if len(f.verifiers) != 1 {
		return usage("foreign evidence gets no verdict to compare: give one --verifier")
	}
	c, err := client.New(client.Options{BaseURL: f.verifiers[0]})
	if err != nil {
		return usage("%w", err)
	}
	r, err := c.Foreign(cmd.Context(), doc, at)
	if err != nil {
		return err
	}
	if f.json {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		fmt.Fprintln(cmd.OutOrStdout(), "foreign   recorded evidence: no verdict is given on it")
		err = writeResult(cmd.OutOrStdout(), r)
	}
	if err != nil || len(r.Failed()) == 0 {
		return err
	}
	return reported(r.Err())
}

package main

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/verifier/appraise"
	"cocoon/verifier/client"
	"cocoon/verifier/policy"
	"cocoon/verifier/result"
	"cocoon/verifier/self"
	"cocoon/verifier/wire"
)

// verifyServiceFlags are the flags of "cocoon verify service".
type verifyServiceFlags struct {
	verifyEvidenceFlags
	keyFlags
}

func newVerifyServiceCmd() *cobra.Command {
	f := &verifyServiceFlags{}
	cmd := &cobra.Command{
		Use:   "service URL --policy FILE",
		Short: "verify the evidence that a verifier shows of itself",
		Long: `Fetches what a verifier says of itself and verifies the evidence of the machine
that it runs in: that it is over all that the verifier says, its keys, policies
and log among it, and over each --key or key of --jwks; that it is of the last two
hours; that the machine's TEE signed that, is genuine, up to date, not under debug
and of a trust class that counts, as the policy and its rules want it.

It answers no challenge, and no manifest says what runs there: the registers are
shown for whoever knows what they should be.

Collateral for a TD's quote is that of --collateral, or fetched.

Exit codes: 0 no check failed; 1 usage; 2 refused by cryptography or binding, or
the verifier shows no such evidence; 3 it does not answer; 4 refused by policy
alone; 5 unparsable input.`,
		Example: `  cocoon verify service https://verifier.example --policy policy.json
  cocoon verify service https://verifier.example --policy policy.json --key 3b6a… --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runVerifyService(cmd, args[0], f) },
	}
	fs := cmd.Flags()
	fs.StringVar(&f.policy, "policy", "", "policy `file`")
	fs.StringVar(&f.jwks, "jwks", "", "want evidence over the verifier keys in this JSON Web Key Set, a `file or URL`")
	fs.StringArrayVar(&f.keys, "key", nil, "want evidence over this verifier's raw Ed25519 key, `hex`; may be repeated")
	fs.BoolVar(&f.json, "json", false, "write the result as JSON")
	_ = cmd.MarkFlagRequired("policy")
	f.collateralFlags.register(cmd)
	return cmd
}

// serviceReport is what the verb writes.
type serviceReport struct {
	Verifier string           `json:"verifier"`
	Build    string           `json:"build"`
	Keys     []wire.Key       `json:"keys"`
	Policies []wire.PolicyRef `json:"policies"`
	LogKey   string           `json:"log_key,omitempty"`
	At       string           `json:"at"`  // by the verifier's clock
	TEE      string           `json:"tee"` // "tdx" or "snp"
	Result   *result.Result   `json:"result"`
}

func runVerifyService(cmd *cobra.Command, url string, f *verifyServiceFlags) error {
	doc, err := readInput("--policy", f.policy, policy.MaxSize)
	if err != nil {
		return err
	}
	o := &appraise.Options{}
	if o.Policy, err = policy.Parse(doc); err != nil {
		return fault.New(fault.ExitParse, "policy.parse", "correct the policy", "%w", err)
	}
	if o.Now, err = f.now(); err != nil {
		return err
	}
	if o.CPUs, err = f.cpus(cmd, o.Now); err != nil {
		return err
	}
	keys, err := f.pinned(cmd.Context())
	if err != nil {
		return err
	}
	c, err := client.New(client.Options{BaseURL: url, Keys: keys, Clock: func() time.Time { return o.Now }})
	if err != nil {
		return usage("%w", err)
	}
	info, d, err := c.Own(cmd.Context())
	if err != nil {
		return err
	}
	r := appraise.AppraiseVerifier(d, nil, o)
	rep := &serviceReport{Verifier: url, Build: info.Build, Keys: info.Keys, Policies: info.Policies, LogKey: info.LogKey, At: d.Claims.At, TEE: d.CPU.Type, Result: r}
	if f.json {
		err = writeJSON(cmd.OutOrStdout(), rep)
	} else {
		err = rep.write(cmd.OutOrStdout(), d)
	}
	if err != nil || len(r.Failed()) == 0 {
		return err
	}
	return reported(r.Err())
}

// write writes the report for a person.
func (s *serviceReport) write(w io.Writer, d *self.Document) error {
	var b strings.Builder
	line := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	r := s.Result
	if len(r.Failed()) > 0 {
		lineFailed(line, r)
	} else {
		line("genuine   a %s machine, over the verifier's %d keys", s.TEE, len(d.Claims.Keys))
	}
	line("class     %s", plain(classText(r.TrustClass, r.Development, r.TestRoots)))
	line("made      %s by the verifier's clock", plain(s.At))
	for _, k := range s.Keys {
		line("key       %s %s", k.Public, plain(k.State))
	}
	for _, p := range s.Policies {
		line("policy    %s %s", p.SHA256, plain(p.Name))
	}
	if s.LogKey != "" {
		line("log       %s", plain(s.LogKey))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Measurements)) {
		line("register  %s %s", name, plain(r.Measurements[name]))
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

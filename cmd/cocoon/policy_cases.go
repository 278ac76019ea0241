package main

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"cocoon/internal/fault"
	"cocoon/measurements/digest"
	"cocoon/verifier/evidence"
	"cocoon/verifier/policy/cases"
)

// policyTestReport is what "cocoon policy test" writes.
type policyTestReport struct {
	PolicySHA256 digest.SHA256    `json:"policy_sha256"`
	Passed       int              `json:"passed"`
	Failed       int              `json:"failed"`
	Cases        []policyCaseDone `json:"cases"`
}

// policyCaseDone is what came out of one case.
type policyCaseDone struct {
	Name    string     `json:"name"`
	OK      bool       `json:"ok"`
	Want    cases.Want `json:"want"`
	Got     cases.Want `json:"got"`
	Missing []string   `json:"missing"` // codes that were wanted and did not come
	Extra   []string   `json:"extra"`   // codes that came and were not wanted
}

// policyTestFlags are the flags of "cocoon policy test".
type policyTestFlags struct {
	roots string
	json  bool
}

func newPolicyTestCmd() *cobra.Command {
	f := &policyTestFlags{}
	cmd := &cobra.Command{
		Use:   "test FILE CASES.json",
		Short: "hold a policy against pieces of evidence and what should come of each",
		Long: `Appraises the evidence of each case under the policy, offline and at the case's
own time, and compares: evidence that should be accepted, or the codes that
should refuse it, all of them and no other. docs/policy.md has the document.

Exit codes: 0 as wanted; 1 usage; 4 a case came out otherwise; 5 unparsable
input.`,
		Example: `  cocoon policy test policy.json cases.json
  cocoon policy test policy.json cases.json --json`,
		Args: cobra.ExactArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return runPolicyTest(cmd, args[0], args[1], f) },
	}
	cmd.Flags().StringVar(&f.roots, "roots", "", "trust the root certificates in this PEM `file` instead of Intel's")
	cmd.Flags().BoolVar(&f.json, "json", false, "write the result as JSON")
	return cmd
}

func runPolicyTest(cmd *cobra.Command, policyPath, casesPath string, f *policyTestFlags) error {
	p, err := readPolicy(policyPath)
	if err != nil {
		return err
	}
	doc, err := readInput("cases", casesPath, cases.MaxSize)
	if err != nil {
		return err
	}
	file, err := cases.Parse(doc)
	if err != nil {
		return fault.New(fault.ExitParse, "policy.cases", "the document is described in docs/policy.md", "%w", err)
	}
	r := &policyTestReport{Cases: []policyCaseDone{}}
	if r.PolicySHA256, err = p.Hash(); err != nil {
		return fmt.Errorf("hashing policy: %w", err)
	}
	for _, c := range file.Cases {
		done, err := f.run(cmd, policyPath, filepath.Dir(casesPath), &c)
		if err != nil {
			return fmt.Errorf("running case %q: %w", c.Name, err)
		}
		if done.OK {
			r.Passed++
		} else {
			r.Failed++
		}
		r.Cases = append(r.Cases, *done)
	}
	if f.json {
		err = writeJSON(cmd.OutOrStdout(), r)
	} else {
		err = r.write(cmd.OutOrStdout())
	}
	if err != nil || r.Failed == 0 {
		return err
	}
	return reported(fault.New(fault.ExitPolicy, "policy.test", "correct the policy or the case", "%d of %d cases came out otherwise", r.Failed, len(r.Cases)))
}

// run appraises one case.
func (f *policyTestFlags) run(cmd *cobra.Command, policyPath, dir string, c *cases.Case) (*policyCaseDone, error) {
	in := func(path string) string {
		if path == "" || filepath.IsAbs(path) {
			return path
		}
		return filepath.Join(dir, path)
	}
	v := &verifyEvidenceFlags{policy: policyPath}
	v.at, v.collateral, v.roots = c.At.Format(time.RFC3339), in(c.Collateral), f.roots
	for _, m := range c.Manifests {
		v.manifests = append(v.manifests, in(m))
	}
	doc, err := readInput("evidence", in(c.Evidence), evidence.MaxEvidence)
	if err != nil {
		return nil, err
	}
	r, err := v.appraise(cmd.Context(), cmd, doc)
	if err != nil {
		return nil, err
	}
	done := &policyCaseDone{Name: c.Name, Want: c.Want}
	for _, x := range r.Faults() {
		done.Got = append(done.Got, x.Code)
	}
	done.Missing, done.Extra = c.Want.Compare(done.Got)
	done.OK = len(done.Missing)+len(done.Extra) == 0
	return done, nil
}

func (r *policyTestReport) write(w io.Writer) error {
	var b strings.Builder
	if r.Failed == 0 {
		fmt.Fprintf(&b, "as wanted %d of %d cases\n", r.Passed, len(r.Cases))
	} else {
		fmt.Fprintf(&b, "otherwise %d of %d cases\n", r.Failed, len(r.Cases))
	}
	for _, c := range r.Cases {
		if c.OK {
			fmt.Fprintf(&b, "ok        %s\n", plain(c.Name))
			continue
		}
		fmt.Fprintf(&b, "FAIL      %s\n", plain(c.Name))
		if len(c.Want) == 0 {
			fmt.Fprintf(&b, "  wanted: accepted\n")
		}
		if len(c.Got) == 0 {
			fmt.Fprintf(&b, "  came out: accepted\n")
		}
		for _, m := range c.Missing {
			fmt.Fprintf(&b, "  wanted and did not fail: %s\n", plain(m))
		}
		for _, x := range c.Extra {
			fmt.Fprintf(&b, "  failed and was not wanted: %s\n", plain(x))
		}
	}
	if _, err := io.WriteString(w, b.String()); err != nil {
		return fmt.Errorf("writing the result: %w", err)
	}
	return nil
}

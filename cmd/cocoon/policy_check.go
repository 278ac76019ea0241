package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cocoon/measurements/digest"
	"cocoon/verifier/policy"
)

// policyReport is what "cocoon policy check" writes.
type policyReport struct {
	Valid  bool            `json:"valid"`
	SHA256 *digest.SHA256  `json:"sha256"` // the policy's identity in verdicts; null where it is not valid
	Name   string          `json:"name"`
	Faults []policyMistake `json:"faults"`
}

// policyMistake is one fault of a policy.
type policyMistake struct {
	Code    string `json:"code"`
	Message string `json:"message"`
	Remedy  string `json:"remedy"`
}

func newPolicyCheckCmd() *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check FILE",
		Short: "say whether a policy is valid, its hash, and everything that is wrong with it",
		Long: `Reads a policy strictly: unknown and duplicate keys are refused. The hash is the
SHA-256 of the document in canonical JSON, whatever its layout: verdicts and
jobs name the policy by it.

Exit codes: 0 valid; 1 usage; 5 not valid.`,
		Example: `  cocoon policy check policy.json
  cocoon policy check policy.json --json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runPolicyCheck(cmd, args[0], asJSON) },
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "write the result as JSON")
	return cmd
}

func runPolicyCheck(cmd *cobra.Command, path string, asJSON bool) error {
	doc, err := readInput("policy", path, policy.MaxSize)
	if err != nil {
		return err
	}
	p, faults := policy.Check(doc)
	r := &policyReport{Valid: len(faults) == 0, Faults: []policyMistake{}}
	if p != nil {
		r.Name = p.Name
	}
	if r.Valid {
		hash, err := p.Hash()
		if err != nil {
			return fmt.Errorf("hashing policy: %w", err)
		}
		r.SHA256 = &hash
	}
	for _, f := range faults {
		r.Faults = append(r.Faults, policyMistake{f.Code, f.Msg, f.Remedy})
		err = errors.Join(err, f)
	}
	out := cmd.OutOrStdout()
	switch {
	case asJSON:
		if werr := writeJSON(out, r); werr != nil {
			return werr
		}
		return reported(err)
	case r.Valid:
		_, err = fmt.Fprintf(out, "valid     %s (%s)\nhash      %s\n", plain(p.Name), p.Environment, r.SHA256)
	}
	return err
}

package main

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"cocoon/verifier/result"
)

// verdictVerifyFlags are the flags of "cocoon verdict verify".
type verdictVerifyFlags struct {
	keyFlags
	logged      loggedFlags
	at          string
	development bool
	json        bool
}

func newVerdictVerifyCmd() *cobra.Command {
	f := &verdictVerifyFlags{}
	cmd := &cobra.Command{
		Use:   "verify TOKEN|FILE|- (--jwks FILE|URL | --key HEX)",
		Short: "verify a verdict under the keys of verifiers that you trust",
		Long: `Verifies a verdict: signature under a pinned key, form, dates, and that every
part is affirmed. FILE has the token, or a verifier's answer as JSON with "ear"
and "checks": the checks are then verified to be this verdict's, and shown. Which keys to trust comes by another way than the verdict:
from the registry, from the verifier's operator, or from its address over TLS.

It says that this verifier accepted this evidence, not that the machine at hand
is the one: compare the TLS key or the receipt key.

With --log the verdict must be in the verifier's log: the promise of it, a note
that the log's key signed, is held against the log as it is now. The promise came
with the verdict; without --promise the verifier is asked for it. A verdict for
contracts is part of the entry, and then it has to be asked.

Exit codes: 0 verified; 1 usage; 2 refused; 3 the keys cannot be fetched; 4 of
the development class, which is not allowed; 5 not a verdict.`,
		Example: `  cocoon verdict verify verdict.jwt --jwks jwks.json
  cocoon verdict verify verdict.jwt --jwks https://verifier.example/.well-known/jwks.json --json
  cocoon verdict verify verdict.jwt --key 3b6a… --log https://verifier.example --log-key verifier.example/verdicts+…
  cocoon verdict verify - --key 3b6a… --allow-development`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error { return runVerdictVerify(cmd, args[0], f) },
	}
	f.register(cmd)
	f.logged.register(cmd)
	fs := cmd.Flags()
	fs.StringVar(&f.at, "at", "", "judge as of this `time`, RFC 3339 or Unix seconds (default now)")
	fs.BoolVar(&f.development, "allow-development", false, "accept verdicts of the development class")
	fs.BoolVar(&f.json, "json", false, "write the claims as JSON")
	return cmd
}

func runVerdictVerify(cmd *cobra.Command, arg string, f *verdictVerifyFlags) error {
	v, terr := readVerdict(cmd.InOrStdin(), arg)
	keys, kerr := f.pinned(cmd.Context())
	now, nerr := parseAt(f.at)
	if err := errors.Join(terr, kerr, nerr); err != nil {
		return err
	}
	e, err := result.VerifyEAR(v.EAR, result.EAROptions{Keys: keys, Now: now, AllowDevelopment: f.development})
	if err == nil {
		err = v.open(e)
	}
	if err != nil {
		return err
	}
	if err := f.logged.check(cmd.Context(), v.EAR, e); err != nil {
		return err
	}
	if f.json {
		return writeJSON(cmd.OutOrStdout(), e)
	}
	fmt.Fprintln(cmd.OutOrStdout(), loggedLine(&f.logged))
	return verdictLines(cmd.OutOrStdout(), e)
}

package tpm_test

import (
	"testing"

	"cocoon/verifier/resulttest"
	"cocoon/verifier/tpm"
)

// verified is tpm.Verify, whose failed checks have to be complete.
func verified(t testing.TB, ev *tpm.Evidence, o *tpm.Options) *tpm.Result {
	t.Helper()
	r := tpm.Verify(ev, o)
	resulttest.CompleteChecks(t, r.Checks)
	return r
}

package azure_test

import (
	"testing"

	"cocoon/verifier/azure"
	"cocoon/verifier/resulttest"
)

// verified is azure.Verify, whose failed checks and faults have to be complete.
func verified(t testing.TB, in *azure.Evidence, o *azure.Options) (*azure.Result, error) {
	t.Helper()
	res, err := azure.Verify(in, o)
	if res != nil {
		resulttest.CompleteChecks(t, res.Checks)
	}
	return res, resulttest.Faults(t, err)
}

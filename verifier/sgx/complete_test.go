package sgx_test

import (
	"testing"

	"cocoon/verifier/resulttest"
	"cocoon/verifier/sgx"
)

// verified is sgx.Verify, whose failed checks and faults have to be complete.
func verified(t testing.TB, in []byte, o *sgx.Options) (*sgx.Result, error) {
	t.Helper()
	res, err := sgx.Verify(in, o)
	if res != nil {
		resulttest.CompleteChecks(t, res.Checks)
	}
	return res, resulttest.Faults(t, err)
}

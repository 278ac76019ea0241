package snp_test

import (
	"testing"

	"cocoon/verifier/resulttest"
	"cocoon/verifier/snp"
)

// verified is snp.Verify, whose failed checks and faults have to be complete.
func verified(t testing.TB, in []byte, o *snp.Options) (*snp.Result, error) {
	t.Helper()
	res, err := snp.Verify(in, o)
	if res != nil {
		resulttest.CompleteChecks(t, res.Checks)
	}
	return res, resulttest.Faults(t, err)
}

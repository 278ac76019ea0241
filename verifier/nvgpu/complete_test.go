package nvgpu_test

import (
	"testing"

	"cocoon/verifier/nvgpu"
	"cocoon/verifier/resulttest"
)

// verified is nvgpu.Verify, whose failed checks have to be complete.
func verified(t testing.TB, items []nvgpu.Item, o *nvgpu.Options) *nvgpu.Machine {
	t.Helper()
	m := nvgpu.Verify(items, o)
	resulttest.CompleteChecks(t, m.Checks())
	return m
}

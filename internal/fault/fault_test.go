package fault_test

import (
	"errors"
	"testing"

	"cocoon/internal/fault"
)

// TestAFaultSaysWhatItsCauseSaysOnce holds messages against values that come
// from the cause, and from elsewhere.
func TestAFaultSaysWhatItsCauseSaysOnce(t *testing.T) {
	cause := errors.New("3 bytes")
	for name, c := range map[string]struct {
		f               *fault.Fault
		actual, printed string
	}{
		"no values":           {fault.New(fault.ExitParse, "a.parse", "", "reading a: %w", cause), "", "reading a: 3 bytes [a.parse]"},
		"what the cause says": {fault.New(fault.ExitParse, "a.parse", "", "reading a: %w", cause).Expect("four"), "3 bytes", "reading a: 3 bytes (expected four) [a.parse]"},
		"two causes": {fault.New(fault.ExitParse, "a.parse", "", "reading a: %w", errors.Join(cause, cause)).Expect("four"), "3 bytes; 3 bytes",
			"reading a: 3 bytes\n3 bytes (expected four, actual 3 bytes; 3 bytes) [a.parse]"},
		"a value of its own": {fault.New(fault.ExitParse, "a.parse", "", "reading a: %w", cause).Found("three").Expect("four"), "three", "reading a: 3 bytes (expected four, actual three) [a.parse]"},
		"no cause":           {fault.New(fault.ExitParse, "a.missing", "", "there is none").Expect("one").Found("none"), "none", "there is none (expected one, actual none) [a.missing]"},
	} {
		if c.f.Actual != c.actual || c.f.Error() != c.printed {
			t.Errorf("%s: actual %q, printed %q", name, c.f.Actual, c.f.Error())
		}
	}
}

// Package fault gives every refusal and failure a stable code, the exit code
// that goes with it, and a remedy.
//
// A code is lower-case dotted text such as "tdx.tcb.out_of_date"; it never
// changes once released. Callers wrap with fmt.Errorf("...: %w", err) as
// usual; Print and ExitCode find the faults in the tree of errors, also
// through errors.Join.
package fault

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Exit codes of every command (DESIGN section 8). They are a contract.
const (
	ExitOK       = 0 // done
	ExitInternal = 1 // usage or internal
	ExitRefused  = 2 // evidence refused: cryptography, binding, Revoked, NotSupported
	ExitNetwork  = 3 // network
	ExitPolicy   = 4 // refused by policy alone
	ExitParse    = 5 // unparsable input
	ExitNotReady = 6 // machine not ready
	ExitDevOnly  = 7 // ready for development only
)

// Fault is an error with a stable code and a remedy.
type Fault struct {
	Code     string // stable dotted code
	Exit     int    // process exit code
	Msg      string // what was attempted and what happened
	Expected string // what was expected, or empty
	Actual   string // what was found, or empty
	Remedy   string // what the reader can do, or empty
	Err      error  // cause, or nil
}

// New returns a Fault with a formatted message; %w in format sets the cause.
func New(exit int, code, remedy, format string, args ...any) *Fault {
	err := fmt.Errorf(format, args...)
	return &Fault{Code: code, Exit: exit, Msg: err.Error(), Remedy: remedy, Err: errors.Unwrap(err)}
}

// Mismatch returns a Fault that shows an expected and an actual value.
func Mismatch(exit int, code, what, expected, actual, remedy string) *Fault {
	return &Fault{Code: code, Exit: exit, Msg: what + " differs", Expected: expected, Actual: actual, Remedy: remedy}
}

// Expect sets what would have passed. What was found instead is what the cause
// says, where it is not set yet.
func (f *Fault) Expect(expected string) *Fault {
	if f.Expected = expected; f.Actual == "" && f.Err != nil {
		f.Actual = strings.ReplaceAll(f.Err.Error(), "\n", "; ")
	}
	return f
}

// Found sets what was found.
func (f *Fault) Found(actual string) *Fault {
	f.Actual = actual
	return f
}

// Error returns the message, with the values where they exist and it does not say
// them itself.
func (f *Fault) Error() string {
	s := f.Msg
	switch {
	case f.Err != nil && f.Actual != "" && strings.HasSuffix(s, f.Actual):
		s += fmt.Sprintf(" (expected %s)", f.Expected)
	case f.Expected != "" || f.Actual != "":
		s += fmt.Sprintf(" (expected %s, actual %s)", f.Expected, f.Actual)
	}
	return s + " [" + f.Code + "]"
}

// Unwrap returns the cause.
func (f *Fault) Unwrap() error { return f.Err }

// All returns every Fault in err's tree, outermost first; a fault's own cause
// is not searched further.
func All(err error) []*Fault {
	switch e := err.(type) {
	case nil:
		return nil
	case *Fault:
		return []*Fault{e}
	case interface{ Unwrap() []error }:
		var fs []*Fault
		for _, sub := range e.Unwrap() {
			fs = append(fs, All(sub)...)
		}
		return fs
	default:
		return All(errors.Unwrap(err))
	}
}

// Has reports whether err's tree carries a fault with this code.
func Has(err error, code string) bool {
	for _, f := range All(err) {
		if f.Code == code {
			return true
		}
	}
	return false
}

// precedence orders exit codes when several faults meet: unparsable input
// hides the rest, then the network, then refusals, then policy.
var precedence = []int{ExitParse, ExitNetwork, ExitRefused, ExitPolicy, ExitNotReady, ExitDevOnly}

// ExitCode returns the exit code for err: 0 for nil, the weightiest of its
// faults (5 > 3 > 2 > 4 > 6 > 7), 1 where it carries none.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	fs := All(err)
	for _, code := range precedence {
		for _, f := range fs {
			if f.Exit == code {
				return code
			}
		}
	}
	return ExitInternal
}

// Print writes err for a person: one line an error, then a hint line where
// there is a remedy.
func Print(w io.Writer, err error) {
	fs := All(err)
	if len(fs) <= 1 {
		fmt.Fprintf(w, "cocoon: %v\n", err)
		if len(fs) == 1 && fs[0].Remedy != "" {
			fmt.Fprintf(w, "  hint: %s\n", fs[0].Remedy)
		}
		return
	}
	fmt.Fprintf(w, "cocoon: %d failures:\n", len(fs))
	for _, f := range fs {
		fmt.Fprintf(w, "  - %v\n", f)
		if f.Remedy != "" {
			fmt.Fprintf(w, "    hint: %s\n", f.Remedy)
		}
	}
}

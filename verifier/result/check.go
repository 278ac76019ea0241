// Package result holds the values in which the verifier reports: checks, and
// what is put together from them.
package result

// Outcomes of a check.
const (
	Pass = "pass" // looked at and found good
	Fail = "fail" // looked at and found bad: the evidence is refused
	Skip = "skip" // not looked at; Reason says why
)

// Check is one thing that the verifier looked at. Its ID is stable dotted
// text such as "tdx.quote.signature"; a failed check's fault has the ID, or
// for TCB statuses a code under it, as its code.
type Check struct {
	ID       string `json:"id"`
	Status   string `json:"status"`             // Pass, Fail or Skip
	Expected string `json:"expected,omitempty"` // what would have passed
	Actual   string `json:"actual,omitempty"`   // what was found
	Reason   string `json:"reason,omitempty"`   // why it failed or was skipped
	Remedy   string `json:"remedy,omitempty"`   // what the reader can do
	// Document and Section name what the check follows: see Cite.
	Document string `json:"document,omitempty"`
	Section  string `json:"section,omitempty"`
}

package pcs

import "time"

// entry is a part with the times that decide when it is asked for again.
// Issue and Next are hints: what is returned is always judged by
// collateral.Verify, so a wrong hint costs a request and never trust.
type entry struct {
	part
	Fetched time.Time `json:"fetched"`
	Issue   time.Time `json:"issue"`
	Next    time.Time `json:"next"`

	common bool // it is the shared store's, not the service's
}

// covers reports whether the entry's own times include now.
func (e *entry) covers(now time.Time) bool {
	return !now.Before(e.Issue) && !now.After(e.Next)
}

// diskLimit bounds a part's file: base64 in JSON is a third longer than what
// it holds.
func (ref partRef) diskLimit() int { return 2*ref.kind.limit() + 2*maxHeader }

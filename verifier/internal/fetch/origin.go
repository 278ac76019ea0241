package fetch

import "cocoon/internal/fault"

// Origin says where what a client returned came from.
type Origin struct {
	Held    bool  // it was held and is still valid; the service was not waited for
	Refresh error // why asking for it again failed the last time; nil: it did not
}

// String is the origin for people: "fetched", "held", or "held: the service
// does not answer (code)".
func (o Origin) String() string {
	switch {
	case o.Refresh != nil:
		code := "unknown"
		if all := fault.All(o.Refresh); len(all) > 0 {
			code = all[0].Code
		}
		return "held, because the service does not answer as it should: " + code
	case o.Held:
		return "held"
	}
	return "fetched"
}

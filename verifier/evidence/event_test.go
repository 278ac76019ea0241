package evidence

import (
	"bytes"
	"testing"

	"cocoon/internal/jcs"
)

// TestRuntimeEventsAreCanonicalJSON holds the encoder against package jcs.
func TestRuntimeEventsAreCanonicalJSON(t *testing.T) {
	for _, s := range []string{"", "latch", `"quoted" \`, "line\nfeed\x00", "é € 𝄞", "<&>", "\u2028", "\xff\xfe"} {
		for _, e := range []RuntimeEvent{{s, "value"}, {"event", s}, {s, s}} {
			want, werr := jcs.Marshal(e)
			got, err := e.Bytes()
			if (err == nil) != (werr == nil) || !bytes.Equal(got, want) {
				t.Errorf("%+v: %q, %v, want %q, %v", e, got, err, want, werr)
			}
		}
	}
}

package boottest

import (
	"regexp"
	"strings"
	"testing"
)

// TestAMachineThatIsAYearBackSaysSo: the clock is the host's, which can be years
// off with a dead battery. The guest looks before it does anything with it, and
// ends by itself. A clock that is ahead looks sane; the verifier's and the
// chain's time find it (packages attest and ledger).
func TestAMachineThatIsAYearBackSaysSo(t *testing.T) {
	m, _ := setup(t)
	m.clock = "2025-11-26T12:00:00"
	console := m.boot(t, "never shown")
	for _, want := range []string{`boot\.clock`, `2025-11-26T12:\d\d:\d\dZ`, `set the host's clock`} {
		if !regexp.MustCompile(want).MatchString(console) {
			t.Errorf("console lacks %q", want)
		}
	}
	if strings.Contains(console, "network") {
		t.Error("the boot went on")
	}
	if t.Failed() {
		t.Logf("console:\n%s", console)
	}
}

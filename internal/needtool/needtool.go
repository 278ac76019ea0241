// Package needtool finds the host's programs that tests run and that the
// repository does not build. "make deps" installs them.
package needtool

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// EnvRequired makes the absence of such a program a failure, as in CI.
const EnvRequired = "COCOON_HOST_TOOLS_REQUIRED"

// Find returns the path of the first of these programs, which are as good as
// each other, that is there. Where none is the test is skipped, or fails if
// EnvRequired is set.
func Find(t testing.TB, names ...string) string {
	t.Helper()
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	Missing(t, strings.Join(names, " or "))
	return ""
}

// Missing ends a test because what it needs is not there.
func Missing(t testing.TB, what string) {
	t.Helper()
	if os.Getenv(EnvRequired) != "" {
		t.Fatalf("there is no %s here, and it is required: make deps installs it", what)
	}
	t.Skipf("there is no %s here: make deps installs it", what)
}

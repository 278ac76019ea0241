// Package vectors finds the real quotes, reports and collateral that tests
// use and the repository does not hold.
package vectors

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Dir returns the directory of the test vectors: $COCOON_VECTORS, or
// shared/vectors beside the repository. Where neither exists the test is
// skipped, or fails if COCOON_VECTORS_REQUIRED is set.
func Dir(t testing.TB) string {
	t.Helper()
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		_, self, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(self), "..", "..", "..", "shared", "vectors")
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err == nil {
		return dir
	}
	if os.Getenv("COCOON_VECTORS_REQUIRED") != "" {
		t.Fatalf("test vectors are required and absent: no index.json in %s", dir)
	}
	t.Skip("test vectors are absent: set COCOON_VECTORS to their directory")
	return ""
}

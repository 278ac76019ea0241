// Package vectors finds the real quotes, reports and collateral that tests
// use and the repository does not hold.
package vectors

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// Find returns the directory of the test vectors: $COCOON_VECTORS, or
// shared/vectors beside the repository; empty where neither has an index.
func Find() string {
	dir := os.Getenv("COCOON_VECTORS")
	if dir == "" {
		_, self, _, _ := runtime.Caller(0)
		dir = filepath.Join(filepath.Dir(self), "..", "..", "..", "shared", "vectors")
	}
	if _, err := os.Stat(filepath.Join(dir, "index.json")); err != nil {
		return ""
	}
	return dir
}

// Dir is Find for tests: where the vectors are absent the test is skipped, or
// fails if COCOON_VECTORS_REQUIRED is set.
func Dir(t testing.TB) string {
	t.Helper()
	if dir := Find(); dir != "" {
		return dir
	}
	if os.Getenv("COCOON_VECTORS_REQUIRED") != "" {
		t.Fatal("test vectors are required and absent: set COCOON_VECTORS to their directory")
	}
	t.Skip("test vectors are absent: set COCOON_VECTORS to their directory")
	return ""
}

package main

import (
	"os"
	"path/filepath"

	"cocoon/internal/fault"
	"cocoon/verifier/testfleet"
)

// writeFiles writes what a verifier is configured with to accept the fleet.
func writeFiles(dir string, fleet *testfleet.Fleet) error {
	files, err := fleet.Files()
	if err != nil {
		return err
	}
	for name, b := range files {
		path := filepath.Join(dir, name)
		err := os.MkdirAll(filepath.Dir(path), 0o755)
		if err == nil {
			err = os.WriteFile(path, b, 0o644)
		}
		if err != nil {
			return fault.New(fault.ExitInternal, "file.unwritable", "check the path", "writing files: %w", err)
		}
	}
	return nil
}

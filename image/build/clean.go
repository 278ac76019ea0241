package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"cocoon/internal/fault"
)

// clean removes everything that make has made in the clone. Nothing can be
// mounted there, because all mounts of a build end with its namespaces; that
// is checked, for a recursive removal below a mount would be a disaster.
func (b *builder) clean(context.Context) error {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return fmt.Errorf("reading the mount table: %w", err)
	}
	for _, line := range strings.Split(string(mounts), "\n") {
		f := strings.Fields(line)
		if len(f) > 4 && (f[4] == b.out || strings.HasPrefix(f[4], b.out+"/")) {
			return fault.New(fault.ExitNotReady, "build.mounted", "run: sudo umount "+f[4], "removing %s: %s is mounted", b.out, f[4])
		}
	}
	for _, dir := range []string{b.out, filepath.Join(b.root, "contracts", "node_modules")} {
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("removing %s: %w", dir, err)
		}
	}
	return nil
}

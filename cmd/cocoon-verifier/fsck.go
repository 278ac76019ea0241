package main

import (
	"encoding/json"
	"fmt"
	"io"

	"cocoon/internal/fault"
	"cocoon/verifier/journal"
)

// fsck reads the whole journal of verdicts, beside a running service too, and
// writes what it found as JSON. A journal that is damaged exits 2.
func fsck(args []string, stdout io.Writer) error {
	if len(args) != 1 {
		return fault.New(fault.ExitInternal, "usage", "give the journal's directory", "checking journal: %d arguments, want 1", len(args))
	}
	rep, err := journal.Fsck(args[0])
	if err != nil {
		return fault.New(fault.ExitInternal, "verifier.journal", "give the directory that the config names", "%w", err)
	}
	enc := json.NewEncoder(stdout)
	enc.SetIndent("", "  ")
	if err := enc.Encode(rep); err != nil {
		return fmt.Errorf("writing report: %w", err)
	}
	if err := rep.Err(); err != nil {
		return fault.New(fault.ExitRefused, "verifier.journal.damaged", "keep it as it is: its checkpoints show what was changed; begin another", "%w", err)
	}
	return nil
}
